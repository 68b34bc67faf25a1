"""Signal handling: a stage stops within seconds, saves its state, prints how to continue.

Ctrl-C, SIGTERM and SIGUSR1 of a scheduler, and SIGHUP of a closed terminal have the same effect:
stop, clean up, exit with 128 + the number of the signal. Training checks between two steps whether
it should stop (`patiently`, `heard`). All other work is interrupted immediately; that is safe
because outputs appear whole or not at all. A thread ends the process if the main thread does not
return to Python in time, for example from a compiled loop.
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
"""Seconds that work may take to end after a signal."""
SAVING_S = 120.0
"""Seconds that work may take to end while it is saving a state."""
WATCH_S = 0.5
"""Seconds between two checks whether the workflow still runs."""
_ENOUGH = 0
WORKFLOW = "STATETX_WORKFLOW"
"""Environment variable with the process number of the workflow; jobs end when that process ends."""
GO_ON = "run the same command again; it continues after the last finished part"


class Ended(SystemExit):
    """Exception that interrupts work; uncaught, it sets the exit code without a traceback.

    Parameters
    ----------
    number
        Number of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.number = number


class _State:
    """State of signal handling in this process.

    Attributes
    ----------
    heard
        Number of the signal that arrived, or None.
    patient
        Number of open `patiently` blocks.
    slow
        Number of open `slowly` blocks.
    watched
        Whether the thread that ends the process runs.
    go_on
        Instruction that the last message gives.
    """

    def __init__(self) -> None:
        self.heard: int | None = None
        self.patient = 0
        self.slow = 0
        self.watched = False
        self.go_on = GO_ON


_state = _State()


def heard() -> int | None:
    """Return the number of the signal that asked this process to stop, or None."""
    return _state.heard


def go_on(how: str) -> None:
    """Set the instruction that is printed if a signal stops the process from now on.

    Parameters
    ----------
    how
        How the user can continue, such as `GO_ON`.
    """
    _state.go_on = how


def line(number: int) -> str:
    """Return the last message of a stopped process: the signal, and how to continue.

    Parameters
    ----------
    number
        Number of the signal.
    """
    return str(Stopped(f"stopped by {signal.Signals(number).name}", fix=_state.go_on))


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Obey signals while the block runs; for the outermost call of a process.

    Raises
    ------
    Ended
        A signal arrived. Work inside `patiently` raises `Stopped` itself instead.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with _obeying(), _watched():
        yield


@contextlib.contextmanager
def door() -> Iterator[None]:
    """Turn a `StatetxError` or a signal into a message and an exit code."""
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
    """Exit after all clean-up is done, without unloading libraries, which may take seconds."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(128 + number)


@contextlib.contextmanager
def patiently() -> Iterator[None]:
    """Note signals without interrupting the block, which checks `heard` and stops by itself."""
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
    """Allow the block `SAVING_S` to end after a signal, because it or its ranks save a state."""
    _state.slow += 1
    try:
        yield
    finally:
        _state.slow -= 1


def obey() -> None:
    """Install the signal handlers again after a library has replaced them."""
    for number in SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN or number != signal.SIGHUP:
            signal.signal(number, _hear)


@contextlib.contextmanager
def _obeying() -> Iterator[None]:
    before: dict[int, Any] = {number: signal.getsignal(number) for number in SIGNALS}
    outermost = before[signal.SIGTERM] is not _hear
    obey()  # except SIGHUP under nohup
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
        # Terminal and workflow may both send a signal; the second must not interrupt the saving.
        return
    _state.heard = number
    if not _state.patient:
        raise Ended(number)


# ---------------------------------------------------------------------------------------------
# the threads that end the process


@contextlib.contextmanager
def _watched() -> Iterator[None]:
    """Run a thread during the block that ends this process if it hangs after a signal."""
    if _state.watched:
        yield
        return
    _state.watched = True
    reading, writing = _pipe()
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=_end_in_time, args=(reading,), daemon=True).start()
    pid = os.environ.get(WORKFLOW, "")
    # The workflow's process is not visible from inside a container or on another machine.
    if pid.isdigit() and int(pid) != os.getpid() and _lives(int(pid)):
        threading.Thread(target=_end_with, args=(int(pid),), daemon=True).start()
    try:
        yield
    finally:
        if _state.heard is None:  # after a signal the process may still hang: keep the thread
            signal.set_wakeup_fd(before)
            os.write(writing, bytes([_ENOUGH]))
            os.close(writing)
            _state.watched = False


def _pipe() -> tuple[int, int]:
    """Return the file descriptors of a pipe, for reading and for writing; writing never blocks.

    Python writes the number of every signal into it even while the main thread is busy.
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
    """End this job when the workflow that started it has ended: its result would not be used."""
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
    """Listen for signals that Snakemake receives, so that `stop` can forward them to its jobs.

    Parameters
    ----------
    stop
        Function that a thread calls with the number of every signal in `SIGNALS`.
    """
    os.environ[WORKFLOW] = str(os.getpid())
    reading, writing = _pipe()
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def listen() -> None:
        while True:
            stop(_next(reading, SIGNALS))

    threading.Thread(target=listen, daemon=True).start()
