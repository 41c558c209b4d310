"""Seconds by stage, on a clock that the test turns."""

import pytest

from airtune.federated.records.stopwatch import Stopwatch


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


def test_a_stage_within_another_stops_the_outer_one(clock: list[float]) -> None:
    watch = Stopwatch()
    clock[0] += 7  # nobody's
    with watch.stage("tune"):
        clock[0] += 1
        with watch.stage("encode"):
            clock[0] += 2
        clock[0] += 4
    clock[0] += 9
    with pytest.raises(ZeroDivisionError), watch.stage("encode"):
        clock[0] += 8
        raise ZeroDivisionError
    assert watch.take() == {"tune": 5, "encode": 10}
    assert watch.take() == {}


def test_waiting_is_divided_as_others_divided_theirs(clock: list[float]) -> None:
    watch = Stopwatch()
    with watch.stage("tune"):
        clock[0] += 10
    watch.share("tune", {})
    watch.share("tune", {"tune": 15.0, "encode": 5.0})
    assert watch.take() == {"tune": 7.5, "encode": 2.5}
