"""Costs to the target, and arms against the first, on numbers that can be checked by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from airtune.comparison.measure import (
    costs_until,
    default_target,
    measure_arms,
    reached,
    statistics,
)
from airtune.comparison.table import HEADINGS, comparison_sentences, table_rows
from airtune.jobs.job import RunResult
from tests.report.views import records


def run(
    arm: str, seed: int, losses: list[float], latency_s: float = 10.0, **round_fields: Any
) -> RunResult:
    """A run with the same latency, 8 MB up, 1 MB down, 5 J and 6 FLOP in each round."""
    (filled,) = records(rounds=1, clients=2)
    computed = [
        replace(entry, flops=flops) for entry, flops in zip(filled.clients, (2.0, 4.0), strict=True)
    ]
    made = [
        replace(
            filled,
            round=number + 1,
            test_loss=loss,
            latency_s=latency_s,
            virtual_time_s=latency_s * (number + 1),
            uplink_bits=64_000_000,
            downlink_bits=8_000_000,
            energy_j=5.0,
            clients=computed,
            **round_fields,
        )
        for number, loss in enumerate(losses)
    ]
    return RunResult(arm, seed, Path(), {"start_test_loss": 4.0, "stopped": None}, made)


def compared(results: list[RunResult], target: float, source: str = "given") -> dict[str, Any]:
    return {
        "target_loss": target,
        "target_source": source,
        "arms": measure_arms(results, target),
    }


def test_costs_until_a_round() -> None:
    assert costs_until(run("a", 0, [3.0, 2.0, 1.0]).records, 2) == {
        "rounds": 2,
        "virtual_time_s": 20.0,
        "uplink_bytes": 16e6,
        "downlink_bytes": 2e6,
        "energy_j": 10.0,
        "flops": 12.0,
        "server_flops": 0.0,
        "server_energy_j": 0.0,
    }


def test_what_a_main_server_adds_is_said() -> None:
    split = run("split", 0, [3.0, 1.0], server_flops=4e12, server_energy_j=50.0)
    sentences = comparison_sentences(compared([run("whole", 0, [3.0, 1.0]), split], 2.0))
    told = [sentence for sentence in sentences if "main server" in sentence]
    assert told == [
        "The main server of split adds 8 TFLOP and 100 J to the clients' to the target."
    ]
    unpowered = run("split", 0, [1.0], server_flops=4e12)
    assert "adds 4 TFLOP to" in comparison_sentences(compared([unpowered], 2.0))[-1]


def test_reached_at_the_first_round_at_or_below() -> None:
    records = run("a", 0, [3.0, 2.0, 2.5, 1.0]).records
    assert [reached(records, target) for target in (3.5, 2.0, 1.5, 0.5)] == [1, 2, 4, None]


def test_default_target_is_what_every_run_of_the_first_arm_reached() -> None:
    results = [
        run("a", 0, [3.0, 1.0, 1.2]),
        run("b", 0, [0.1]),
        run("a", 1, [2.0, 1.5, 1.4]),
        RunResult("a", 2, Path(), failure="x."),
    ]
    assert default_target(results) == 1.4
    assert default_target([RunResult("a", 0, Path(), failure="x.")]) is None


def test_a_share_of_the_first_arms_descent() -> None:
    # From 4 before training to 1.4, and to nothing that another arm reached.
    results = [run("a", 0, [3.0, 1.0]), run("b", 0, [0.1]), run("a", 1, [2.0, 1.4])]
    assert default_target(results, 0.5) == pytest.approx(2.7)
    assert default_target(results, 1.0) == 1.4
    told = comparison_sentences({**compared(results, 2.7, "first arm"), "target_share": 0.5})
    assert told[0] == (
        "The target is a test loss of 2.7 nat, 50 % of the way from a's loss before training to "
        "the lowest that every run of a reached."
    )


def test_statistics() -> None:
    assert statistics([1.0, 3.0]) == {
        "mean": 2.0,
        "sd": pytest.approx(2.0**0.5),
        "min": 1.0,
        "max": 3.0,
    }
    assert statistics([5.0])["sd"] == 0.0


def test_ratios_are_taken_seed_by_seed() -> None:
    results = [
        run("slow", 0, [2.0, 1.0], 10.0),
        run("slow", 1, [1.0, 1.0], 30.0),
        run("quick", 0, [1.0, 0.9], 5.0),
    ]
    slow, quick = measure_arms(results, 1.0)
    # Seed 0 took the first arm 20 s and the second 5 s; seed 1 has nothing to be compared with.
    assert quick["ratio"]["virtual_time_s"] == pytest.approx(0.25)
    assert quick["ratio"]["final_test_loss"] == pytest.approx(0.9)
    assert quick["ratio"]["seconds_a_round"] == pytest.approx(0.5)
    assert slow["ratio"]["virtual_time_s"] == 1.0
    assert slow["to_target"]["virtual_time_s"]["mean"] == pytest.approx(25.0)
    told = comparison_sentences(compared(results, 1.0))
    assert "quick is the fastest to the target: 5 s, ×0.25 of slow." in told
    # Both send the same a round, and the second takes one round, so half.
    assert any("quick sends least up to the target: 8 MB" in sentence for sentence in told)


def test_equal_arms_are_not_called_better() -> None:
    told = comparison_sentences(compared([run("a", 0, [1.0]), run("b", 0, [1.0])], 1.0))
    assert told == ["The target is a test loss of 1 nat."]


def test_no_silent_blanks() -> None:
    results = [
        run("a", 0, [1.0]),
        run("a", 1, [3.0]),
        run("b", 0, [2.0, 1.7]),
        RunResult("c", 0, Path(), failure="client 3 has no signal."),
    ]
    numbers = compared(results, 1.0)
    first, missed, failed = table_rows(numbers)
    assert first[3] == "1, 1 of 2 seeds"
    assert missed[3] == "not reached (best 1.7)"
    assert failed[2] == "failed"
    assert [row[1] for row in (first, missed, failed)] == ["2", "1", "0"]
    assert {len(row) for row in (first, missed, failed)} == {len(HEADINGS)}
    told = comparison_sentences(numbers)
    assert any("only in part by a (1 of 2 seeds)" in sentence for sentence in told)
    assert "c, seed 0, failed: client 3 has no signal." in told


def test_collecting_the_data_wins_no_headline() -> None:
    results = [run("fedlora", 0, [2.0, 1.0]), run("pooled", 0, [1.0]), run("b", 0, [2.0, 1.5, 1.0])]
    numbers = compared(results, 1.0)
    numbers["arms"][1]["method"] = "centralised"
    told = comparison_sentences(numbers)
    assert not any(sentence.startswith("pooled is the fastest") for sentence in told)
    assert not any(sentence.startswith("pooled sends") for sentence in told)
    assert "fedlora sends least up to the target: 16 MB." in told
    assert any(
        "pooled is left out" in s and "collecting the data is not counted" in s for s in told
    )


@pytest.mark.parametrize(("energy_j", "said"), [(0.0, "is not counted"), (9.0, "and 9 J to")])
def test_a_main_server_at_no_power_is_said(energy_j: float, said: str) -> None:
    split = run("sflllm", 0, [1.0], server_flops=5.0, server_energy_j=energy_j)
    told = comparison_sentences(compared([run("a", 0, [2.0, 1.0]), split], 1.0))
    (sentence,) = [s for s in told if s.startswith("The main server of sflllm")]
    assert said in sentence
    assert any("takes the least of the clients' energy" in s for s in told)


def test_arms_of_other_numbers_of_seeds_say_so() -> None:
    results = [run("a", 0, [1.0]), run("a", 1, [1.0]), run("b", 0, [1.0])]
    numbers = compared(results, 1.0)
    assert [row[1] for row in table_rows(numbers)] == ["2", "1"]
    assert any(s.startswith("Arms were run on 1 or 2 seeds") for s in comparison_sentences(numbers))
    same = compared(results[:1] + results[2:], 1.0)
    assert not any("Arms were run" in s for s in comparison_sentences(same))
