"""Where libraries keep what they compile: somewhere else than usual where that cannot be written.

The package may lie in a read-only directory and the home directory too, as in a container. numba
then refuses to load compiled loops, and matplotlib looks for all fonts again in every process.
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
"""Where the package has loops that numba compiles."""


def settle() -> None:
    """Set the environment variables of libraries that have no place for their caches.

    To be called before they are imported. What a user has set stays, if it can be written to.
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
    except RuntimeError:  # no home directory at all
        return False


def _writable(place: Path) -> bool:
    """Whether a directory can be written to, or made."""
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
    except OSError:  # nothing can be written anywhere: the library says what it misses
        return
    os.environ[variable] = str(place)


@cache
def _private() -> Path:
    """Return a directory for temporary files that nobody else can write to: code is loaded from it."""
    place = Path(tempfile.gettempdir()) / f"statetx-{os.getuid()}"
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        found = place.lstat()
        if (
            stat.S_ISDIR(found.st_mode)
            and found.st_uid == os.getuid()
            and not found.st_mode & 0o077
            and os.access(place, os.W_OK | os.X_OK)
        ):
            return place
    except OSError:
        pass
    place = Path(tempfile.mkdtemp(prefix="statetx-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    return place
