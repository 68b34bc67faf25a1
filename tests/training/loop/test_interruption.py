"""A signal is not a success, and what was learnt until then is not lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import small_model
from safetensors.numpy import load_file

SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {here!r})
from small_model import small
from statetx.stages.jobs import job
from statetx.training.fit import fit
out = Path({out!r})
settings = small(max_steps={steps}, ckpt_every_n_steps={steps}, val_freq=10)
with job():
    fit({store!r}, {plan!r}, settings, 0, out / "model", out / "state", out / "checkpoints")
"""


@pytest.mark.slow(reason="a process each that imports torch and lightning: about 10 s")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_exits_non_zero_and_saves_the_state(
    tiny_store: Path, tiny_plan: Path, tmp_path: Path, number: signal.Signals
) -> None:
    def script(steps: int) -> str:
        return SCRIPT.format(
            here=str(Path(small_model.__file__).parent),
            out=str(tmp_path / "run"),
            store=str(tiny_store),
            plan=str(tiny_plan),
            steps=steps,
        )

    # SLURM_* as inside srun: Lightning must not try to requeue the job itself.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SLURM_JOB_ID": "1", "SLURM_NTASKS": "1"}
    child = subprocess.Popen(
        [sys.executable, "-c", script(1_000_000)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    state = tmp_path / "run" / "state"
    end = time.monotonic() + 100
    while not state.exists() and child.poll() is None and time.monotonic() < end:
        time.sleep(0.2)
    time.sleep(2.0)
    child.send_signal(number)
    begin = time.monotonic()
    _, error = child.communicate(timeout=60)
    assert time.monotonic() - begin < 5
    assert child.returncode == 128 + number
    (line,) = [line for line in error.splitlines() if "stopped by" in line]
    assert f"stopped by {number.name} after step" in line
    assert "run the same command again" in line
    assert "Traceback" not in error
    assert (state / "last.ckpt").is_file()
    assert not (tmp_path / "run" / "model").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    best = list(state.glob("best-*.safetensors"))
    assert len(best) == 1
    assert load_file(best[0])
