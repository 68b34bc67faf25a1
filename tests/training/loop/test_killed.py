"""kill -9 at any moment costs the steps since the last saved one, and nothing else."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import killed
import numpy as np
import pytest
from safetensors.numpy import load_file


def _curve(out: Path) -> list[dict[str, str]]:
    """Rows of the curve, without what depends on the clock."""
    rows = csv.DictReader((out / "metrics.csv").read_text().splitlines())
    return [{k: v for k, v in row.items() if "second" not in k and k != "waiting"} for row in rows]


@pytest.mark.slow(reason="twelve trainings in forks of one process: about 15 s")
def test_ten_kills_leave_the_weights_of_an_undisturbed_training(
    tiny_store: Path, tiny_plan: Path, tmp_path: Path
) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    done = subprocess.run(
        [sys.executable, killed.__file__, str(tiny_store), str(tiny_plan), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert told["ends"] == [0, *[-9] * killed.KILLS, 0], done.stderr
    assert {place for place, _ in told["traps"]} == set(killed.PLACES)
    whole, part = (tmp_path / name / "model" for name in ("whole", "part"))
    for name in killed.KEEP:
        one, two = (load_file(out / f"{name}.safetensors") for out in (whole, part))
        assert one.keys() == two.keys()
        assert all(np.array_equal(one[key], two[key]) for key in one), name
    assert _curve(whole) == _curve(part)
    chosen = [json.loads((out / "model.json").read_text())["checkpoints"] for out in (whole, part)]
    assert chosen[0] == chosen[1]
    # Nothing half-written is left, neither here nor in $TMPDIR.
    for name in ("whole", "part"):
        assert {path.name for path in (tmp_path / name).iterdir()} == {"model", "checkpoints"}
        files = {path.name for path in (tmp_path / name / "checkpoints").iterdir()}
        steps = range(killed.EVERY, killed.STEPS + 1, killed.EVERY)
        assert files == {f"step={step}.safetensors" for step in steps}
    assert told["temporary"] == []
