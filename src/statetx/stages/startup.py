"""Start of the workflow: registration of its process, cleaning up after killed runs, signals.

Snakemake's own lock does not name its owner. Therefore every process of the workflow has an entry
under ``.state/workflow`` while it runs. A lock is removed if only dead processes can have made it.
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
"""Names of the entries that packing writes into its directory of parts."""

_stopped_by: list[int] = []
_begun = False


def begin(datasets: Iterable[str], main: bool, dry: bool) -> None:
    """Prepare a process of the workflow, when its rules are parsed.

    Parameters
    ----------
    datasets
        Names of the data sets.
    main
        Whether this is the process that the user started, not one of its jobs.
    dry
        Whether this is a dry run, which removes nothing.
    """
    global _begun
    if _begun:
        return  # rules that are used as a module are parsed several times
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
            f"ended; if its machine is gone, remove {RUNNING}, then run: snakemake --unlock"
        )
    elif dead and left:
        for path in left:
            path.unlink(missing_ok=True)
        _say(f"a run was killed ({locks.in_words(others[dead[0]])}): its lock is removed")
    elif left:
        _say("if no other run works in this directory, run once: snakemake --unlock")
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
    """Write an entry for this process; return the entries of other processes.

    The entry is written first, so that of two processes that start at the same time each sees the
    other.
    """
    me, pid = locks.me(), os.getpid()
    entry = RUNNING / f"{me['host']}-{pid}.json"
    write_json(entry, me)

    def remove() -> None:
        if os.getpid() == pid:
            entry.unlink(missing_ok=True)

    atexit.register(remove)
    others = {}
    for path in RUNNING.glob("*.json"):
        if path != entry:
            with contextlib.suppress(OSError, ValueError, RecursionError):
                content = json.loads(path.read_text(encoding="utf-8"))
                if isinstance(content, dict) and isinstance(content.get("pid"), int):
                    others[path] = content
    return others


def _sweep_parts(dataset: str) -> None:
    """Remove the parts of a store that was finished after them: no job reads them again."""
    store = paths.pack_dir(dataset)
    manifest = store / "manifest.json"
    for parts in (store / "parts", Path(".state") / "pack" / dataset):
        if not parts.is_dir() or parts.is_symlink() or not manifest.is_file():
            continue
        entries = [path for path in parts.iterdir() if _PART.fullmatch(path.name)]
        newest = max((path.stat().st_mtime for path in entries), default=0.0)
        if newest > manifest.stat().st_mtime or locks.holder(locks.beside(store)):
            continue
        for path in entries:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            parts.rmdir()  # other files in the directory are kept


# ---------------------------------------------------------------------------------------------
# signals


def _listen() -> None:
    """Obey signals in Snakemake's process, and forward them to its jobs.

    Snakemake itself would wait until the jobs end.
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        if signal.getsignal(number) is not signal.SIG_IGN or number == signal.SIGINT:
            signal.signal(number, _end)
    signal.signal(signal.SIGTERM, _leave)  # Snakemake replaces this handler when it starts jobs
    stopping.forward(_stop_jobs)
    atexit.register(_exit_as_stopped, os.getpid())


def _end(number: int, frame: FrameType | None) -> None:
    """Let Snakemake wait for running jobs, which get the signal too, and start no other job."""
    handler = signal.getsignal(signal.SIGTERM)
    if callable(handler) and handler is not _leave and len(_jobs()):
        handler(signal.SIGTERM, frame)
    else:
        raise KeyboardInterrupt


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _stop_jobs(number: int) -> None:
    """Send a signal to all jobs, also to those that start later."""
    _stopped_by.append(number)
    signalled: set[int] = set()
    while True:
        for job in _jobs():
            if job.pid not in signalled:
                signalled.add(job.pid)
                with contextlib.suppress(Exception):  # the job may have ended
                    job.send_signal(number)
        time.sleep(0.2)


def _jobs() -> list[Any]:
    """Return the child processes that run a script of a rule."""
    import psutil

    jobs = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            command = child.cmdline()
            scripts = [word for word in command[1:] if f"{os.sep}.snakemake{os.sep}scripts" in word]
            if scripts and "python" in Path(command[0]).name:
                jobs.append(child)
    return jobs


def _exit_as_stopped(pid: int) -> None:
    """Exit with 128 + number of the signal, as shells expect; Snakemake's exit code is 1 or 0."""
    if _stopped_by and os.getpid() == pid:
        name = signal.Signals(_stopped_by[0]).name
        _say(f"stopped by {name}: {stopping.GO_ON}")
        atexit.unregister(_exit_as_stopped)
        atexit._run_exitfuncs()  # functions registered earlier, such as removal of temporary files
        sys.stdout.flush()
        os._exit(128 + _stopped_by[0])
