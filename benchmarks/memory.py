"""What other processes use: memory, disk and CPU, sampled from /proc (Linux). No dependencies."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

INTERVAL = 0.05
"""Seconds between two samples of memory."""
SLOW = 10
"""Every so many samples: look for new child processes, and at the disk."""
_TICK = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """Return a process and its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for parent in found:  # grows while it is read
        found += children.get(parent, [])
    return found


def cpu_seconds(pid: int) -> float:
    """Return the CPU time, user and system, of a process and its living descendants."""
    stats = [_stat(one) for one in family(pid)]
    return sum((int(fields[11]) + int(fields[12])) / _TICK for fields in stats if fields)


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the state on; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _resident(pid: int) -> tuple[int, int]:
    """Return bytes that only this process holds (anonymous, shared memory) and bytes of files."""
    sizes = {"RssAnon": 0, "RssShmem": 0, "RssFile": 0}
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name in sizes:
                sizes[name] = int(rest.split()[0]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        pass
    return sizes["RssAnon"] + sizes["RssShmem"], sizes["RssFile"]


def disk_bytes(directory: Path) -> int:
    """Return what the files under a directory take on disk; hard links count once."""
    blocks = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                found = Path(folder, name).lstat()
            except FileNotFoundError:  # renamed or removed since
                continue
            blocks[found.st_dev, found.st_ino] = found.st_blocks * 512
    return sum(blocks.values())


class Watch:
    """Samples a process and its children until the block is left.

    Parameters
    ----------
    pid
        The process.
    directory
        Its disk use is sampled too, if given.

    Attributes
    ----------
    anon
        Largest sum of RssAnon (and RssShmem, which no file backs either) [bytes].
    file
        Largest sum of RssFile: mapped files, which the kernel can drop at any time [bytes].
    resident
        Largest sum of both; what processes share counts once for each of them [bytes].
    disk
        Largest disk use under `directory` [bytes].
    """

    def __init__(self, pid: int, directory: Path | None = None) -> None:
        self.pid, self.directory = pid, directory
        self.anon = self.file = self.resident = self.disk = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self.anon == 0:
            raise RuntimeError(f"process {self.pid} ended before its first sample")

    def _run(self) -> None:
        pids: list[int] = []
        count = 0
        while not self._stop.is_set():
            begin = time.monotonic()
            if count % SLOW == 0:
                pids = family(self.pid)
                if self.directory is not None:
                    self.disk = max(self.disk, disk_bytes(self.directory))
            held = [_resident(pid) for pid in pids]
            anon, mapped = (sum(part) for part in zip(*held, strict=True))
            self.anon, self.file = max(self.anon, anon), max(self.file, mapped)
            self.resident = max(self.resident, anon + mapped)
            count += 1
            self._stop.wait(max(0.0, INTERVAL - (time.monotonic() - begin)))


def warm(paths: Iterable[Path]) -> None:
    """Read files once, so that they come from the page cache."""
    for path in paths:
        with open(path, "rb", buffering=0) as handle:
            while handle.read(1 << 24):
                pass


def evict(paths: Iterable[Path]) -> None:
    """Write files out and drop them from the page cache."""
    for path in paths:
        with open(path, "rb") as handle:
            os.fsync(handle.fileno())
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
