"""Locks between processes: a second process is refused while the first works on the same output.

The kernel holds the locks (``flock``), so the lock of a dead process is free immediately. The lock
file names its owner for error messages only. On file systems without ``flock``, the named process
decides: the lock is free if that process has ended.
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
    """Return the path of the lock file of a file or directory, in the same directory."""
    target = Path(path)
    return target.with_name(f".{target.name}.lock")


@contextlib.contextmanager
def held(lock: Path, what: str, shared: bool = False) -> Iterator[None]:
    """Hold a lock while the block runs, then remove the lock file.

    Parameters
    ----------
    lock
        The lock file, see `beside`. Its directory is created.
    what
        Name of the locked output in messages, such as ``the store results/demo/pack``.
    shared
        Whether other processes may hold the lock at the same time, if they share it too.

    Raises
    ------
    ResultsError
        Another process holds the lock, or the lock file cannot be created.
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
    """Return a description of the process that holds a lock, or None if the lock is free."""
    try:
        handle = os.open(lock, os.O_RDONLY)
    except OSError:
        return None
    try:
        return None if _alone(handle) else _owner_in_words(lock)
    finally:
        os.close(handle)


def me() -> dict[str, Any]:
    """Return the identity of this process: host, pid, time of its start, command, present time."""
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
    """Return when a process started, in seconds since 1970; None if it does not run.

    Parameters
    ----------
    pid
        Number of a process on this machine.
    """
    import psutil

    try:
        process = psutil.Process(pid)
        dead = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        return None if dead else round(process.create_time(), 1)
    except psutil.Error:
        return None


def is_dead(owner: dict[str, Any]) -> bool:
    """Return whether a process is known to have ended.

    Nothing is known of processes on other machines or in other containers. A number that the system
    has given to a new process is recognised by the time of its start.

    Parameters
    ----------
    owner
        What `me` returned in that process.
    """
    if owner.get("host") != socket.gethostname() or owner.get("namespace") != _namespace():
        return False
    now = started(int(owner.get("pid", 0)))
    then = owner.get("started")
    return now is None or (then is not None and abs(now - float(then)) > 2)


def _namespace() -> str:
    """Return the namespace of process numbers: containers with the same host name may differ."""
    try:
        return os.readlink("/proc/self/ns/pid")  # noqa: PTH115 (the link does not name a file)
    except OSError:
        return ""


def in_words(owner: dict[str, Any]) -> str:
    """Return a description of a process for messages.

    Parameters
    ----------
    owner
        What `me` returned in that process.
    """
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
                fix="make the directory writable; if the lock is not a plain file, remove it",
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
                fix="wait until it has ended, or stop it; then run the same command again"
                + (
                    f"; if it has ended, remove {lock}: this file system does not support locks"
                    if error.errno in _NO_LOCKS
                    else ""
                ),
            ) from None
        if _same(handle, lock):
            return handle
        os.close(handle)  # the former holder has removed the file since it was opened


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
    """Return whether this process was the last to write its name into the lock file.

    Without kernel locks, other processes may still share the lock.
    """
    owner = _owner(lock)
    return owner is None or owner.get("pid") == os.getpid()


def _write_owner(handle: int, shared: bool) -> None:
    # On a full disk the lock still works; messages then cannot name the owner.
    with contextlib.suppress(OSError):
        os.ftruncate(handle, 0)
        os.pwrite(handle, json.dumps(me() | {"shared": shared}).encode(), 0)


def _owner(lock: Path) -> dict[str, Any] | None:
    try:
        owner = json.loads(lock.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return owner if isinstance(owner, dict) else None


def _owner_in_words(lock: Path) -> str:
    owner = _owner(lock)
    return "its lock file does not name it" if owner is None else in_words(owner)
