"""Try damaged inputs on a reader, each in a process that may crash, hang or run out of memory.

A reader passes when every damaged input gives the result of the undamaged one or one `StatetxError`.
Anything else is a fault: another exception, another result, a crash, or too much time or memory.
"""

from __future__ import annotations

import contextlib
import hashlib
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
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from statetx.errors import StatetxError

SLOW = 10.0
"""Seconds that one input may take."""
HUNG = 15.0
"""Seconds after which the process is ended."""
BIG = 1 << 30
"""Bytes that one input may add to the peak memory; beyond twice as many, allocations fail."""
CALM = ("equal", "refused", "other")
"""Outcomes that are no faults. `other`: the damaged input is valid and means something else."""

Result = Mapping[str, Any]


def same(home: Path, good: Result, got: Result) -> str | None:
    """Judge a result: it must equal that of the undamaged input."""
    return difference(good, got)


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
        return (
            f"{self.outcome}: {self.damage}\n    {self.detail}\n"
            f"    again: python tests/fuzz/run.py --kind {self.kind} --seed {self.seed}"
        )


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
    for attempt in range(20):
        shutil.rmtree(home, ignore_errors=True)
        shutil.copytree(sample, home, symlinks=True)
        with contextlib.suppress(Exception):  # not every change is possible everywhere
            return kind.damage(home, random.Random(f"{kind.name} {seed} {attempt}"))
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
    except Exception as error:
        outcome, detail = "traceback", _place(error)
    seconds, grown = time.monotonic() - begin, _peak() - peak
    if outcome in CALM and seconds > SLOW:
        outcome, detail = "slow", f"slow | {seconds:.0f} s, then: {detail}"
    if outcome in CALM and grown > BIG:
        outcome, detail = "big", f"big | {grown >> 20} MB, then: {detail}"
    return outcome, detail


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


def _work(
    kind: Kind, sample: Path, seeds: range, seconds: float, pipe: Connection, keep: Path
) -> None:
    """Try seeds for some seconds; the child's side."""
    silence()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        first = Path(folder) / "undamaged"
        shutil.copytree(sample, first, symlinks=True)
        try:
            good = kind.read(first)
        except BaseException as error:
            fault = Fault(kind.name, -1, "broken", "undamaged input", _place(error))
            pipe.send(("end", "broken", fault))
            pipe.send(("over",))
            return
        shutil.rmtree(first, ignore_errors=True)
        _limit_memory()
        until = time.monotonic() + seconds
        seen: set[tuple[str, ...]] = set()
        for seed in seeds:
            if time.monotonic() > until:
                break
            home = Path(folder) / "input"
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
            shutil.rmtree(home, ignore_errors=True)
    pipe.send(("over",))


def silence() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    import logging

    logging.disable(logging.CRITICAL)


def _limit_memory() -> None:
    """Let allocations fail that no small input can need, before the machine suffers."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + 2 * BIG
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def run(
    kind: Kind, sample: Path, seeds: range, seconds: float, keep: Path, new: Any = None
) -> Tally:
    """Try damaged inputs of one kind, one seed each.

    Parameters
    ----------
    kind, sample
        The kind, and a directory that its `make` filled.
    seeds
        Which inputs; ends early after `seconds`.
    keep
        Directory for inputs that were faults, one of each sort.
    new
        Called with every fault of a new sort.
    """
    tally, context = Tally(kind.name), multiprocessing.get_context("fork")
    while seeds and tally.seconds < seconds:
        mine, other = context.Pipe()
        left = seconds - tally.seconds
        child = context.Process(target=_work, args=(kind, sample, seeds, left, other, keep))
        child.start()
        other.close()
        ended, seed, damage = _listen(mine, tally, new)
        if ended == "hung" and child.pid is not None:
            os.kill(child.pid, signal.SIGKILL)
        child.join()
        tally.seconds += HUNG if ended == "hung" else 0.1
        if ended == "over":
            break
        code = child.exitcode or 0
        fault = Fault(kind.name, seed, ended, damage, f"{ended} | exit code {code}")
        if tally.add(ended, fault) and new is not None:
            new(fault)
        if seed < 0:
            break
        damaged(kind, sample, seed, keep / f"{kind.name}-{seed}")
        seeds = range(seed + 1, seeds.stop)
    return tally


def _listen(pipe: Connection, tally: Tally, new: Any) -> tuple[str, int, str]:
    """Count what a child tells; say how it ended, at which seed and damage."""
    seed, damage, begin = -1, "undamaged input", None
    while True:
        if begin is not None:  # what starting and the undamaged input take does not count
            tally.seconds, begin = tally.seconds + time.monotonic() - begin, time.monotonic()
        if not pipe.poll(HUNG if seed >= 0 else 10 * HUNG):
            return "hung", seed, damage
        try:
            message = pipe.recv()
        except EOFError:
            return "crash", seed, damage
        if message[0] == "over":
            return "over", seed, damage
        if message[0] == "begin":
            seed, damage = message[1:]
            begin = begin or time.monotonic()
        elif tally.add(message[1], message[2]) and new is not None:
            new(message[2])
