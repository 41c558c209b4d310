"""The learning rate's factor by hand, its limits, and that the settings of a round carry it."""

import math

import pytest

from airtune.errors import InputError
from airtune.tuning.local import DECAYS, Schedule, TrainingSettings


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("constant", [1.0, 1.0, 1.0, 1.0]),
        ("linear", [1.0, 0.75, 0.5, 0.25]),
        ("cosine", [1.0, math.cos(math.pi / 8) ** 2, 0.5, math.sin(math.pi / 8) ** 2]),
    ],
)
def test_by_hand(kind: str, expected: list[float]) -> None:
    schedule = Schedule(kind, 4)
    assert [schedule.factor(index) for index in range(4)] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", DECAYS)
def test_warmup_rises_then_the_decay_begins(kind: str) -> None:
    schedule, plain = Schedule(kind, 7, warmup_rounds=3), Schedule(kind, 4)
    rising = [schedule.factor(index) for index in range(3)]
    assert rising == [0.25, 0.5, 0.75]
    assert [schedule.factor(3 + i) for i in range(4)] == [plain.factor(i) for i in range(4)]


@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("rounds", [1, 2, 100])
def test_a_decay_starts_whole_falls_and_stays_above_zero(kind: str, rounds: int) -> None:
    factors = [Schedule(kind, rounds).factor(index) for index in range(rounds)]
    assert factors[0] == 1.0
    assert factors == sorted(factors, reverse=True)
    assert len(set(factors)) == rounds
    assert factors[-1] > 0


def test_settings_of_a_round() -> None:
    settings = TrainingSettings(learning_rate=0.2, schedule=Schedule("linear", 4))
    once = settings.in_round(3)
    assert once.learning_rate == pytest.approx(0.05)
    assert once.in_round(3) == once, "the factor is applied once"
    assert TrainingSettings().in_round(9) == TrainingSettings()


@pytest.mark.parametrize("warmup_rounds", [-1, 4, 5])
def test_refuses_a_warmup_that_never_ends(warmup_rounds: int) -> None:
    with pytest.raises(InputError, match="warmup_rounds"):
        Schedule("cosine", 4, warmup_rounds)


def test_refuses_an_unknown_kind() -> None:
    with pytest.raises(InputError, match="one of constant, linear, cosine"):
        Schedule("step", 4)
