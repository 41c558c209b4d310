"""A pipe delivers every message once and in order, whenever its connection breaks."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airtune.deploy.pipe import AHEAD, Pipe
from airtune.deploy.wire import Frame, WireError


def numbered(count: int) -> list[Frame]:
    return [Frame("gradient", {"step": step}) for step in range(count)]


@given(st.integers(1, 12), st.lists(st.integers(0, 12), max_size=5))
def test_messages_arrive_once_in_order(count: int, breaks: list[int]) -> None:
    """One side sends, the other receives; each break loses what was on the way."""
    sender, receiver, got = Pipe(), Pipe(), []
    for frame in numbered(count):
        sender.send(frame)
    sender.close("done")
    for limit in [*breaks, count]:
        connection = sender.connect()
        for carried, message in enumerate(sender.outgoing(connection, receiver.received, 0.0)):
            assert message is not None
            if carried == limit:
                break
            receiver.deliver(*message)
            got.append(receiver.receive("gradient", 1.0))
    assert got == numbered(count)


def test_a_process_that_starts_again_sends_what_is_missing_alone() -> None:
    """The server has two messages; a new process makes all three, of which one travels."""
    again = Pipe()
    for frame in numbered(3):
        again.send(frame)
    again.close("done")
    assert [m and m[0] for m in again.outgoing(again.connect(), 2, 0.0)] == [2]


def test_repeated_messages_are_dropped_and_gaps_refused() -> None:
    pipe, (first, second) = Pipe(), numbered(2)
    pipe.deliver(0, first)
    pipe.deliver(0, second)
    assert pipe.receive("gradient", 1.0) == first
    with pytest.raises(WireError, match="Message 2 came where 1 was due"):
        pipe.deliver(2, second)
    with pytest.raises(TimeoutError):
        pipe.receive("gradient", 0.01)


def test_what_a_peer_holds_back_is_bounded() -> None:
    pipe = Pipe()
    for number, frame in enumerate(numbered(AHEAD)):
        pipe.deliver(number, frame)
    with pytest.raises(WireError, match="More messages"):
        pipe.deliver(AHEAD, Frame("gradient"))


def test_a_newer_connection_takes_over() -> None:
    pipe, ended = Pipe(), threading.Event()
    old = pipe.connect()

    def carry() -> None:
        for _ in pipe.outgoing(old, 0, 5.0):
            pass
        ended.set()

    threading.Thread(target=carry, daemon=True).start()
    pipe.connect()
    assert ended.wait(5.0)


def test_a_closed_pipe_gives_its_reason_once_it_is_read() -> None:
    pipe = Pipe()
    pipe.deliver(0, Frame("gradient"))
    pipe.close("The round is over.")
    assert pipe.receive("gradient", 1.0).kind == "gradient"
    with pytest.raises(WireError, match="The round is over"):
        pipe.receive("gradient", 1.0)
    other = Pipe()
    other.deliver(0, Frame("hidden"))
    with pytest.raises(WireError, match="'gradient' was expected, and 'hidden' came"):
        other.receive("gradient", 1.0)
