"""The rank, or local steps and rounds, that sflllm settles before round 1."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from airtune import Experiment
from airtune.errors import InputError
from airtune.experiment.offline import offline_stages
from airtune.experiment.reading import read_config
from airtune.experiment.world import build_world
from airtune.methods.sflllm.offline import choose_rank, count_by_accuracy
from airtune.methods.sflllm.options import SflllmSection
from airtune.methods.sflllm.rounds_table import read_rounds
from tests.methods.test_sflllm import settings


def quiet(sentence: str) -> None:
    assert sentence


def decided(*changes: str) -> tuple[Any, dict[str, Any]]:
    return choose_rank(read_config(None, settings(*changes)), build_world, quiet)


def test_few_rounds_win_until_a_rank_costs_too_much() -> None:
    """With as many rounds at every rank the smallest is cheapest; one fewer buys little."""
    config, evidence = decided("sflllm.rounds_table={1: 10, 4: 10, 8: 10}")
    assert config.adapter.rank == 1
    assert config.section(SflllmSection).rounds_table is None
    totals = [row["total_delay_s"] for row in evidence["ranks"]]
    assert totals == sorted(totals)
    assert evidence["total_delay_s"] == pytest.approx(totals[0])
    assert evidence["lower_bound_s"] <= totals[0]
    config, evidence = decided("sflllm.rounds_table={1: 100, 4: 10, 8: 9.99}")
    assert config.adapter.rank == 4
    for row in evidence["ranks"]:
        assert row["total_delay_s"] == pytest.approx(row["rounds"] * row["round_s"])


def test_random_rank_is_one_of_the_table_and_no_faster() -> None:
    best = decided("sflllm.rounds_table={1: 100, 4: 10, 8: 50}")[1]
    for seed in range(3):
        config, evidence = decided(
            "sflllm.rounds_table={1: 100, 4: 10, 8: 50}",
            "sflllm.solver=random-rank",
            f"seed={seed}",
        )
        assert config.adapter.rank in (1, 4, 8)
        if seed == 0:
            assert evidence["total_delay_s"] >= best["total_delay_s"] * (1 - 1e-9)


def test_a_run_is_resolved_at_the_chosen_rank(tmp_path: Path) -> None:
    told = settings("rounds=1", "sflllm.rounds_table={1: 30, 2: 90, 3: 10}")
    run = Experiment.load(None, told).run(tmp_path / "run")
    assert run.config.adapter.rank == 3
    assert run.config.section(SflllmSection).rounds_table is None
    assert json.loads((tmp_path / "run/rank-choice.json").read_text())["rank"] == 3
    assert run.records[0]["clients"][0]["rank"] == 3
    longer = Experiment.resume(tmp_path / "run", more_rounds=1)
    assert longer.config.adapter.rank == 3


def test_tables_of_a_search(tmp_path: Path) -> None:
    table = {
        "rounds_fit_error": 0.02,
        "ranks": [
            {"rank": 8, "rounds_to_target": 4, "rounds_fitted": 4.5},
            {"rank": 2, "rounds_to_target": None, "rounds_fitted": 7.25},
        ],
    }
    (tmp_path / "ranks.json").write_text(json.dumps(table))
    read = read_rounds(str(tmp_path / "ranks.json"))
    assert dict(read.rounds) == {2: 7.25, 8: 4.5}
    assert read.fit_error == 0.02
    table["ranks"][0]["rounds_fitted"] = None  # type: ignore[index]
    (tmp_path / "ranks.json").write_text(json.dumps(table))
    assert dict(read_rounds(str(tmp_path / "ranks.json")).rounds) == {8: 4.0}
    (tmp_path / "own.yaml").write_text("rounds: {4: 30, 1: 50}\n")
    assert list(read_rounds(str(tmp_path / "own.yaml")).rounds) == [1, 4]
    for text in ("{0: 3}", "{4: -1}", "{}", "{4: many}"):
        (tmp_path / "own.yaml").write_text(f"rounds: {text}\n")
        with pytest.raises(InputError, match=r"sflllm\.rounds_table"):
            read_rounds(str(tmp_path / "own.yaml"))
    with pytest.raises(InputError, match=r"sflllm\.rounds_table"):
        read_rounds(str(tmp_path / "nowhere.json"))


def test_a_rank_that_the_model_does_not_allow() -> None:
    with pytest.raises(InputError, match=r"adapter\.rank is 500"):
        decided("sflllm.rounds_table={4: 10, 500: 1}")


def test_local_accuracy_sets_steps_and_rounds() -> None:
    config = read_config(None, settings("sflllm.accuracy_a=8", "sflllm.accuracy_v=3"))
    counted, evidence = count_by_accuracy(config, build_world, quiet)
    eta = evidence["local_accuracy"]
    assert 0 < eta < 1
    assert counted.training.local_steps == max(1, math.ceil(-3 * math.log2(eta)))
    assert counted.rounds == math.ceil(8 / (1 - eta))
    section = counted.section(SflllmSection)
    assert (section.accuracy_a, section.accuracy_v) == (None, None)
    assert offline_stages(counted, quiet) == (counted, {})
    # Cheaper steps buy a better local accuracy.
    cheap = read_config(None, settings("sflllm.accuracy_a=8", "sflllm.accuracy_v=0.3"))
    assert count_by_accuracy(cheap, build_world, quiet)[1]["local_accuracy"] < eta
    with pytest.raises(InputError, match=r"sflllm\.accuracy_v is missing"):
        offline_stages(read_config(None, settings("sflllm.accuracy_a=8")), quiet)
