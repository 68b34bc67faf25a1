"""Atomic writes: outputs appear whole or not at all, and never replace a user's own file."""

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
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from statetx.core.checksums import settle
from statetx.core.errors import ResultsError

SNAKEMAKE_MARK = ".snakemake_timestamp"
"""File that Snakemake writes into directories that are outputs of its rules."""
_MARK = "statetx-"
_LOCK = f"{_MARK}lock"
_LONGEST_NAME = 200
"""Most bytes of an output's name that its temporary directory repeats; file systems allow 255."""


@contextlib.contextmanager
def staged(directory: Path) -> Iterator[Path]:
    """Yield an empty directory; move its files into `directory` if the block succeeds.

    Use this for tables that belong together in a directory that contains other files too.

    Parameters
    ----------
    directory
        Where the files are moved; created if necessary.

    Raises
    ------
    ResultsError
        The directory cannot be written to, or `check_target` refuses one of the files. No file is
        moved in that case.
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
    """Yield a temporary path next to `path`; rename it to `path` if the block succeeds.

    The block creates the yielded path as a file or as a directory. After a failure, the temporary
    path is removed and an earlier `path` is unchanged. The output is flushed to the disk before it
    is renamed.

    Parameters
    ----------
    path
        File or directory to write. Links are refused, because their target may be a user's file.
    own
        Patterns of the names in a directory of this kind. An earlier directory is replaced only if
        all its entries match. None: an earlier directory is never replaced.

    Raises
    ------
    ResultsError
        The directory cannot be written to, the disk is full, or `path` must not be replaced.
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
    """Yield a path in a new temporary directory next to `beside`; errors name `target`."""
    sweep(beside)
    try:
        beside.parent.mkdir(parents=True, exist_ok=True)
        room = Path(tempfile.mkdtemp(prefix=_prefix(beside), dir=beside.parent))
        lock = os.open(room / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise _cannot_write(target, error) from error
    try:
        with contextlib.suppress(OSError):  # some network file systems do not support flock
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield room / beside.name
    except (OSError, RuntimeError) as error:
        if not disk_full(error):
            raise
        raise ResultsError(
            "the disk is full; the unfinished output was removed",
            where=target,
            fix="free disk space and run the same command again; finished outputs are kept",
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
    """Rename `part` to `target`; restore an earlier directory if the rename fails."""
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
    """Remove temporary directories that killed writers of `path` left, except those in use.

    Parameters
    ----------
    path
        File or directory that the writers were writing.
    """
    target = Path(path)
    _remove(target.parent.glob(f"{glob.escape(_prefix(target))}????????"))


def sweep_below(root: str | Path) -> None:
    """Remove temporary directories that killed writers left anywhere below `root`.

    Parameters
    ----------
    root
        Directory to search.
    """
    _remove(Path(root).rglob(f".*.{_MARK}????????"))


def _remove(rooms: Iterable[Path]) -> None:
    for left in list(rooms):
        if left.is_dir() and not left.is_symlink() and not _in_use(left):
            shutil.rmtree(left, ignore_errors=True)


def _in_use(room: Path) -> bool:
    """Return whether the process that created a temporary directory still runs and holds its lock.

    Without a lock file or ``flock``, a directory counts as in use for one day.
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
    """Return whether a write failed because the disk or the quota is full.

    Parameters
    ----------
    error
        The exception. HDF5 puts the number of the system error into the message only.
    """
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
    """Give files the permissions of new files: some writers make them readable by one user only."""
    mask = os.umask(0)
    os.umask(mask)
    for path in [part, *(part.rglob("*") if part.is_dir() else ())]:
        if path.is_file():
            path.chmod(0o666 & ~mask)


def _flush_all(part: Path) -> None:
    """Flush a file, or a directory with all its entries, to the disk."""
    for path in [*(part.rglob("*") if part.is_dir() else ()), part]:
        _flush(path)


def _flush(path: Path) -> None:
    """Flush a file, or the names in a directory, to the disk.

    Otherwise a rename may reach the disk before the content.
    """
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
    """Check that writing `path` would at most replace an earlier result of the same kind.

    Parameters
    ----------
    path
        File or directory to write; it need not exist.
    own
        Patterns of the names in the directory to write. None: `path` is a file.

    Raises
    ------
    ResultsError
        `path` is a link, a special file, write-protected, a directory instead of a file (or the
        reverse), or a directory with entries that do not match `own`.
    """
    target = Path(path)
    if target.name in ("", ".."):
        raise ResultsError(
            f"{str(target)!r} is not the name of a file or directory",
            where=target.absolute(),
            fix="give the name of the output",
        )
    try:
        mode = target.lstat().st_mode
        entries = sorted(one.name for one in target.iterdir()) if stat.S_ISDIR(mode) else []
    except (FileNotFoundError, NotADirectoryError):
        return  # the write itself reports what is wrong with the directory
    except OSError as error:
        raise _cannot_write(target, error) from error
    if stat.S_ISLNK(mode):
        raise ResultsError(
            f"this is a link to {str(target.readlink())!r}; statetx does not write through links",
            where=target,
            fix="remove the link, or choose another name",
        )
    wanted = "file" if own is None else "directory"
    kind = "directory" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "special file"
    if kind != wanted:
        raise ResultsError(
            f"this is a {kind}; a {wanted} is to be written, which does not replace a {kind}",
            where=target,
            fix="choose another name",
        )
    if not mode & 0o222:
        raise ResultsError(
            f"this {kind} is protected against writing",
            where=target,
            fix="choose another name, or allow writing (chmod u+w)",
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
            f"the directory exists and contains files of other kinds: {shown}",
            where=target,
            fix="choose another directory, or move these files away",
        )


def check_new(
    path: str | Path,
    force: bool,
    made_here: Callable[[Path], bool],
    own: Sequence[str] | None = None,
) -> None:
    """Check that an output path is free, or an earlier output that the user wants to replace.

    Parameters
    ----------
    path
        File or directory that a command will write.
    force
        Whether the user asked to replace an earlier output.
    made_here
        Function that returns whether an existing path is an earlier output of this command.
    own
        As in `check_target`.

    Raises
    ------
    ResultsError
        The path exists, and is not an earlier output or `force` is False.
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
            fix=f"choose another name, or move this {kind} away",
        )
    if not force:
        raise ResultsError(
            f"this {kind} exists already",
            where=target,
            fix="choose another name, or add --force to replace this earlier output",
        )


def scratch_file(directory: str | Path | None = None) -> BinaryIO:
    """Open an empty file without a name; it goes with the last reference to it.

    Flush what is written before that. `tempfile.TemporaryFile` warns of a file that is not closed.
    """
    with tempfile.TemporaryFile(dir=directory) as file:
        number = os.dup(file.fileno())
    scratch = open(number, "w+b", closefd=False)  # noqa: SIM115 (closed by `finalize`)
    weakref.finalize(scratch, os.close, number)
    return scratch
