"""Try damaged inputs on a reader, each in a process that may crash, hang or run out of memory.

A reader passes when every damaged input gives the result of the undamaged one or one `StatetxError`.
Anything else is a fault: another exception, another result, a crash, or too much time or memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from statetx.core import checksums
from statetx.core.errors import StatetxError

SLOW = 10.0
"""Seconds that one input may take."""
HUNG = 15.0
"""Seconds after which the process is ended."""
BIG = 1 << 30
"""Bytes that one input may add to the peak memory; beyond twice as many, allocations fail."""
CALM = ("equal", "refused", "other")
"""Outcomes that are no faults. `other`: the damaged input is valid and means something else."""

Result = Mapping[str, Any]


class Wrong(Exception):
    """Raised by a reader that sees a wrong result itself; what stands before " | " names the sort."""


def same(home: Path, good: Result, got: Result) -> str | None:
    """Judge a result: it must equal that of the undamaged input."""
    return difference(good, got)


def valid(home: Path, good: Result, got: Result) -> str | None:
    """Accept another result: nobody else can say what the damaged input means."""
    return None if difference(good, got) is None else "other"


@dataclass(frozen=True)
class Kind:
    """A sort of input, and who reads it.

    Attributes
    ----------
    name
        Of the kind.
    make
        Fills an empty directory with an undamaged input.
    damage
        Changes the input and says how, in a few words.
    read
        Reads the input with the product; the result has named parts that can be compared.
    judge
        Says what is wrong with a result, given the undamaged one; None: nothing is. May return "other" for
        an input that is valid and means something else.
    """

    name: str
    make: Callable[[Path], None]
    damage: Callable[[Path, random.Random], str]
    read: Callable[[Path], Result]
    judge: Callable[[Path, Result, Result], str | None] = same


def on(
    name: str, change: Callable[[Path, random.Random], str]
) -> Callable[[Path, random.Random], str]:
    """Return the damage that a change does to one file of an input."""
    return lambda home, rng: change(home / name, rng)


@dataclass(frozen=True)
class Job:
    """Seeds of a kind, its undamaged input, and the seconds that it may take."""

    kind: Kind
    sample: Path
    seeds: range
    seconds: float


@dataclass(frozen=True)
class Fault:
    """One input that was not answered as it must be."""

    kind: str
    seed: int
    outcome: str
    damage: str
    detail: str

    @property
    def key(self) -> tuple[str, ...]:
        """Faults with equal keys most likely have one cause."""
        return self.kind, self.outcome, re.sub(r"\d+", "#", self.detail.split(" |")[0])

    def __str__(self) -> str:
        return f"{self.outcome}: {self.damage}\n    {self.detail}"


@dataclass
class Tally:
    """What came of the inputs of one kind."""

    kind: str
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: dict[tuple[str, ...], Fault] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def tried(self) -> int:
        """Number of inputs."""
        return self.outcomes.total()

    @property
    def failed(self) -> int:
        """Number of inputs that were faults."""
        return self.tried - sum(self.outcomes[name] for name in CALM)

    def add(self, outcome: str, fault: Fault | None) -> bool:
        """Count an outcome; say whether it is a fault of a new sort."""
        self.outcomes[outcome] += 1
        if fault is None or fault.key in self.faults:
            return False
        self.faults[fault.key] = fault
        return True


def digest(value: Any) -> str:
    """Return a digest of nested values and arrays; numbers count by value, not by type."""
    state = hashlib.blake2b(digest_size=12)
    _feed(state, value)
    return state.hexdigest()


def _feed(state: Any, value: Any) -> None:
    if isinstance(value, Mapping):
        for key in sorted(value, key=str):
            state.update(f"{key}\0".encode("utf-8", "surrogatepass"))
            _feed(state, value[key])
        state.update(b"}")
    elif isinstance(value, list | tuple):
        for item in value:
            _feed(state, item)
        state.update(b"]")
    elif isinstance(value, np.ndarray) and value.dtype.kind in "iufb":
        state.update(str(value.shape).encode())
        state.update(np.ascontiguousarray(value, dtype=np.float64).tobytes())
    elif isinstance(value, np.ndarray):
        _feed(state, value.tolist())
    elif isinstance(value, float | np.number | np.bool_) or (
        isinstance(value, int) and abs(value) < 1 << 53
    ):
        state.update(np.float64(value).tobytes())
    else:
        state.update(f"{value}\0".encode("utf-8", "surrogatepass"))


def difference(good: Result, got: Result) -> str | None:
    """Name the first part in which two results differ."""
    for name in sorted({*good, *got}):
        if name not in got or name not in good:
            return f"{name!r} is missing or new |"
        if digest(good[name]) != digest(got[name]):
            was, now = (" ".join(str(side[name]).split())[:120] for side in (good, got))
            return f"{name!r} differs | {was} became {now}"
    return None


def damaged(kind: Kind, sample: Path, seed: int, home: Path) -> str:
    """Make the damaged input of a seed in `home`; say how it was damaged."""
    for on_gpu_or_none in range(20):
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(sample, home, symlinks=True)
        with contextlib.suppress(Exception):  # not every change is possible everywhere
            return kind.damage(home, random.Random(f"{kind.name} {seed} {on_gpu_or_none}"))
    raise RuntimeError(f"{kind.name}: no change is possible")


def answer(kind: Kind, good: Result, home: Path) -> tuple[str, str]:
    """Read a damaged input: outcome and detail."""
    begin, peak = time.monotonic(), _peak()
    try:
        got = kind.read(home)
        wrong = kind.judge(home, good, got)
        outcome = "equal" if wrong is None else "other" if wrong == "other" else "wrong"
        detail = wrong or ""
    except StatetxError as error:
        outcome, detail = "refused", error.what
    except Wrong as error:
        outcome, detail = "wrong", str(error)
    except Exception as error:
        outcome, detail = "traceback", _place(error)
    seconds, grown = time.monotonic() - begin, _peak() - peak
    if outcome in CALM and seconds > SLOW:
        outcome, detail = "slow", f"slow | {seconds:.0f} s, then: {detail}"
    if outcome in CALM and grown > BIG:
        outcome, detail = "big", f"big | {grown >> 20} MB, then: {detail}"
    return outcome, detail


def settle() -> None:
    """Wait for checksums that are compared in the background, as a stage does before it writes."""
    checksums.settle()


def _place(error: BaseException) -> str:
    """Name an exception and the innermost line of the product that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "/statetx/" in frame.filename]
    last = (own or frames)[-1]
    short = last.filename.rsplit("/statetx/", 1)[-1]
    text = " ".join(str(error).split())[:160]
    return f"{type(error).__name__} at {short}:{last.lineno} {last.name} | {text}"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _work(jobs: list[Job], pipe: Connection, keep: Path) -> None:
    """Do jobs one after the other; the child's side."""
    silence()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        for job in jobs:
            pipe.send(("job", job.kind.name))
            _try_seeds(job, Path(folder) / "input", pipe, keep)
    pipe.send(("over",))


def _try_seeds(job: Job, home: Path, pipe: Connection, keep: Path) -> None:
    """Try the seeds of a job until its time is over."""
    kind, sample, seen = job.kind, job.sample, set()
    shutil.copytree(sample, home, symlinks=True)
    _limit_memory(64 * BIG)
    try:
        good = kind.read(home)
    except BaseException as error:
        fault = Fault(kind.name, -1, "broken", "undamaged input", _place(error))
        pipe.send(("end", "broken", fault))
        return
    finally:
        shutil.rmtree(home, ignore_errors=True)
    _limit_memory(2 * BIG)
    until = time.monotonic() + job.seconds
    for seed in job.seeds:
        if time.monotonic() > until:
            break
        damage = damaged(kind, sample, seed, home)
        pipe.send(("begin", seed, damage))
        outcome, detail = answer(kind, good, home)
        fault = None
        if outcome not in CALM:
            fault = Fault(kind.name, seed, outcome, damage, detail)
            if fault.key not in seen:
                seen.add(fault.key)
                damaged(kind, sample, seed, keep / f"{kind.name}-{seed}")
        pipe.send(("end", outcome, fault))
        with contextlib.suppress(StatetxError):
            settle()  # what this input left waiting must not answer for the next
        shutil.rmtree(home, ignore_errors=True)


def silence() -> None:
    """Send what the product prints nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    logging.disable(logging.CRITICAL)


def _limit_memory(more: int) -> None:
    """Let allocations fail that no small input can need, before the machine suffers."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + more
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run(jobs: Sequence[Job], keep: Path, new: Callable[[Fault], None] | None = None) -> list[Tally]:
    """Try damaged inputs, one seed each, in a process that is begun anew when it crashes or hangs.

    Parameters
    ----------
    jobs
        What to try; every kind once.
    keep
        Directory for inputs that were faults, one of each sort.
    new
        Called with every fault of a new sort.
    """
    tallies = {job.kind.name: Tally(job.kind.name) for job in jobs}
    todo, context = list(jobs), multiprocessing.get_context("fork")
    while todo:
        mine, other = context.Pipe()
        child = context.Process(target=_work, args=(todo, other, keep))
        child.start()
        other.close()
        ended, name, seed, damage = _listen(mine, tallies, new)
        if ended == "hung" and child.pid is not None:
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        if ended == "over":
            break
        fault = Fault(name, seed, ended, damage, f"{ended} | exit code {child.exitcode}")
        if tallies[name].add(ended, fault) and new is not None:
            new(fault)
        while todo and todo[0].kind.name != name:
            del todo[0]
        job = todo.pop(0)
        if seed >= 0:
            damaged(job.kind, job.sample, seed, keep / f"{name}-{seed}")
            left = job.seconds - tallies[name].seconds
            seeds = range(seed + 1, job.seeds.stop)
            if left > 0 and seeds:
                todo.insert(0, replace(job, seeds=seeds, seconds=left))
    return list(tallies.values())


def _listen(
    pipe: Connection, tallies: dict[str, Tally], new: Callable[[Fault], None] | None
) -> tuple[str, str, int, str]:
    """Count what a child says; return how it ended, and at which kind, seed and damage."""
    name, seed, damage, begin = "", -1, "undamaged input", 0.0
    while True:
        if not pipe.poll(HUNG if seed >= 0 else 10 * HUNG):
            tallies[name].seconds += HUNG
            return "hung", name, seed, damage
        try:
            message = pipe.recv()
        except EOFError:
            return "crash", name, seed, damage
        if message[0] == "over":
            return "over", name, seed, damage
        if message[0] == "job":
            name, seed, damage = message[1], -1, "undamaged input"
            if not tallies[name].tried:
                print(f"{name} …", flush=True)
        elif message[0] == "begin":
            seed, damage = message[1:]
            begin = time.monotonic()
        else:
            tallies[name].seconds += time.monotonic() - begin if seed >= 0 else 0.0
            if tallies[name].add(message[1], message[2]) and new is not None:
                new(message[2])
