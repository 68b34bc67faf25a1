"""Who holds a lock, and who has left one behind."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from statetx.config import load
from statetx.core import locks
from statetx.core.errors import ResultsError
from statetx.core.locks import beside, held, holder, is_dead, me
from statetx.data.pack import pack
from statetx.maintenance.prune import prune
from statetx.stages import jobs, paths

HOLDS = """
import sys, time
from pathlib import Path
from statetx.core.locks import held
with held(Path(sys.argv[1]), "the run x"):
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    return beside(tmp_path / "run")


def test_the_second_is_told_who_is_first_and_the_file_goes(lock: Path) -> None:
    with held(lock, "the run x"):
        again = held(lock, "the run x")
        with pytest.raises(ResultsError, match="another process works on the run x") as caught:
            again.__enter__()
        assert f"process {os.getpid()} on " in str(caught.value)
        assert "since 20" in str(caught.value)
        assert "wait until it has ended" in str(caught.value)
        assert holder(lock) is not None
    assert holder(lock) is None
    assert not lock.exists()
    with held(lock, "the run x"):
        pass


def test_the_lock_of_a_killed_process_is_free(lock: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", HOLDS, str(lock)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    with pytest.raises(ResultsError, match=f"process {child.pid} "), held(lock, "the run x"):
        pass
    child.kill()
    child.communicate()
    assert lock.exists()
    with held(lock, "the run x"):
        pass
    assert not lock.exists()


def test_several_share_a_lock_but_not_with_one_that_wants_it_alone(lock: Path) -> None:
    with held(lock, "x", shared=True):
        with held(lock, "x", shared=True), pytest.raises(ResultsError), held(lock, "x"):
            pass
        assert lock.exists()
        with pytest.raises(ResultsError), held(lock, "x"):
            pass
    assert not lock.exists()
    with held(lock, "x"), pytest.raises(ResultsError), held(lock, "x", shared=True):
        pass


def test_a_lock_that_is_no_plain_file_is_an_error(lock: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    lock.symlink_to("precious")
    with pytest.raises(ResultsError, match="cannot lock the run x"), held(lock, "the run x"):
        pass
    assert (tmp_path / "precious").read_text() == "x"


def test_file_systems_without_locks(lock: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    with held(lock, "x"):
        with pytest.raises(ResultsError, match="another process") as caught, held(lock, "x"):
            pass
        assert f"remove {lock}" in str(caught.value)
        ended: dict[str, Any] = {**me(), "pid": 4_000_000, "started": 1.0}
        monkeypatch.setattr(locks, "me", lambda: ended)
    with held(lock, "x"), held(lock, "x"):
        pass  # the named process is dead


def test_who_is_dead() -> None:
    own = me()
    assert not is_dead(own)
    assert is_dead({**own, "started": own["started"] - 100})  # the number has been given away
    assert is_dead({**own, "pid": 4_000_000})
    assert not is_dead({**own, "pid": 4_000_000, "host": "elsewhere"})
    assert not is_dead({**own, "pid": 4_000_000, "namespace": "pid:[1]"})


def test_packing_pruning_and_training_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_settings: Any, tiny_source: Path
) -> None:
    cfg = load("config/config.yaml")
    monkeypatch.chdir(tmp_path)
    run = paths.run_dir("demo", "dc20", "no_change", 0)
    files = sorted(tiny_source.glob("L0*.h5ad"))
    run.mkdir(parents=True)
    with held(beside(run), "the run"), pytest.raises(ResultsError, match="works on the run"):
        prune(run, ["best"], delete=True)
    with held(beside(run), "the run"), pytest.raises(ResultsError, match="works on the run"):
        jobs.train(cfg, "demo", "dc20", "no_change", 0)
    with jobs.packing(tmp_path / "pack"), pytest.raises(ResultsError, match="works on the store"):
        pack.pack(files, tiny_settings, "tiny", tmp_path / "pack")
    with held(beside(tmp_path / "pack"), "x"), pytest.raises(ResultsError, match="the store"):
        pack.pack(files, tiny_settings, "tiny", tmp_path / "pack")
    pack.pack(files, tiny_settings, "tiny", tmp_path / "pack")
    assert {path.name for path in tmp_path.iterdir()} == {"pack", "results"}


def test_without_locks_of_the_file_system_shared_joins_shared(tmp_path, monkeypatch):
    """Lustre without ``-o flock``: jobs that pack one store together do not refuse each other."""
    import errno
    import fcntl

    def none(*_):
        raise OSError(errno.ENOSYS, "no locks here")

    monkeypatch.setattr(fcntl, "flock", none)
    lock = locks.beside(tmp_path / "store")
    alone = pytest.raises(ResultsError, match="another process works on the store")
    with (
        locks.held(lock, "the store", shared=True),
        locks.held(lock, "the store", shared=True),
        alone,
        locks.held(lock, "the store"),
    ):
        pass
