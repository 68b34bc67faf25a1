"""What a signal does: every stage ends within seconds, saves what it can, and says how to go on.

Ctrl-C, a scheduler's SIGTERM and SIGUSR1, and a closed terminal (SIGHUP) are the same: leave off,
clean up, exit with 128 + the number of the signal. A training asks between its steps whether it
shall stop (`patiently`, `heard`); all other work is broken off where it is, and outputs that
appear whole or not at all need no more. Work that does not come back to Python in time, in
compiled loops say, is ended from a thread.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

from statetx.core.errors import StatetxError, Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
GRACE_S = 3.0
"""How long work may take to come to an end after a signal."""
SAVING_S = 120.0
"""How long it may take where it is known to be saving a state."""
WATCH_S = 0.5
_ENOUGH = 0
WORKFLOW = "STATETX_WORKFLOW"
"""Environment variable: the process whose end is the end of a job, too."""
GO_ON = "run the same command again; it goes on from what was finished"


class Ended(SystemExit):
    """Breaks work off; uncaught it gives the right exit code, and no traceback."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


class _State:
    """What this process has heard, and how patient it is at the moment."""

    def __init__(self) -> None:
        self.heard: int | None = None
        self.patient = 0
        self.slow = 0
        self.watched = False
        self.go_on = GO_ON


_state = _State()


def heard() -> int | None:
    """Return the signal that asks this process to stop; None: there was none."""
    return _state.heard


def go_on(how: str) -> None:
    """Say how work goes on that is broken off from now on."""
    _state.go_on = how


def line(number: int) -> str:
    """Return what is said at the end: what happened, and how to go on."""
    return str(Stopped(f"stopped by {signal.Signals(number).name}", fix=_state.go_on))


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Obey signals while the block runs: for the outermost door of a process.

    Raises
    ------
    Ended
        A signal came; `Stopped` instead, where work ended between two steps.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _obeying(), _watched():
        yield


@contextlib.contextmanager
def door() -> Iterator[None]:
    """Turn errors that a user can mend, and signals, into a message and an exit code."""
    try:
        with stoppable():
            yield
    except StatetxError as error:
        if os.environ.get("STATETX_TRACEBACK"):
            traceback.print_exc()
        print(f"error: {error}", file=sys.stderr)
        if isinstance(error, Stopped):
            _leave(error.number)
        raise SystemExit(error.exit_code) from None
    except Ended as end:
        print(f"error: {line(end.number)}", file=sys.stderr)
        _leave(end.number)


def _leave(number: int) -> NoReturn:
    """Exit at once: all is cleaned up, and unloading libraries may take seconds."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(128 + number)


@contextlib.contextmanager
def patiently() -> Iterator[None]:
    """Only note signals while the block runs; the block asks `heard` and ends by itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _obeying():
        _state.patient += 1
        try:
            yield
        finally:
            _state.patient -= 1


@contextlib.contextmanager
def slowly() -> Iterator[None]:
    """Give the block time to end after a signal: it saves a state, or waits for those that do."""
    _state.slow += 1
    try:
        yield
    finally:
        _state.slow -= 1


def obey() -> None:
    """Take signals back from a library that has put its own handlers in their place."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN or number != signal.SIGHUP:
            signal.signal(number, _hear)


@contextlib.contextmanager
def _obeying() -> Iterator[None]:
    before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    outermost = before[signal.SIGTERM] is not _hear
    obey()  # but for SIGHUP where nohup asked for it
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if outermost and not _state.watched:
            _state.heard = None
            _state.go_on = GO_ON


def _hear(number: int, frame: FrameType | None) -> None:
    if _state.heard is not None:
        return  # a second one, as from a terminal and from the workflow, must not disturb the saving
    _state.heard = number
    if not _state.patient:
        raise Ended(number)


# ---------------------------------------------------------------------------------------------
# the thread that does not wait for ever


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """Have a thread that ends this process if it must, while the block runs."""
    if _state.watched:
        yield
        return
    _state.watched = True
    reading, writing = _pipe()
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_end_in_time, args=(reading,), daemon=True).start()
    pid = os.environ.get(WORKFLOW, "")
    # Not where it cannot be seen, from inside a container or on another machine.
    if pid.isdigit() and int(pid) != os.getpid() and _lives(int(pid)):
        threading.Thread(target=_end_with, args=(int(pid),), daemon=True).start()
    try:
        yield
    finally:
        if _state.heard is None:  # otherwise the process is ending, and may still hang
            signal.set_wakeup_fd(before)
            os.write(writing, bytes([_ENOUGH]))
            os.close(writing)
            _state.watched = False


def _pipe() -> tuple[int, int]:
    """Return a pipe whose end for writing never blocks: Python writes the number of every signal
    there at once, whatever the main thread is doing.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    return reading, writing


def _end_in_time(reading: int) -> None:
    number = _next(reading, (*SIGNALS, _ENOUGH))
    if number == _ENOUGH:
        os.close(reading)
        return
    begin = time.monotonic()
    while time.monotonic() - begin < (SAVING_S if _state.slow else GRACE_S):
        time.sleep(0.05)
    with contextlib.suppress(OSError, ValueError):
        print(f"error: {line(number)}", file=sys.stderr, flush=True)
    os._exit(128 + number)


def _next(reading: int, numbers: tuple[int, ...]) -> int:
    while True:
        for number in os.read(reading, 64):
            if number in numbers:
                return number


def _end_with(pid: int) -> None:
    """End when the workflow that started this job is no more: nobody would take the result."""
    while _state.watched:
        if not _lives(pid):
            os.kill(os.getpid(), signal.SIGTERM)
            return
        time.sleep(WATCH_S)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# ---------------------------------------------------------------------------------------------
# the workflow


def forward(stop: Callable[[int], None]) -> None:
    """Pass signals that Snakemake gets on to its jobs, which would not hear of them.

    Parameters
    ----------
    stop
        Called in a thread with the number of every signal that asks to stop.
    """
    os.environ[WORKFLOW] = str(os.getpid())
    reading, writing = _pipe()
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def listen() -> None:
        while True:
            stop(_next(reading, SIGNALS))

    threading.Thread(target=listen, daemon=True).start()
