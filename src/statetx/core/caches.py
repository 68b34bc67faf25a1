"""Cache directories of numba and matplotlib, moved where the usual ones cannot be written.

In a container, the package and the home directory may both be read-only. numba then refuses to
load compiled loops, and matplotlib searches all fonts again in every process.
"""

from __future__ import annotations

import atexit
import os
import shutil
import stat
import sys
import tempfile
from functools import cache
from pathlib import Path

ROOMS = ("data/h5ad", "data/pack", "data/store", "data/sets", "evaluation/numerics")
"""Directories of the package with loops that numba compiles."""


def settle() -> None:
    """Set ``NUMBA_CACHE_DIR`` and ``MPLCONFIGDIR`` where the usual directories cannot be written.

    Call this before numba and matplotlib are imported. A writable directory that the user has set
    stays.
    """
    package = Path(__file__).parents[1]
    beside = all(_writable(package / room / "__pycache__") for room in ROOMS)
    home = _home("XDG_CACHE_HOME", ".cache")
    if not _given("NUMBA_CACHE_DIR") and not beside and not home:
        _set("NUMBA_CACHE_DIR", "numba")
        if "numba" in sys.modules and "NUMBA_CACHE_DIR" in os.environ:
            sys.modules["numba"].config.CACHE_DIR = os.environ["NUMBA_CACHE_DIR"]
    if not _given("MPLCONFIGDIR") and not (home and _home("XDG_CONFIG_HOME", ".config")):
        _set("MPLCONFIGDIR", "matplotlib")


def _given(variable: str) -> bool:
    place = os.environ.get(variable)
    return bool(place) and _writable(Path(str(place)))


def _home(variable: str, name: str) -> bool:
    place = Path(os.environ.get(variable) or f"~/{name}")
    try:
        return _writable(place.expanduser())
    except RuntimeError:  # the user has no home directory
        return False


def _writable(place: Path) -> bool:
    """Return whether a directory can be written to, or created."""
    for path in (place, *place.absolute().parents):
        try:
            path.lstat()
        except FileNotFoundError:
            continue
        except OSError:
            return False
        return path.is_dir() and os.access(path, os.W_OK | os.X_OK)
    return False


def _set(variable: str, name: str) -> None:
    try:
        place = _private() / name
        place.mkdir(exist_ok=True)
    except OSError:  # no directory is writable: the library itself then reports what it needs
        return
    os.environ[variable] = str(place)


@cache
def _private() -> Path:
    """Return a temporary directory that only this user can write to.

    Compiled code is loaded from it, so another user must not be able to change it.
    """
    place = Path(tempfile.gettempdir()) / f"statetx-{os.getuid()}"
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        status = place.lstat()
        if (
            stat.S_ISDIR(status.st_mode)
            and status.st_uid == os.getuid()
            and not status.st_mode & 0o077
            and os.access(place, os.W_OK | os.X_OK)
        ):
            return place
    except OSError:
        pass
    place = Path(tempfile.mkdtemp(prefix="statetx-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place
