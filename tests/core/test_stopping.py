"""Every signal ends the work in time, with the right exit code and one line on how to go on."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time

import pytest

from statetx.core import stopping
from statetx.core.errors import Stopped

SLEEPS = "time.sleep(100)"
NEVER_RETURNS = "hashlib.pbkdf2_hmac('sha256', b'x', b'y', 10**9)"
SWALLOWS = """
    while True:
        try:
            time.sleep(100)
        except BaseException:
            pass
"""
BETWEEN_STEPS = """
    with stopping.patiently():
        while stopping.heard() is None:
            time.sleep(0.01)
    raise Stopped("stopped after step 7", fix="run the same command again", number=stopping.heard())
"""


def start(work: str, **environment: str) -> subprocess.Popen[str]:
    code = (
        "import hashlib, time\nfrom statetx.core import stopping\nfrom statetx.core.errors import Stopped\n"
        f"with stopping.door():\n    print('ready', flush=True)\n    {work}\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    return child


def end(child: subprocess.Popen[str]) -> tuple[int, str]:
    _, error = child.communicate(timeout=30)
    return child.returncode, error


@pytest.mark.parametrize("number", stopping.SIGNALS, ids=lambda number: number.name)
def test_every_signal(number: signal.Signals) -> None:
    child = start(SLEEPS)
    begin = time.monotonic()
    child.send_signal(number)
    code, error = end(child)
    assert time.monotonic() - begin < 5
    assert code == 128 + number
    assert error.splitlines() == [f"error: stopped by {number.name}: {stopping.GO_ON}"]


@pytest.mark.parametrize("work", [NEVER_RETURNS, SWALLOWS, BETWEEN_STEPS])
def test_work_that_does_not_end_by_itself(work: str) -> None:
    child = start(work)
    time.sleep(0.2)
    begin = time.monotonic()
    child.send_signal(signal.SIGINT)
    time.sleep(0.1)
    child.send_signal(signal.SIGTERM)  # a second one changes nothing
    code, error = end(child)
    assert time.monotonic() - begin < 5
    assert code == 130
    assert len(error.splitlines()) == 1
    assert "run the same command again" in error


def test_what_is_being_saved_has_time() -> None:
    saves = "print('saves', flush=True)\n        time.sleep(5)"
    child = start(f"\n    with stopping.patiently(), stopping.slowly():\n        {saves}\n")
    assert child.stdout is not None
    assert child.stdout.readline() == "saves\n"
    child.send_signal(signal.SIGTERM)
    begin = time.monotonic()
    assert end(child)[0] == 0
    assert time.monotonic() - begin > 4


def test_a_job_ends_with_its_workflow() -> None:
    workflow = subprocess.Popen(["sleep", "100"])
    child = start(SLEEPS, **{stopping.WORKFLOW: str(workflow.pid)})
    workflow.kill()
    workflow.wait()
    code, error = end(child)
    assert code == 143
    assert "stopped by SIGTERM" in error


def test_nohup_is_respected() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        child = start("time.sleep(1)")
    finally:
        signal.signal(signal.SIGHUP, before)
    child.send_signal(signal.SIGHUP)
    assert end(child) == (0, "")


def test_a_program_that_uses_the_library_has_its_handlers_back() -> None:
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    with stopping.stoppable(), stopping.patiently():
        assert signal.getsignal(signal.SIGINT) is not before[0]
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before
    with stopping.patiently():
        os.kill(os.getpid(), signal.SIGINT)
        assert stopping.heard() == signal.SIGINT
    assert stopping.heard() is None


def test_the_error_is_one_line_and_survives_another_process() -> None:
    error = Stopped("stopped after step 3", where="state", fix="again", number=2)
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == str(error) == "stopped after step 3: again (state)"
    assert again.exit_code == 130
