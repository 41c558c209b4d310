"""TSFA problem files: reading, refusals, the JSON answer, many rounds."""

import copy
import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airtune.allocation.solve import Status
from airtune.errors import InputError
from airtune.files import read_yaml_mapping
from airtune.methods.plan import Planned, plan
from airtune.methods.soft_tsfa.problem import SOLVERS, read, simulate
from tests.allocation.tsfa_twin import brute_force

EXAMPLE = Path(__file__).parents[2] / "examples" / "tsfa.yaml"
CLIENT: dict[str, Any] = {
    "name": "a",
    "tx_power_dbm": 23,
    "gain_db": -110,
    "compute_delay_s": 0.2,
    "rank_payload_bits": 2e5,
    "rank_energy": [0.6, 0.3, 0.1],
}
PROBLEM: dict[str, Any] = {
    "method": "tsfa",
    "bandwidth_hz": 1e6,
    "noise_psd_dbm_hz": -174,
    "latency_target_s": 1.0,
    "v": 5,
    "virtual_queue": 2.0,
    "clients": [
        CLIENT,
        {
            **CLIENT,
            "name": "b",
            "weight": 2,
            "gain_db": -121,
            "fixed_payload_bits": 1e4,
            "compute_delay_s": 0.5,
        },
        {
            "name": "c",
            "spectral_efficiency_bps_hz": 1.5,
            "compute_delay_s": 0.1,
            "rank_payload_bits": [3e5, 1e5],
            "rank_energy": [2.0, 1.5],
        },
    ],
}


def changed(**changes: Any) -> dict[str, Any]:
    """The problem with some keys changed (None: left out); `client_` keys change client a."""
    problem = copy.deepcopy(PROBLEM)
    for key, value in changes.items():
        place, name = problem, key
        if key.startswith("client_"):
            place, name = problem["clients"][0], key.removeprefix("client_")
        if value is None:
            del place[name]
        else:
            place[name] = value
    return problem


def answered(problem: dict[str, Any], solver: str | None = None) -> dict[str, Any]:
    planned = plan(problem, solver)
    assert isinstance(planned, Planned)
    answer: dict[str, Any] = json.loads(json.dumps(planned.answer, allow_nan=False))
    return answer


def test_the_numbers_are_read_in_si_units() -> None:
    problem = read(PROBLEM).one_round
    cn0 = 10 ** (2.3 - 11.0 + 17.4)
    assert problem.links.limit_bps()[0] == pytest.approx(cn0 / np.log(2) / 1e0)
    assert problem.links.rate(np.full(3, 1e6))[2] == 1.5e6
    assert problem.weight.tolist() == [0.25, 0.5, 0.25]
    assert problem.rank_energy[2].tolist()[:2] == [2.0, 1.5]
    assert np.isnan(problem.rank_energy[2, 2])
    assert problem.rank_payload_bits[:, 0].tolist() == [2e5, 2e5, 3e5]
    assert problem.outage_limit_s == 5.0
    assert problem.virtual_queue == 2.0
    assert problem.names == ("a", "b", "c")


def test_the_answer_has_the_agreed_keys_and_adds_up() -> None:
    answer = answered(PROBLEM)
    assert list(answer) == [
        "status",
        "message",
        "latency_s",
        "objective",
        "objective_lower_bound",
        "gap",
        "virtual_queue_next",
        "solver",
        "solve_time_s",
        "iterations",
        "check",
        "clients",
    ]
    problem = read(PROBLEM).one_round
    assert answer["status"] == "optimal"
    assert answer["objective"] == pytest.approx(brute_force(problem), rel=1e-9)
    assert answer["gap"] == answer["objective"] / answer["objective_lower_bound"] - 1
    assert answer["virtual_queue_next"] == max(2.0 + answer["latency_s"] - 1.0, 0.0)
    lost, latest, used = 0.0, 0.0, 0.0
    for weight, given, found in zip(
        [0.25, 0.5, 0.25], PROBLEM["clients"], answer["clients"], strict=True
    ):
        energy = given["rank_energy"]
        kept = found["kept_ranks"]
        assert found["name"] == given["name"]
        assert kept == sorted(set(kept))
        assert found["sparsity"] == pytest.approx(1 - len(kept) / len(energy))
        assert found["compute_s"] == given["compute_delay_s"]
        payload = np.broadcast_to(given["rank_payload_bits"], len(energy))[kept].sum()
        bits = given.get("fixed_payload_bits", 0.0) + payload
        assert found["upload_s"] == pytest.approx(bits / found["rate_bps"])
        lost += weight * (sum(energy) - sum(energy[rank] for rank in kept))
        latest = max(latest, found["compute_s"] + found["upload_s"])
        used += found["bandwidth_hz"]
    assert used <= 1e6 * (1 + 1e-12)
    assert answer["latency_s"] == pytest.approx(latest)
    assert answer["objective"] == pytest.approx(5 * lost + 2.0 * latest)


@pytest.mark.parametrize("solver", sorted(SOLVERS))
def test_every_solver_answers_in_the_same_form(solver: str) -> None:
    answer = answered(PROBLEM, solver)
    assert answer["solver"] == solver
    assert answer["status"] in ("optimal", "feasible")
    assert [client["name"] for client in answer["clients"]] == ["a", "b", "c"]
    assert sum(client["bandwidth_hz"] for client in answer["clients"]) <= 1e6 * (1 + 1e-9)
    if solver in ("dense", "fixed-sparsity"):
        assert answer["objective_lower_bound"] == pytest.approx(answered(PROBLEM)["objective"])
        assert answer["gap"] >= 0


def test_a_queue_per_client_comes_back_per_client() -> None:
    listed = changed(virtual_queue=[1.0, 0.0, 2.0], bandwidth_floor_hz=1e5)
    answer = answered(listed, "per-client-queues")
    assert len(answer["virtual_queue_next"]) == 3
    assert answer["clients"][1]["bandwidth_hz"] == pytest.approx(1e5)
    with pytest.raises(InputError, match="virtual_queue is a list"):
        plan(listed)


def test_a_client_in_outage_is_shown_as_skipped() -> None:
    answer = answered(changed(client_gain_db=-200))
    first = answer["clients"][0]
    assert first["in_outage"] is True
    assert first["kept_ranks"] == []
    assert first["sparsity"] == 1.0
    assert first["bandwidth_hz"] == first["rate_bps"] == first["upload_s"] == 0.0
    assert "1 of 3 clients in outage" in answer["message"]


def test_infeasible_has_the_same_keys_and_no_plan() -> None:
    problem = changed(clients=[{**CLIENT, "gain_db": -300}])
    planned = plan(problem)
    assert isinstance(planned, Planned)
    assert planned.solution.status is Status.INFEASIBLE
    answer = answered(problem)
    assert set(answer) == {*answered(PROBLEM), "plan"}
    assert answer["plan"] is None
    assert answer["clients"] is None
    assert answer["objective"] is None
    assert "client a is in outage" in answer["message"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"bandwidth_hz": None}, "bandwidth_hz is missing"),
        ({"bandwidth_hz": 0}, "bandwidth_hz is 0"),
        ({"v": None}, "v is missing"),
        ({"v": -1}, "v is -1"),
        ({"v": float("nan")}, "v is nan"),
        ({"latency_target_s": 0}, "latency_target_s is 0"),
        ({"noise_psd_dbm_hz": None}, "noise_psd_dbm_hz is missing"),
        ({"virtual_queue": -2}, "virtual_queue is -2"),
        ({"virtual_queue": [1, 2]}, "virtual_queue is a list of 2"),
        ({"outage_latency_s": 0}, "outage_latency_s is 0"),
        ({"latency_targets": 3}, "latency_targets is not a key that airtune knows"),
        ({"clients": []}, "clients is"),
        ({"sparsity": 1.2}, "sparsity is 1.2"),
        ({"channel": {"fading": "rician"}}, "channel.fading is rician"),
        ({"channel": {"seeds": 1}}, "channel.seeds is not a key that airtune knows"),
        ({"client_weight": -1}, "weight of client a"),
        ({"client_gain_db": None}, "gain of client a is missing"),
        ({"client_tx_power_dbm": "loud"}, "tx_power_dbm of client a is loud"),
        ({"client_compute_delay_s": None}, "compute_delay_s of client a is missing"),
        ({"client_compute_delay_s": -0.1}, "compute_delay_s of client a is -0.1"),
        ({"client_rank_energy": None}, "rank_energy of client a is missing"),
        ({"client_rank_energy": []}, "rank_energy of client a"),
        ({"client_rank_energy": [1, -1]}, "rank_energy of client a is -1"),
        ({"client_rank_energy": 4}, "rank_energy of client a is 4"),
        ({"client_rank_payload_bits": None}, "rank_payload_bits of client a is missing"),
        ({"client_rank_payload_bits": [1e5, 1e5]}, "rank_payload_bits of client a is a list of 2"),
        ({"client_rank_payload_bits": -1}, "rank_payload_bits of client a is -1"),
        ({"client_fixed_payload_bits": -1}, "fixed_payload_bits of client a"),
        ({"client_energy": [1]}, "clients.energy is not a key that airtune knows"),
    ],
    ids=lambda value: str(value)[:50],
)
def test_refuses_with_one_sentence(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as caught:
        plan(changed(**changes))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_arrays_and_draws_give_the_same_answers_as_lists() -> None:
    rows = [dict(row) for row in PROBLEM["clients"][:2]]
    columns = {
        "name": ["a", "b"],
        "weight": np.array([1.0, 2.0]),
        "tx_power_dbm": 23,
        "gain_db": np.array([[-110.0, -121.0], [-115.0, -105.0]]),
        "compute_delay_s": np.array([0.2, 0.5]),
        "rank_payload_bits": 2e5,
        "rank_energy": [[0.6, 0.3, 0.1]] * 2,
        "fixed_payload_bits": np.array([0.0, 1e4]),
    }
    plans = plan(changed(clients=columns))
    assert isinstance(plans, list)
    first = answered(changed(clients=rows))
    assert plans[0].answer["objective"] == pytest.approx(first["objective"], rel=1e-12)
    assert plans[1].answer["objective"] != pytest.approx(first["objective"])


def test_the_example_trades_energy_for_time() -> None:
    answer = answered(read_yaml_mapping(EXAMPLE, "problem"))
    assert answer["status"] == "optimal"
    sparsities = [client["sparsity"] for client in answer["clients"]]
    assert min(sparsities) == 0.0
    assert max(sparsities) >= 0.5


def test_many_rounds_are_summed_up_and_written(tmp_path: Path) -> None:
    path = tmp_path / "rounds.csv"
    summary = simulate(read(PROBLEM), 30, path)
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    rows = list(csv.DictReader(path.open()))
    assert list(rows[0]) == [
        "round",
        "latency_s",
        "virtual_queue",
        "dropped_energy",
        "outages",
        "ranks_sent",
    ]
    latency = [float(row["latency_s"]) for row in rows]
    assert summary["rounds"] == len(rows) == 30
    assert summary["mean_latency_s"] == pytest.approx(np.mean(latency))
    assert float(rows[0]["virtual_queue"]) == 2.0
    assert summary["reachable"] is True
    assert summary["least_reachable_target_s"] is None
    assert summary == simulate(read(PROBLEM), 30)
    other = simulate(read(changed(channel={"seed": 1})), 30)
    assert other["mean_latency_s"] != summary["mean_latency_s"]


def test_an_unreachable_target_is_named_with_the_least_that_is_not() -> None:
    problem = changed(latency_target_s=0.3, outage_latency_s=9.0, virtual_queue=0)
    summary = simulate(read(problem), 10)
    assert summary["reachable"] is False
    assert summary["least_reachable_target_s"] == summary["least_mean_latency_s"] > 0.5
    assert "cannot be reached" in summary["message"]
    assert summary["overshoot_limit_s"] > 0


def test_rounds_of_another_solver() -> None:
    problem = read(changed(latency_target_s=0.6, virtual_queue=20))
    answers = {name: simulate(problem, 10, None, name) for name in ("exact", "dense")}
    assert answers["exact"] == simulate(problem, 10)
    assert answers["dense"]["mean_dropped_energy"] < answers["exact"]["mean_dropped_energy"]
    assert answers["dense"]["mean_latency_s"] > answers["exact"]["mean_latency_s"]
    assert "dense does not heed the queue" in answers["dense"]["message"]
    sparse = simulate(problem, 10, None, "fixed-sparsity")
    assert sparse["mean_latency_s"] < answers["dense"]["mean_latency_s"]
    with pytest.raises(InputError, match="per-client-queues, but it must be one of exact"):
        simulate(problem, 10, None, "per-client-queues")


def test_a_target_that_skips_everybody_is_not_held() -> None:
    summary = simulate(read(changed(latency_target_s=1e-3, virtual_queue=0)), 10)
    assert summary["empty_rounds"] == 10
    assert summary["reachable"] is False
    assert summary["least_reachable_target_s"] > 0.1
    assert summary["message"].startswith("Every client is in outage in every round")
    held = changed(latency_target_s=summary["least_reachable_target_s"], virtual_queue=0)
    assert simulate(read(held), 10)["reachable"] is True
    own = simulate(read(changed(latency_target_s=1e-3, outage_latency_s=1e-3)), 10)
    assert own["least_reachable_target_s"] is None
    assert "raise outage_latency_s" in own["message"]


def test_the_message_tells_a_queue_that_is_still_filling() -> None:
    summary = simulate(read(changed(v=1e4, latency_target_s=0.8, virtual_queue=0)), 10)
    assert "the queue is still filling" in summary["message"]
    assert "meets the target" in simulate(read(changed(latency_target_s=9.0)), 5)["message"]


def test_empty_rounds_are_charged_and_said() -> None:
    """One far client: nearly a third of the rounds are empty, which once 'met' the target."""
    far = {**CLIENT, "gain_db": -146, "compute_delay_s": 0.0, "rank_energy": [1.0]}
    problem = {**PROBLEM, "clients": [far], "latency_target_s": 1.7, "outage_latency_s": 4.0}
    summary = simulate(read(problem), 300)
    assert 30 < summary["empty_rounds"] < 150
    happened = (300 * summary["mean_latency_s"] - 4.0 * summary["empty_rounds"]) / (
        300 - summary["empty_rounds"]
    )
    assert happened < 1.7
    assert summary["mean_latency_s"] > 1.7
    assert not summary["reachable"]
    assert summary["outage_latency_s"] == 4.0
    assert (
        f"in {summary['empty_rounds']} of 300 rounds every client was in outage, and the "
        in (summary["message"])
    )
    queue = 300 * (summary["mean_latency_s"] - 1.7)
    assert summary["virtual_queue_next"] >= queue


def test_a_long_simulation_says_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    quiet = simulate(read(PROBLEM), 3, say=said.append)
    assert said == []
    monkeypatch.setattr("airtune.methods.soft_tsfa.problem.SILENT_S", 0.0)
    assert simulate(read(PROBLEM), 3, say=said.append) == quiet
    assert said[:3] == [f"still simulating: round {index} of 3" for index in (1, 2, 3)]
