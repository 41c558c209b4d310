"""The offline stages: rank search and budget search, as functions, commands and at the start."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from airtune import Experiment
from airtune.errors import InputError
from airtune.experiment.reading import read_config
from airtune.experiment.world import build_world
from airtune.files import read_yaml_mapping
from airtune.methods.jcpba.budget_search import search_budget
from airtune.methods.jcpba.options import JcpbaSection
from airtune.methods.sflllm.offline import choose_rank
from airtune.methods.sflllm.rounds_table import read_rounds
from airtune.methods.soft_tsfa.options import SoftTsfaSection
from airtune.methods.soft_tsfa.rank_search import fit_rounds, search_ranks
from airtune.methods.trial import ProxyRun, proxy_config, short_run
from airtune.update.svd import change_spectrum
from tests.cli.conftest import airtune, quick  # noqa: F401 (a fixture)
from tests.update.adapters import random_factors

Call = Callable[..., tuple[int, str, str]]
QUICK = quick("cell.bandwidth_hz=3e5")


@pytest.fixture(scope="module")
def table() -> Any:
    return search_ranks(read_config(None, QUICK[1::2]), build_world, (1, 4, 2), rounds=2, clients=2)


def test_scores_are_shares_and_the_best_is_the_least(table: Any) -> None:
    content = table.to_dict()
    rows = content["ranks"]
    assert [row["rank"] for row in rows] == [1, 2, 4]
    truncated = [row["truncated"] for row in rows]
    assert 1 > truncated[0] > truncated[1] > truncated[2] >= 0
    for row in rows:
        assert row["j"] == pytest.approx(row["truncated"] + row["dropped"] + row["covariance"])
        assert row["truncated"] + row["dropped"] <= 1
        assert len(row["losses"]) == 3
        assert 1 <= row["kept_ranks"] <= row["rank"]
    best = min(rows, key=lambda row: row["j"])
    assert content["best_rank"] == best["rank"]
    # Every proxy reaches the default target, the last of them in its last round.
    assert max(row["rounds_to_target"] for row in rows) == pytest.approx(2.0)


def test_the_same_search_gives_the_same_table(table: Any) -> None:
    config = read_config(None, QUICK[1::2])
    again = search_ranks(config, build_world, (1, 2, 4), rounds=2, clients=2)
    assert again.to_dict() == table.to_dict()


def test_sflllm_chooses_its_rank_from_a_real_search(table: Any, tmp_path: Path) -> None:
    path = tmp_path / "ranks.json"
    path.write_text(json.dumps(table.to_dict()))
    content = table.to_dict()["ranks"]
    key = "rounds_fitted" if content[0]["rounds_fitted"] is not None else "rounds_to_target"
    expected = {row["rank"]: row[key] for row in content if row[key] is not None}
    assert dict(read_rounds(str(path)).rounds) == pytest.approx(expected)
    told = [*QUICK[1::2], "method=sflllm", f"sflllm.rounds_table={path}"]
    config, evidence = choose_rank(read_config(None, told), build_world, lambda sentence: None)
    assert config.adapter.rank in expected
    best = min(evidence["ranks"], key=lambda row: row["total_delay_s"])
    assert config.adapter.rank == best["rank"]
    assert best["rounds"] == pytest.approx(expected[best["rank"]])


def test_a_short_run_is_the_beginning_of_the_real_one(tmp_path: Path) -> None:
    config = read_config(None, [*QUICK[1::2], "rounds=3", "training.schedule=cosine"])
    run = Experiment.of(config).run(tmp_path / "run")
    proxy = proxy_config(config, 2, config.clients.count)
    short = short_run(build_world(proxy), 2)
    start = run.summary["start_test_loss"]
    assert list(short.losses) == [start, *(r["test_loss"] for r in run.records[:2])]


@pytest.mark.parametrize("scale", [1e-4, 1.0])
def test_spectrum_is_that_of_the_dense_change(scale: float) -> None:
    shapes = {"x": (3, 17, 15), "y": (3, 9, 12)}
    start, change = random_factors(0, shapes), random_factors(1, shapes, scale)
    expected = torch.zeros(6, dtype=torch.float64)
    for name in shapes:
        a, b = start[f"{name}.lora_A.weight"].double(), start[f"{name}.lora_B.weight"].double()
        da, db = change[f"{name}.lora_A.weight"], change[f"{name}.lora_B.weight"]
        expected += torch.linalg.svdvals((b + db) @ (a + da) - b @ a)[:6].square()
    assert torch.allclose(change_spectrum(start, change), expected, rtol=1e-6)


def test_rounds_are_interpolated_and_fitted() -> None:
    run = ProxyRun((4.0, 3.0, 2.0), (0.0, 10.0, 30.0))
    assert run.rounds_to(2.5) == pytest.approx(1.5)
    assert run.time_to(2.5) == pytest.approx(20.0)
    assert run.rounds_to(5.0) == 0.0
    assert run.rounds_to(1.0) is None
    fitted, error = fit_rounds([3.0 + 8.0 / r for r in (1, 2, 4, 8)], [1, 2, 4, 8])
    assert fitted is not None
    assert fitted(16) == pytest.approx(3.5)
    assert error == pytest.approx(0.0, abs=1e-9)
    assert fit_rounds([3.0, None, 2.0], [1, 2, 4]) == (None, None)


@pytest.mark.slow
def test_budgets_trade_latency_for_loss() -> None:
    config = read_config(None, QUICK[1::2])
    found = search_budget(config, build_world, (0.4, 0.0), rounds=2)
    rows = found.to_dict()["budgets"]
    assert [row["pruning_budget"] for row in rows] == [0.0, 0.4]
    assert rows[1]["mean_latency_s"] < rows[0]["mean_latency_s"]
    best = min(rows, key=lambda row: row["time_to_target_s"])
    assert found.best == best["pruning_budget"]
    with pytest.raises(InputError, match=r"--target-loss is 0\.1"):
        search_budget(config, build_world, (0.0,), rounds=1, target_loss=0.1)


def test_commands_write_tables(airtune: Call, tmp_path: Path) -> None:  # noqa: F811
    options = ["--ranks", "1,2", "--rounds", 1, "--clients", 2]
    code, out, _ = airtune("rank-search", *QUICK, *options, "--out", "t.json")
    assert code == 0
    content = json.loads((tmp_path / "t.json").read_text())
    assert f"Rank {content['best_rank']} has the least J." in out
    code, out, err = airtune("rank-search", *QUICK, *options, "--out", "t.csv", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) == content
    rows = list(csv.DictReader((tmp_path / "t.csv").open()))
    assert [row["rank"] for row in rows] == ["1", "2"]
    budgets = ["--budgets", "0,0.3", "--rounds", 1, "--out", "b.yaml"]
    code, out, _ = airtune("budget-search", *QUICK, *budgets)
    assert code == 0
    assert "is the fastest" in out
    assert len(read_yaml_mapping(tmp_path / "b.yaml", "b")["budgets"]) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("rank-search", "--ranks", "1,x"), "--ranks is 1,x"),
        (("rank-search", "--ranks", "0"), "--ranks is [0]"),
        (("rank-search", "--ranks", "1,1"), "a list of different ranks"),
        (("budget-search", "--budgets", "0.2,0.2"), "a list of different budgets"),
        (("rank-search", "--ranks", "100000"), "adapter.rank"),
        (("budget-search", "--budgets", "1.5"), "--budgets is [1.5]"),
        (("budget-search", "--out", "table.txt"), "--out is table.txt"),
    ],
)
def test_wrong_candidates(airtune: Call, arguments: Any, words: str) -> None:  # noqa: F811
    code, _, err = airtune(*arguments, *QUICK)
    assert code == 2
    assert words in err


@pytest.mark.slow
def test_a_run_searches_by_itself_and_does_not_search_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airtune.methods.soft_tsfa.rank_search.RANKS", (1, 2))
    monkeypatch.setattr("airtune.methods.jcpba.budget_search.BUDGETS", (0.0, 0.3))
    soft = ("method=soft_tsfa", "soft_tsfa.rank_search=true", "rounds=1")
    run = Experiment.load(None, quick(*soft)[1::2]).run(tmp_path / "soft")
    evidence = json.loads((tmp_path / "soft/rank-search.json").read_text())
    assert run.config.adapter.rank == evidence["best_rank"]
    assert not run.config.section(SoftTsfaSection).rank_search
    (best,) = [row for row in evidence["ranks"] if row["rank"] == evidence["best_rank"]]
    measured = run.records[0]["measured"]
    assert measured["rank_energy"] == pytest.approx(
        best["truncated"] * measured["update_energy"], abs=1e-12
    )
    Experiment.resume(tmp_path / "soft", more_rounds=1)
    assert len(run.records) == 2
    pruned = ("method=jcpba", "jcpba.budget_search=true", "rounds=1")
    run = Experiment.load(None, quick(*pruned)[1::2]).run(tmp_path / "pruned")
    evidence = json.loads((tmp_path / "pruned/budget-search.json").read_text())
    assert run.config.section(JcpbaSection).pruning_budget == evidence["best_budget"]
    assert np.isfinite([row["time_to_target_s"] for row in evidence["budgets"]]).all()
