"""Writes that appear whole or not at all, and that never take the place of somebody's own file."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import fnmatch
import glob
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from statetx.core.checksums import settle
from statetx.core.errors import ResultsError

SNAKEMAKE_MARK = ".snakemake_timestamp"
"""What Snakemake leaves in directories that are outputs of its rules."""
_MARK = "statetx-"
_LOCK = f"{_MARK}lock"
_LONGEST_NAME = 200
"""Bytes of a name that are repeated in the name of the directory beside it: 255 are allowed."""


@contextlib.contextmanager
def staged(directory: Path) -> Iterator[Path]:
    """Yield an empty directory; its files move to `directory` if the block succeeds.

    For tables that belong together but are not all there is in `directory`.

    Raises
    ------
    ResultsError
        The directory cannot be written to, or one of the files would replace something else than a
        file. No file is moved then.
    """
    check_target(directory, own=("*",))
    beside = directory if directory.is_dir() else directory.parent
    with _room(beside / directory.name, directory) as part:
        part.mkdir()
        yield part
        settle()
        files = [path for path in sorted(part.rglob("*")) if path.is_file()]
        moves = [(file, directory / file.relative_to(part)) for file in files]
        for _, target in moves:
            check_target(target)
        for file, target in moves:
            target.parent.mkdir(parents=True, exist_ok=True)
            _flush(file)
            os.replace(file, target)
        for home in {target.parent for _, target in moves}:
            _flush(home)


@contextlib.contextmanager
def whole(path: str | Path, own: Sequence[str] | None = None) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it into place if the block succeeds.

    Works for files and for directories (create the yielded path as either). On any failure
    nothing is left behind and an earlier `path` is untouched. What was written is on the disk, not
    only in memory, before it gets its name.

    Parameters
    ----------
    path
        File or directory to write. Never a link: what it points to belongs to somebody else.
    own
        Patterns of the names that a directory of this kind holds. An earlier directory is replaced
        only if all its entries match; None: it never is.

    Raises
    ------
    ResultsError
        The directory cannot be written to, the disk is full, or `path` is something that must not
        be replaced.
    """
    target = Path(path)
    check_target(target, own)
    with _room(target, target) as part:
        yield part
        if not part.exists():
            raise ResultsError("nothing was written", where=target)
        settle()
        check_target(target, own)
        _readable(part)
        _flush_all(part)
        _put(part, target)


@contextlib.contextmanager
def _room(beside: Path, target: Path) -> Iterator[Path]:
    """Yield a path in a new directory beside a file; errors are told of `target`."""
    sweep(beside)
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(prefix=_prefix(beside), dir=beside.parent))
        lock = os.open(room / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _cannot_write(target, error) from error
    try:
        with contextlib.suppress(OSError):  # some network file systems have no such locks
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield room / beside.name
    except (OSError, RuntimeError) as error:
        if not disk_full(error):
            raise
        raise ResultsError(
            "the disk is full; nothing half-made was left",
            where=target,
            fix="free disk space and run the same command again: what was finished is kept",
        ) from error
    finally:
        shutil.rmtree(room, ignore_errors=True)
        os.close(lock)


def _prefix(target: Path) -> str:
    name = target.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    return f".{name}.{_MARK}"


def _put(part: Path, target: Path) -> None:
    """Rename; an earlier directory is moved aside first, and back if the new one cannot follow."""
    aside = part.parent / f"{_MARK}before"
    try:
        if target.is_dir():
            os.replace(target, aside)
        os.replace(part, target)
    except OSError as error:
        if aside.exists() and not target.exists():
            os.replace(aside, target)
        raise _cannot_write(target, error) from error
    _flush(target.parent)


def sweep(path: str | Path) -> None:
    """Remove what attempts at `path` that were killed left beside it, but nothing still in use."""
    target = Path(path)
    _remove(target.parent.glob(f"{glob.escape(_prefix(target))}????????"))


def sweep_below(root: str | Path) -> None:
    """Remove what attempts at anything in a directory that were killed left there."""
    _remove(Path(root).rglob(f".*.{_MARK}????????"))


def _remove(rooms: Iterable[Path]) -> None:
    for left in list(rooms):
        if left.is_dir() and not left.is_symlink() and not _in_use(left):
            shutil.rmtree(left, ignore_errors=True)


def _in_use(room: Path) -> bool:
    """Whether the process that made a room still lives: its lock ends with it.

    Where there are no locks, or none yet, a room counts as in use for a day.
    """
    try:
        handle = os.open(room / _LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return _is_young(room)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return _is_young(room)
    finally:
        os.close(handle)
    return False


def _is_young(room: Path) -> bool:
    try:
        return time.time() - room.stat().st_mtime < 86_400
    except OSError:
        return True


def disk_full(error: BaseException) -> bool:
    """Whether a write failed for want of room; HDF5 says so in the text of its errors only."""
    known = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    number = getattr(error, "errno", None)
    return number in known or any(f"errno = {code}," in str(error) for code in known)


def _cannot_write(target: Path, error: OSError) -> ResultsError:
    return ResultsError(
        f"cannot write here: {error.strerror}",
        where=target,
        fix="make the directory writable, free space, or choose another results directory",
    )


def _readable(part: Path) -> None:
    """Give files the permissions of ordinary ones: some writers make them readable by one user."""
    mask = os.umask(0)
    os.umask(mask)
    for path in [part, *(part.rglob("*") if part.is_dir() else ())]:
        if path.is_file():
            path.chmod(0o666 & ~mask)


def _flush_all(part: Path) -> None:
    """Wait until a file, or a directory with all that is in it, is on the disk."""
    for path in [*(part.rglob("*") if part.is_dir() else ()), part]:
        _flush(path)


def _flush(path: Path) -> None:
    """Wait until a file, or the names in a directory, are on the disk: a rename gets there first."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(handle)


# ---------------------------------------------------------------------------------------------
# what must not be replaced


def check_target(path: str | Path, own: Sequence[str] | None = None) -> None:
    """Check that writing `path` would destroy nothing but an earlier result of the same kind.

    Parameters
    ----------
    path
        File or directory that is to be written; need not exist.
    own
        None: a file is to be written. Otherwise a directory, whose entries match these patterns.

    Raises
    ------
    ResultsError
        It is a link, something else than a file or directory, the other of the two, protected
        against writing, or a directory with other entries.
    """
    target = Path(path)
    if target.name in ("", ".."):
        raise ResultsError(
            f"{str(target)!r} is not the name of a file or directory",
            where=target.absolute(),
            fix="give the name that it is to have",
        )
    try:
        mode = target.lstat().st_mode
        entries = sorted(one.name for one in target.iterdir()) if stat.S_ISDIR(mode) else []
    except (FileNotFoundError, NotADirectoryError):
        return  # whoever writes says what is wrong with the directory
    except OSError as error:
        raise _cannot_write(target, error) from error
    if stat.S_ISLNK(mode):
        raise ResultsError(
            f"this is a link to {str(target.readlink())!r}, and nothing is written through a link",
            where=target,
            fix="remove the link, or choose another name",
        )
    wanted = "file" if own is None else "directory"
    found = "directory" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "special file"
    if found != wanted:
        raise ResultsError(
            f"this is a {found}; a {wanted} is to be written, and replaces no {found}",
            where=target,
            fix="choose another name",
        )
    if not mode & 0o222:
        raise ResultsError(
            f"this {found} is protected against writing",
            where=target,
            fix="choose another name, or allow writing to it (chmod u+w)",
        )
    foreign = [
        name
        for name in entries
        if own is not None
        and not any(fnmatch.fnmatchcase(name, pattern) for pattern in (*own, SNAKEMAKE_MARK))
    ]
    if foreign:
        shown = ", ".join(foreign[:5]) + (", …" if len(foreign) > 5 else "")
        raise ResultsError(
            f"the directory exists and holds what does not belong to such a result: {shown}",
            where=target,
            fix="choose another directory, or move these files away",
        )


def check_new(
    path: str | Path,
    force: bool,
    made_here: Callable[[Path], bool],
    own: Sequence[str] | None = None,
) -> None:
    """Check that a path that a user named is free, or an earlier output of ours that may go.

    Parameters
    ----------
    path
        File or directory that a command is to write.
    force
        Whether the user asked to replace an earlier output.
    made_here
        Tells whether an existing path is such an output.
    own
        As for `check_target`.

    Raises
    ------
    ResultsError
        Something is there that must stay.
    """
    target = Path(path)
    check_target(target, own)
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    kind = "file" if own is None else "directory"
    if not made_here(target):
        raise ResultsError(
            f"this {kind} exists and is not an earlier output of this command",
            where=target,
            fix="choose another name, or move it away",
        )
    if not force:
        raise ResultsError(
            f"this {kind} exists already",
            where=target,
            fix="choose another name, or replace this earlier output with --force",
        )
