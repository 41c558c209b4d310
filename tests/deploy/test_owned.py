"""Names that carry their process, and signals that let the stack unwind."""

import os
import signal
import subprocess
import sys
import threading
from typing import Any

import pytest

from airtune.deploy.owned import ending_unwinds, is_left_over, own_name, uninterrupted


def test_a_name_is_left_over_once_its_process_is_dead() -> None:
    tell = "from airtune.deploy.owned import own_name; print(own_name())\ninput()"
    other = subprocess.Popen(
        [sys.executable, "-c", tell], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    name = other.stdout.readline().strip()
    assert not is_left_over(name)
    assert not is_left_over(own_name())
    other.communicate("\n")
    assert is_left_over(name)
    assert is_left_over(f"{name}-3")


def test_a_reused_number_is_another_process() -> None:
    pid, start, serial = own_name().removeprefix("airtune-").split("-")
    assert not is_left_over(f"airtune-{pid}-{start}-{serial}-s")
    assert is_left_over(f"airtune-{pid}-{int(start) - 1}-{serial}-s")


@pytest.mark.parametrize("name", ["eth0", "airtune", "airtune-", "airtune-x-1-0", "airtune-7-y-0"])
def test_other_names_are_left_alone(name: str) -> None:
    assert not is_left_over(name)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_unwinds_and_the_handler_goes_back(number: signal.Signals) -> None:
    assert signal.getsignal(number) is signal.SIG_DFL
    cleaned = []
    with pytest.raises(SystemExit) as ended, ending_unwinds():
        try:
            os.kill(os.getpid(), number)
            raise AssertionError
        finally:
            cleaned.append(number)
    assert (ended.value.code, cleaned) == (128 + number, [number])
    assert signal.getsignal(number) is signal.SIG_DFL


def test_a_programs_own_handler_and_other_threads_are_left_alone() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with ending_unwinds():
            os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
    handlers = []

    def look() -> None:
        with ending_unwinds():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert handlers == [signal.SIG_DFL]


def test_cleaning_up_is_not_cut_short() -> None:
    done = []
    with pytest.raises(SystemExit), ending_unwinds(), uninterrupted():
        os.kill(os.getpid(), signal.SIGTERM)
        done.append(True)
    assert done == [True]


def test_another_thread_may_take_the_signal() -> None:
    """A thread that does not block it: the handler waits for the end of the cleaning up."""
    let_go, done = threading.Event(), []
    other = threading.Thread(target=let_go.wait)
    other.start()
    try:
        with pytest.raises(SystemExit), ending_unwinds(), uninterrupted():
            os.kill(os.getpid(), signal.SIGTERM)
            other.join(0.5)  # on a busy machine it takes the signal later
            done += [sum(range(1000)) for _ in range(1000)]
        assert len(done) == 1000
    finally:
        let_go.set()
        other.join()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_signal_that_arrives_at_the_very_end_leaves_no_handler(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    true, late = signal.signal, [True]

    def interrupted(number: int, handler: Any) -> Any:
        if handler is signal.SIG_DFL and late:
            late.clear()
            raise SystemExit(128 + signal.SIGTERM)
        return true(number, handler)

    with pytest.raises(SystemExit), ending_unwinds():
        monkeypatch.setattr(signal, "signal", interrupted)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
