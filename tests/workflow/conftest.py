"""One finished road for all modules and workers."""

from __future__ import annotations

import fcntl
import os
import shutil
from pathlib import Path

import pytest
from road import copy_project, snakemake


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Project in which the tiny configuration ran: about 70 s of processor time, so made once.

    Several workers copy it at the same time: nothing may run or change anything in it.
    """
    own = tmp_path_factory.getbasetemp()
    place = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    home = place / "finished"
    with open(place / "finished.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.exists():
            made = copy_project(tmp_path_factory.mktemp("unfinished"))
            snakemake(made)
            made.rename(home)
    return home


@pytest.fixture
def road(finished: Path, tmp_path: Path) -> Path:
    """A finished road that a test may change; modification times are kept."""
    return Path(shutil.copytree(finished, tmp_path / "clone", symlinks=True))
