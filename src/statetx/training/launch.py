"""Start several processes on a machine that train a network together."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import signal
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from statetx.core import stopping
from statetx.core.errors import ModelError, StatetxError, Stopped

log = logging.getLogger(__name__)

RENDEZVOUS_S = 600
"""Seconds for the processes to connect to each other; each of them imports torch first."""

SAVING_S = 120
"""Seconds for a stopped process to finish its step and to save, before it is killed."""


def launch(work: Callable[..., None], arguments: dict[str, Any], processes: int) -> None:
    """Call ``work(**arguments)`` in several new processes of this machine and wait for them.

    If a process fails, the others are ended. SIGTERM and SIGUSR1 are passed on as SIGTERM.

    Parameters
    ----------
    work
        A function that can be pickled.
    arguments
        Keyword arguments of `work`, which can be pickled.
    processes
        Number of processes: a process per GPU, if there are GPUs.

    Raises
    ------
    ModelError
        There are fewer GPUs than processes, or a process failed. The error of the first failed
        process is raised.
    Stopped
        A signal stopped the processes.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if torch.cuda.is_available() and torch.cuda.device_count() < processes:
        raise ModelError(
            f"{processes} devices are set, but this machine has {torch.cuda.device_count()} "
            "visible GPUs",
            where="devices",
            fix="lower devices of the model, or run where there are enough GPUs",
        )
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", str(SAVING_S))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=uuid.uuid4().hex,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        rdzv_timeout=RENDEZVOUS_S,
        max_restarts=0,
        monitor_interval=0.5,
    )
    level = log.level
    threads = max(1, torch.get_num_threads() // processes)
    with (
        tempfile.TemporaryDirectory() as reports,
        usr1_is_term(),
        _handlers_restored(),
        stopping.slowly(),
    ):
        try:
            elastic_launch(config, _process)(work, arguments, reports, threads, level)
        except ChildFailedError as error:
            raise _first_failure(
                Path(reports), f"a process of the training failed: {error}"
            ) from None
        except SignalException as error:
            raise _first_failure(
                Path(reports), f"training was stopped by {error.sigval.name}", error.sigval
            ) from None


def _process(
    work: Callable[..., None], arguments: dict[str, Any], reports: str, threads: int, level: int
) -> None:
    """Run `work` in a process; write an error that a user can fix to `reports`, then exit."""
    logging.basicConfig(format="%(message)s")
    log.setLevel(level)
    torch.set_num_threads(threads)
    try:
        with stopping.stoppable():
            work(**arguments)
    except StatetxError as error:
        (Path(reports) / os.environ["RANK"]).write_bytes(pickle.dumps(error))
        sys.exit(error.exit_code)


def _first_failure(reports: Path, otherwise: str, number: int | None = None) -> StatetxError:
    files = sorted(reports.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    if not files and number is not None:
        return Stopped(otherwise, fix=stopping.GO_ON, number=number)
    if not files:
        return ModelError(
            otherwise,
            where="training",
            fix="read the messages of the processes above; run the same command again to resume "
            "from the last saved step",
        )
    error: StatetxError = pickle.loads(files[0].read_bytes())
    return error


@contextlib.contextmanager
def _handlers_restored() -> Iterator[None]:
    """Restore signal handlers, which torch's launcher replaces by handlers that raise."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def usr1_is_term() -> Iterator[None]:
    """Treat SIGUSR1, which schedulers send before a job's time is up, as SIGTERM: save and end."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)
