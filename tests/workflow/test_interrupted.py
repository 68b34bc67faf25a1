"""A workflow that is stopped or killed while it trains: it ends soon, and goes on by itself."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from road import edit, snakemake

TINY = "config/test/tiny.yaml"
LOG = Path("logs/tiny/block/small/seed0/train.log")
LONG = "max_steps: 100000, batch_size: 4, lr: 1.0e-3, val_freq: 1000, ckpt_every_n_steps: 100000"
SHORT = "max_steps: 6, batch_size: 4, lr: 1.0e-3, val_freq: 3, ckpt_every_n_steps: 2"


def wait_for(there: Callable[[], bool], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def start(home: Path) -> subprocess.Popen[bytes]:
    """Start the workflow in a session of its own; return when its training has taken a step."""
    (home / LOG).unlink(missing_ok=True)
    child = subprocess.Popen(
        [sys.executable, "-m", "snakemake", "--configfile", TINY, "--cores", "2"],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(home / "src"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for(lambda: child.poll() is not None or "first step" in told(home))
    assert child.poll() is None, told(home)
    return child


def told(home: Path) -> str:
    return (home / LOG).read_text() if (home / LOG).exists() else ""


@pytest.mark.slow(reason="three starts of snakemake, each with a training: about 40 s")
def test_a_signal_to_snakemake_alone_and_a_kill(road: Path) -> None:
    edit(road / TINY, SHORT, LONG)
    shutil.rmtree(road / "results/tiny/block/small")
    child = start(road)
    child.send_signal(signal.SIGINT)
    assert child.wait(10) == 130
    assert "stopped by SIGINT after step" in told(road)
    assert not list((road / ".snakemake" / "locks").glob("*.lock"))
    (state,) = (road / ".state" / "train").iterdir()
    assert (state / "last.ckpt").is_file()

    child = start(road)
    assert "resuming from" in told(road)
    child.kill()
    child.wait()
    wait_for(lambda: "stopped by SIGTERM after step" in told(road), 10)
    assert list((road / ".snakemake" / "locks").glob("*.lock"))

    edit(road / TINY, LONG, SHORT)
    parts = road / "results/tiny/pack/parts/0000"
    parts.mkdir(parents=True)
    os.utime(parts, (0, 0))
    text = snakemake(road)
    assert "a run was killed (process" in text
    assert not parts.exists()
    assert list((road / ".state" / "train").iterdir()) == [], "the other training is abandoned"
    assert list((road / ".state" / "workflow").iterdir()) == []
    assert (road / "results/tiny/block/small/seed0/model/model.json").is_file()
