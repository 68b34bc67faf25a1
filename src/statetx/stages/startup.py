"""What the workflow does first: it makes itself known, cleans up after runs that were killed, and
passes signals on to its jobs.

Snakemake's own lock does not say whose it is. So every process of the workflow has an entry under
``.state/workflow`` while it lives, and a lock that only dead processes can have made is removed.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

from statetx.core import locks, stopping
from statetx.core.text_files import write_json
from statetx.core.writes import sweep_below
from statetx.stages import paths

RUNNING = Path(".state") / "workflow"
SNAKEMAKE_LOCKS = Path(".snakemake") / "locks"
_PART = re.compile(r"\d{4,}|survey\.json|.+\.done")
"""What packing leaves under its parts."""

_stopped_by: list[int] = []
_begun = False


def begin(datasets: Iterable[str], main: bool, dry: bool) -> None:
    """Prepare a process of the workflow, when its rules are read.

    Parameters
    ----------
    datasets
        Names of the data sets.
    main
        Whether this is the process that a user has started, not one of its jobs.
    dry
        Whether it only says what it would do: then nothing is removed.
    """
    global _begun
    if _begun:
        return  # rules that are used as a module are read several times
    _begun = True
    if threading.current_thread() is threading.main_thread():
        _listen()
    if main:
        _clean_up(datasets, dry)


def _clean_up(datasets: Iterable[str], dry: bool) -> None:
    others = _register()
    dead = [path for path, owner in others.items() if locks.is_dead(owner)]
    alive = [owner for path, owner in others.items() if path not in dead]
    if dry:
        return
    left = [*SNAKEMAKE_LOCKS.glob("*.lock")]
    if alive and left:
        _say(
            f"another run works in this directory ({locks.in_words(alive[0])}): wait until it has "
            f"ended; if its machine is gone, remove {RUNNING}, and say: snakemake --unlock"
        )
    elif dead and left:
        for path in left:
            path.unlink(missing_ok=True)
        _say(f"a run was killed ({locks.in_words(others[dead[0]])}): its lock is removed")
    elif left:
        _say("if no other run works in this directory, say once: snakemake --unlock")
    if not alive:
        for path in dead:
            path.unlink(missing_ok=True)
        for place in (paths.RESULTS, ".state"):
            sweep_below(place)
        for name in datasets:
            _sweep_parts(name)


def _say(text: str) -> None:
    print(f"statetx: {text}", file=sys.stderr, flush=True)


def _register() -> dict[Path, dict[str, Any]]:
    """Make an entry for this process; return those of the others.

    The own entry comes first: of two that start at once, each sees the other.
    """
    own, pid = locks.me(), os.getpid()
    entry = RUNNING / f"{own['host']}-{pid}.json"
    write_json(entry, own)

    def remove() -> None:
        if os.getpid() == pid:
            entry.unlink(missing_ok=True)

    atexit.register(remove)
    others = {}
    for path in RUNNING.glob("*.json"):
        if path != entry:
            with contextlib.suppress(OSError, ValueError, RecursionError):
                said = json.loads(path.read_text(encoding="utf-8"))
                if isinstance(said, dict) and isinstance(said.get("pid"), int):
                    others[path] = said
    return others


def _sweep_parts(dataset: str) -> None:
    """Remove parts of a store that was finished after them: nothing will read them again."""
    store = paths.pack_dir(dataset)
    manifest = store / "manifest.json"
    for parts in (store / "parts", Path(".state") / "pack" / dataset):
        if not parts.is_dir() or parts.is_symlink() or not manifest.is_file():
            continue
        found = [path for path in parts.iterdir() if _PART.fullmatch(path.name)]
        newest = max((path.stat().st_mtime for path in found), default=0.0)
        if newest > manifest.stat().st_mtime or locks.holder(locks.beside(store)):
            continue
        for path in found:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            parts.rmdir()  # what else lies there stays


# ---------------------------------------------------------------------------------------------
# signals


def _listen() -> None:
    """Obey signals in Snakemake's process, and pass them on to the jobs: it would wait for them."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGINT:
            signal.signal(number, _end)
    signal.signal(signal.SIGTERM, _leave)  # Snakemake takes it as soon as it starts jobs
    stopping.forward(_stop_jobs)
    atexit.register(_exit_as_stopped, os.getpid())


def _end(number: int, frame: FrameType | None) -> None:
    """Let running jobs end, which have been told to, and start no other."""
    handler = signal.getsignal(signal.SIGTERM)
    if callable(handler) and handler is not _leave and len(_jobs()):
        handler(signal.SIGTERM, frame)
    else:
        raise KeyboardInterrupt


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _stop_jobs(number: int) -> None:
    """Tell all jobs, and those that are just starting."""
    _stopped_by.append(number)
    told: set[int] = set()
    while True:
        for job in _jobs():
            if job.pid not in told:
                told.add(job.pid)
                with contextlib.suppress(Exception):  # it has ended by itself
                    job.send_signal(number)
        time.sleep(0.2)


def _jobs() -> list[Any]:
    """Return the processes that run a script of a rule."""
    import psutil

    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            command = child.cmdline()
            scripts = [one for one in command[1:] if f"{os.sep}.snakemake{os.sep}scripts" in one]
            if scripts and "python" in Path(command[0]).name:
                found.append(child)
    return found


def _exit_as_stopped(pid: int) -> None:
    """Give the exit code that a shell expects; Snakemake's is 1 or 0. Called last of all."""
    if _stopped_by and os.getpid() == pid:
        name = signal.Signals(_stopped_by[0]).name
        _say(f"stopped by {name}: {stopping.GO_ON}")
        atexit.unregister(_exit_as_stopped)
        atexit._run_exitfuncs()  # what was registered before, temporary directories among it
        sys.stdout.flush()
        os._exit(128 + _stopped_by[0])
