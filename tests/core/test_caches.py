"""The package in a read-only directory, of a user whose home directory cannot be written to."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from statetx.core import caches

USES = """
import os, sys
import numpy as np
from statetx.data.store import kernels
from statetx.data.pack import kernels as pack_kernels
from statetx.evaluation.numerics import rank_kernels as tests, pair_kernels
import matplotlib
out = np.empty(2, np.uint16), np.empty(2, np.uint8)
row = np.array([1, 2], np.int32), np.array([3, 4], np.uint8)
pack_kernels.take_rows(np.zeros(1, np.int64), np.full(1, 2), *row, np.zeros(1, np.int64), *out)
assert out[1].tolist() == [3, 4]
print(os.environ["NUMBA_CACHE_DIR"], matplotlib.get_configdir(), sys.stdout.encoding)
"""


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A copy of the package, and a home directory, that cannot be written to."""
    package = tmp_path / "site" / "statetx"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(caches.__file__).parents[1], package, ignore=ignored)
    (tmp_path / "home").mkdir()
    places = [path for path in (*package.rglob("*"), package, tmp_path / "home") if path.is_dir()]
    for path in places:
        path.chmod(0o555)
    yield tmp_path
    for path in places:
        path.chmod(0o755)


def test_compiled_loops_are_loaded_and_pictures_drawn(read_only: Path) -> None:
    bound = []
    if os.geteuid() == 0:  # root may write everywhere, unless it gives that up
        if shutil.which("setpriv") is None:
            pytest.skip("root without setpriv may write everywhere")
        given_up = "-dac_override,-dac_read_search"
        bound = ["setpriv", f"--bounding-set={given_up}", f"--inh-caps={given_up}"]
    (read_only / "tmp").mkdir()
    (read_only / "work").mkdir()
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(read_only / "home"),
        "PYTHONPATH": str(read_only / "site"),
        "TMPDIR": str(read_only / "tmp"),
    }
    for changes in ({}, {"TMPDIR": str(read_only / "missing"), "LC_ALL": "C"}):
        done = subprocess.run(
            [*bound, sys.executable, "-c", USES],
            cwd=read_only / "work",
            env=environment | changes,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert not done.stderr, "matplotlib does not complain either"
        numba, matplotlib, encoding = done.stdout.split()
        assert numba.endswith(f"statetx-{os.getuid()}/numba")
        assert matplotlib.endswith(f"statetx-{os.getuid()}/matplotlib")
        assert encoding == "utf-8"
        if not changes:
            assert list((read_only / "tmp").rglob("*.nbi")), "compiled once"


def test_where_it_can_be_written_nothing_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("NUMBA_CACHE_DIR", "MPLCONFIGDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    caches.settle()
    assert "NUMBA_CACHE_DIR" not in os.environ
    assert "MPLCONFIGDIR" not in os.environ


@pytest.mark.parametrize("kind", ["open to all", "link", "file", "none"])
def test_code_is_never_loaded_from_a_place_that_others_can_write_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    place = tmp_path / f"statetx-{os.getuid()}"
    if kind == "open to all":
        place.mkdir()
        place.chmod(0o777)
    elif kind == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        place.symlink_to("elsewhere")
    elif kind == "file":
        place.write_text("x")
    caches._private.cache_clear()
    found = caches._private()
    caches._private.cache_clear()
    assert (found == place) == (kind == "none")
    assert found.stat().st_mode & 0o777 == 0o700
