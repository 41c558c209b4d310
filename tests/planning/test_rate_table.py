"""Problems whose rates are those of a CQI table, against plain searches at its own rates."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from airtune.errors import InputError
from airtune.methods.plan import Planned, from_cell, plan
from airtune.planning.reading import scene_of
from airtune.planning.sections import CellSection
from airtune.section import check
from airtune.wireless.cqi import (
    CQI_EFFICIENCY,
    CQI_EFFICIENCY_256QAM,
    CQI_SNR_256QAM_DB,
    CQI_SNR_DB,
)
from tests.planning.cell_cases import COMMON, FEDSLLM, JCPBA, SFLLLM, TSFA, changed

TABLES = {
    "cqi": (CQI_EFFICIENCY, CQI_SNR_DB),
    "cqi-256qam": (CQI_EFFICIENCY_256QAM, CQI_SNR_256QAM_DB),
}
NOISE_DBM_HZ = -170.0


def table_rate(model: str, power_dbm: float, gain_db: float, bandwidth_hz: float) -> float:
    """The best tooth of the table within the bandwidth."""
    cn0 = 10 ** ((power_dbm + gain_db - NOISE_DBM_HZ) / 10)
    teeth = zip(*TABLES[model], strict=True)
    return float(max(eta * min(bandwidth_hz, cn0 / 10 ** (snr / 10)) for eta, snr in teeth))


def solved(problem: dict[str, Any], solver: str | None = None) -> Planned:
    found = plan(problem, solver)
    assert isinstance(found, Planned)
    return found


def two_clients(model: str, **keys: Any) -> dict[str, Any]:
    client = {
        "compute_delay_s": {"fixed": 0.05, "prunable": 0.4},
        "payload_bits": {"fixed": 1e5, "prunable": 2e6},
        "tx_power_dbm": 23,
    }
    return {
        "method": "jcpba",
        "bandwidth_hz": 2e6,
        "noise_psd_dbm_hz": NOISE_DBM_HZ,
        "rate_model": model,
        "pruning_rate_max": 0.9,
        "pruning_budget": 0.3,
        "clients": [{**client, "gain_db": -119.0}, {**client, "gain_db": -127.5}],
        **keys,
    }


@pytest.mark.parametrize("model", list(TABLES))
def test_pruning_and_bandwidth_against_a_grid(model: str) -> None:
    """No point of a fine grid beats the plan by more than its gap, and none the bound."""
    problem = two_clients(model)
    answer = solved(problem).answer
    assert answer["message"].endswith("the bound is that of the rates' concave envelope.")
    finish = []
    for client, row in zip(problem["clients"], answer["clients"], strict=True):
        rate = table_rate(model, 23, client["gain_db"], row["bandwidth_hz"])
        assert row["rate_bps"] == pytest.approx(rate, rel=1e-9)
        kept = 1 - row["pruning_rate"]
        finish.append(0.05 + kept * 0.4 + (1e5 + kept * 2e6) / rate)
    assert answer["latency_s"] == pytest.approx(max(finish), rel=1e-9)
    assert sum(row["pruning_rate"] for row in answer["clients"]) / 2 <= 0.3 + 1e-9
    best = np.inf
    for share, first in product(np.linspace(0.02, 0.98, 97), np.linspace(0, 0.6, 61)):
        latest = 0.0
        for client, part, rate_ in zip(
            problem["clients"], (share, 1 - share), (first, 0.6 - first), strict=True
        ):
            rate = table_rate(model, 23, client["gain_db"], part * 2e6)
            latest = max(latest, 0.05 + (1 - rate_) * 0.4 + (1e5 + (1 - rate_) * 2e6) / rate)
        best = min(best, latest)
    assert answer["lower_bound_s"] <= best * (1 + 1e-9)
    assert answer["latency_s"] <= best * 1.01
    assert answer["latency_s"] >= answer["lower_bound_s"]


@pytest.mark.parametrize(
    "solver", ["exact", "bcd", "equal", "uniform-pruning", "no-pruning", "none"]
)
def test_every_solver_keeps_its_own_rules(solver: str) -> None:
    planned = solved(two_clients("cqi"), solver)
    answer, exact = planned.answer, solved(two_clients("cqi")).answer
    assert answer["lower_bound_s"] == pytest.approx(exact["lower_bound_s"])
    assert answer["latency_s"] >= exact["lower_bound_s"]
    if solver in ("equal", "none"):
        assert [row["bandwidth_hz"] for row in answer["clients"]] == [1e6, 1e6]
    if solver in ("no-pruning", "none"):
        assert [row["pruning_rate"] for row in answer["clients"]] == [0, 0]


def test_shannon_is_as_if_the_key_were_absent() -> None:
    named, absent = two_clients("shannon"), two_clients("shannon")
    del absent["rate_model"]
    one, other = solved(named).answer, solved(absent).answer
    for answer in (one, other):
        del answer["solve_time_s"]
    assert one == other
    assert "envelope" not in one["message"]


@pytest.mark.parametrize("model", list(TABLES))
@pytest.mark.parametrize("case", [JCPBA, TSFA], ids=["jcpba", "tsfa"])
def test_a_cell_with_a_table_of_rates(case: dict[str, Any], model: str) -> None:
    """The explicit links are those of a run in the same cell, margin and noise figure included."""
    problem = changed(changed(case, "cell.rate_model", model), "cell.implementation_margin_db", 2.5)
    numbers = from_cell(problem).numbers
    assert numbers["rate_model"] == model
    planned = solved(problem)
    section = {**COMMON, "method": "x", "cell": problem["cell"]}
    scene = scene_of(check(CellSection, section))
    band = np.array([row["bandwidth_hz"] for row in planned.answer["clients"]])
    power_w = 10 ** ((scene.tx_power_dbm - 30) / 10)
    rates = scene.state.uplink(power_w).rate(band)
    assert [row["rate_bps"] for row in planned.answer["clients"]] == pytest.approx(rates, rel=1e-6)
    assert "rate_model" not in from_cell(case).numbers


def test_ranks_and_bandwidth_at_the_tables_rates() -> None:
    answer = solved(changed(TSFA, "cell.rate_model", "cqi")).answer
    better = solved(changed(TSFA, "cell.rate_model", "cqi-256qam")).answer
    assert answer["objective"] >= better["objective_lower_bound"]
    assert answer["objective"] >= answer["objective_lower_bound"]


def test_many_rounds_fade_around_the_table() -> None:
    from airtune.methods.soft_tsfa.problem import read, simulate

    numbers = from_cell({**changed(TSFA, "cell.rate_model", "cqi"), "round": "mean"}).numbers
    found = simulate(read(numbers), 5)
    assert found["mean_latency_s"] > 0


@pytest.mark.parametrize("case", [FEDSLLM, SFLLLM], ids=["fedsllm", "sflllm"])
def test_planners_that_rest_on_shannons_formula_refuse_it(case: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"rate_model is cqi.*shannon for {case['method']}"):
        plan(changed(case, "cell.rate_model", "cqi"))


def test_no_fixed_efficiency_beside_a_table() -> None:
    problem = two_clients("cqi")
    client = problem["clients"][1]
    del client["gain_db"], client["tx_power_dbm"]
    client["spectral_efficiency_bps_hz"] = 2.0
    with pytest.raises(InputError, match="spectral_efficiency_bps_hz of client 1"):
        plan(problem)
    with pytest.raises(InputError, match=r"rate_model is cq1, .*did you mean 'cqi'"):
        plan(two_clients("cq1"))
