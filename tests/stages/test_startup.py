"""What a workflow finds when it starts: locks of dead runs, parts that nobody needs, other runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from statetx.core import locks
from statetx.stages import startup

LOCKS = (".snakemake/locks/0.input.lock", ".snakemake/locks/0.output.lock")


@pytest.fixture
def begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Start a workflow in a temporary directory, without touching the signals of this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(startup, "_listen", lambda: None)

    def run(main: bool = True, dry: bool = False) -> None:
        monkeypatch.setattr(startup, "_begun", False)
        startup.begin(["demo"], main, dry)

    return run


def lock() -> None:
    for name in LOCKS:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("results/demo/pack/manifest.json\n")


def locked() -> bool:
    return any(Path(name).exists() for name in LOCKS)


def other(name: str, **changes: Any) -> Path:
    """Make the entry of another process."""
    path = startup.RUNNING / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**locks.me(), **changes}))
    return path


DEAD = {"pid": 4_000_000, "started": 1.0, "command": "snakemake --cores all"}


def test_the_lock_of_a_dead_run_is_removed_with_one_line(
    begin: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    lock()
    entry = other("dead", **DEAD)
    begin()
    (line,) = capsys.readouterr().err.splitlines()
    assert "a run was killed (process 4000000" in line
    assert "snakemake --cores all" in line
    assert not locked()
    assert not entry.exists()


@pytest.mark.parametrize("host", [None, "elsewhere"])
def test_the_lock_of_a_run_that_may_live_stays(
    begin: Callable[..., None], capsys: pytest.CaptureFixture[str], host: str | None
) -> None:
    lock()
    other("dead", **DEAD)
    living = subprocess.Popen(["sleep", "100"])
    found = {"pid": living.pid, "started": locks.started(living.pid)}
    if host is not None:
        found["host"] = host
    other("living", **found)
    begin()
    living.kill()
    living.wait()
    (line,) = capsys.readouterr().err.splitlines()
    assert f"process {living.pid} on " in line
    assert "snakemake --unlock" in line
    assert locked()
    if host is None:
        begin()
        assert not locked()


def test_a_lock_that_nobody_has_an_entry_for_stays(
    begin: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    lock()
    begin()
    (line,) = capsys.readouterr().err.splitlines()
    assert "snakemake --unlock" in line
    assert locked()


def test_a_dry_run_and_a_job_remove_nothing(begin: Callable[..., None]) -> None:
    lock()
    other("dead", **DEAD)
    begin(dry=True)
    begin(main=False)
    assert locked()


def test_damaged_entries_are_nobody(begin: Callable[..., None]) -> None:
    lock()
    for name, text in (
        ("a", "{"),
        ("b", "[]"),
        ("c", '"x"'),
        ("e", '{"pid": "x"}'),
        ("d", "\udcff"),
    ):
        other(name).write_bytes(text.encode("utf-8", "surrogateescape"))
    begin()
    assert locked()


def test_an_entry_goes_with_its_process(tmp_path: Path) -> None:
    code = (
        "from statetx.stages import startup\nstartup.begin(['demo'], True, False)\n"
        "print(len(list(startup.RUNNING.iterdir())))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"
    assert list((tmp_path / startup.RUNNING).iterdir()) == []


@pytest.mark.parametrize("place", ["results/demo/pack/parts", ".state/pack/demo"])
@pytest.mark.parametrize("finished", [True, False])
def test_parts_of_a_finished_store_are_swept(
    begin: Callable[..., None], place: str, finished: bool
) -> None:
    parts, manifest = Path(place), Path("results/demo/pack/manifest.json")
    (parts / "0000").mkdir(parents=True)
    (parts / "0000" / "cells.bin").write_text("x")
    (parts / "survey.json").write_text("{}")
    (parts / "thesis.txt").write_text("precious")
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text("{}")
    now = time.time()
    os.utime(manifest, (now, now + 10 if finished else now - 10))
    with locks.held(locks.beside(manifest.parent), "the store"):
        begin()
        assert (parts / "0000" / "cells.bin").exists(), "somebody packs"
    begin()
    assert (parts / "0000").exists() is (parts / "survey.json").exists() is (not finished)
    assert (parts / "thesis.txt").read_text() == "precious"
