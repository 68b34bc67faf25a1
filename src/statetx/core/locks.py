"""Locks between processes: who works on a thing now, so that a second one waits for its turn.

The kernel holds them (``flock``, on network file systems too where they can), so that the lock of a
dead process is free at once and nobody has to break it. What stands in the file is for messages
only, except where a file system has no such locks: there the named process is looked for.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from statetx.core.errors import ResultsError

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)


def beside(path: str | Path) -> Path:
    """Return the lock file of a file or directory."""
    target = Path(path)
    return target.with_name(f".{target.name}.lock")


@contextlib.contextmanager
def held(lock: Path, what: str, shared: bool = False) -> Iterator[None]:
    """Hold a lock while the block runs; the file is removed afterwards.

    Parameters
    ----------
    lock
        The file, see `beside`. Its directory is made.
    what
        What is locked, for messages: ``the store results/demo/pack``.
    shared
        Several may hold the lock at once, but none beside one that holds it alone.

    Raises
    ------
    ResultsError
        Somebody else holds it, or its file cannot be made.
    """
    handle = _open(lock, what, shared)
    try:
        _write_owner(handle, shared)
        yield
    finally:
        if (not shared or _alone(handle)) and (_locks_work(handle) or _is_mine(lock)):
            lock.unlink(missing_ok=True)
        os.close(handle)


def holder(lock: Path) -> str | None:
    """Say who holds a lock; None: nobody does."""
    try:
        handle = os.open(lock, os.O_RDONLY)
    except OSError:
        return None
    try:
        return None if _alone(handle) else _owner_in_words(lock)
    finally:
        os.close(handle)


def me() -> dict[str, Any]:
    """Return who this process is: host, pid, since when it runs, its command."""
    pid = os.getpid()
    return {
        "host": socket.gethostname(),
        "namespace": _namespace(),
        "pid": pid,
        "started": started(pid),
        "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:500],
    }


def started(pid: int) -> float | None:
    """Return when a process of this machine started (seconds since 1970); None: there is none."""
    import psutil

    try:
        process = psutil.Process(pid)
        dead = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        return None if dead else round(process.create_time(), 1)
    except psutil.Error:
        return None


def is_dead(owner: dict[str, Any]) -> bool:
    """Whether a process that described itself by `me` is known to have ended.

    A process of another machine is not known to have; a number that another process has got since
    is told by the time of its start.
    """
    if owner.get("host") != socket.gethostname() or owner.get("namespace") != _namespace():
        return False
    now = started(int(owner.get("pid", 0)))
    then = owner.get("started")
    return now is None or (then is not None and abs(now - float(then)) > 2)


def _namespace() -> str:
    """Which numbers of processes these are: containers of one name may count on their own."""
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115 (no path of a file)
    except OSError:
        return ""


def in_words(owner: dict[str, Any]) -> str:
    """Return a process that described itself by `me` in words."""
    return (
        f"process {owner.get('pid')} on {owner.get('host')}, since {owner.get('since')}: "
        f"{owner.get('command')}"
    )


def _open(lock: Path, what: str, shared: bool) -> int:
    kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise ResultsError(
                f"cannot lock {what}: {error.strerror}",
                where=lock,
                fix="make the directory writable, and remove the file if it is not a plain one",
            ) from error
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
        except OSError as error:
            owner = _owner(lock)
            both_shared = shared and owner is not None and owner.get("shared")
            if error.errno in _NO_LOCKS and (owner is None or both_shared or is_dead(owner)):
                return handle
            os.close(handle)
            raise ResultsError(
                f"another process works on {what}: {_owner_in_words(lock)}",
                where=lock,
                fix="wait until it has ended, or stop it, and run the same command again"
                + (
                    f"; if it has ended, remove {lock}: this file system has no locks"
                    if error.errno in _NO_LOCKS
                    else ""
                ),
            ) from None
        if _same(handle, lock):
            return handle
        os.close(handle)  # whoever held it removed the file in between


def _same(handle: int, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), lock.lstat())
    except OSError:
        return False


def _alone(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno in _NO_LOCKS
    return True


def _locks_work(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _NO_LOCKS
    return True


def _is_mine(lock: Path) -> bool:
    """Whether this process is the last that wrote its name: others may still share the lock."""
    owner = _owner(lock)
    return owner is None or owner.get("pid") == os.getpid()


def _write_owner(handle: int, shared: bool) -> None:
    # Without room on the disk the lock holds too; its message then names nobody.
    with contextlib.suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(me() | {"shared": shared}).encode(), 0)


def _owner(lock: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(lock.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _owner_in_words(lock: Path) -> str:
    owner = _owner(lock)
    return "one that did not say its name" if owner is None else in_words(owner)
