"""The jcpba problem file: what it means, what it must refuse, and the answer's exact keys."""

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airtune.errors import InputError
from airtune.files import read_yaml_mapping
from airtune.methods.jcpba.problem import SOLVERS, answer, read
from airtune.methods.plan import Planned, plan
from airtune.wireless.rate import ShannonLinks

EXAMPLE = Path(__file__).parents[2] / "examples" / "jcpba.yaml"


def problem(**changes: Any) -> dict[str, Any]:
    """Two clients; `changes` with a client's key change the second."""
    client = {
        "weight": 1,
        "tx_power_dbm": 23,
        "gain_db": -110,
        "compute_delay_s": {"fixed": 0.1, "prunable": 8.1},
        "payload_bits": {"fixed": 0, "prunable": 4.7e6},
    }
    content: dict[str, Any] = {
        "method": "jcpba",
        "bandwidth_hz": 10.0e6,
        "noise_psd_dbm_hz": -174,
        "pruning_rate_max": 0.9,
        "pruning_budget": 0.3,
        "clients": [{"name": "a", **copy.deepcopy(client)}, {"name": "b", **client}],
    }
    for key, value in changes.items():
        target = content if key in content else content["clients"][1]
        if value is None:
            del target[key]
        else:
            target[key] = value
    return content


def solved(mapping: Any, solver: str | None = None) -> Planned:
    planned = plan(mapping, solver)
    assert isinstance(planned, Planned)
    return planned


class TestMeaning:
    def test_numbers_arrive_in_si_units(self) -> None:
        got = read(problem(fixed_delay_s=0.25, pruning_rate_min=0.1, gain_db=-120))
        assert got.bandwidth_hz == 1e7
        assert got.pruning_budget == 0.3
        assert got.names == ("a", "b")
        np.testing.assert_allclose(got.weight, 0.5)
        np.testing.assert_array_equal(got.fixed_delay_s, [0.0, 0.25])
        np.testing.assert_array_equal(got.fixed_compute_s, 0.1)
        np.testing.assert_array_equal(got.prunable_compute_s, 8.1)
        np.testing.assert_array_equal(got.prunable_bits, 4.7e6)
        np.testing.assert_array_equal(got.pruning_rate_min, [0.0, 0.1])
        expected = [10**2.3 * 1e-3 * g / 10**-20.4 for g in (1e-11, 1e-12)]
        assert isinstance(got.links, ShannonLinks)
        np.testing.assert_allclose(got.links.cn0_hz, expected, rtol=1e-13)

    def test_decibels_and_watts_are_the_same(self) -> None:
        linear = problem(tx_power_dbm=None, gain_db=None, tx_power_w=10**2.3 * 1e-3, gain=1e-11)
        assert solved(linear).answer["latency_s"] == pytest.approx(
            solved(problem()).answer["latency_s"], rel=1e-12
        )

    def test_spectral_efficiency_instead_of_power_and_gain(self) -> None:
        mapping = problem(tx_power_dbm=None, gain_db=None, spectral_efficiency_bps_hz=3.0)
        assert solved(mapping).answer["status"] == "optimal"

    def test_the_example_is_read_and_solved(self) -> None:
        found = solved(EXAMPLE).answer
        assert found["status"] == "optimal"
        assert found["gap"] < 1e-9
        assert [client["name"] for client in found["clients"]] == [
            "phone-near",
            "phone-far",
            "tablet",
            "old-board",
        ]


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"bandwidth_hz": -1}, "^bandwidth_hz is -1"),
            ({"bandwidth_hz": None}, "^bandwidth_hz is missing"),
            ({"bandwidth_hz": math.nan}, "^bandwidth_hz is nan"),
            ({"bandwidth_hz": "10 MHz"}, "^bandwidth_hz is 10 MHz"),
            ({"pruning_budget": -0.1}, "^pruning_budget is -0.1"),
            ({"pruning_rate_max": 1.5}, "^pruning_rate_max is 1.5"),
            ({"noise_psd_dbm_hz": None}, "^noise_psd_dbm_hz is missing"),
            ({"clients": []}, "^clients is"),
            ({"weight": -1}, "^weight of client b is -1"),
            ({"tx_power_dbm": "loud"}, "^tx_power_dbm of client b is loud"),
            ({"tx_power_w": -0.2, "tx_power_dbm": None}, "^tx_power_w of client b is -0.2"),
            ({"gain_db": math.nan}, "^gain_db of client b is nan"),
            ({"gain_db": None}, "^gain of client b is missing"),
            ({"fixed_delay_s": -1}, "^fixed_delay_s of client b is -1"),
            ({"pruning_rate_min": 0.95}, "^pruning_rate_min of client b is 0.95"),
            ({"payload_bits": {"fixed": 0}}, "^payload_bits.prunable of client b is missing"),
            ({"payload_bits": {"fixed": -1, "prunable": 1}}, "^payload_bits.fixed of client b"),
            ({"payload_bits": 4.7e6}, "^payload_bits of client b is 4700000.0, .* a mapping"),
            ({"compute_delay_s": {"prunable": math.nan}}, "^compute_delay_s.prunable of client b"),
            (
                {"payload_bits": {"prunable": 1, "prunible": 2}},
                "prunible is not a key",
            ),
            ({"gain_dbm": 3}, "gain_dbm is not a key.*gain_db"),
        ],
    )
    def test_one_sentence_that_names_client_and_field(
        self, change: dict[str, Any], words: str
    ) -> None:
        with pytest.raises(InputError, match=words) as caught:
            read(problem(**change))
        sentence = str(caught.value)
        assert sentence.endswith((".", "?"))
        assert "\n" not in sentence

    def test_unknown_key_at_the_top(self) -> None:
        with pytest.raises(InputError, match=r"bandwith_hz is not a key.*bandwidth_hz"):
            read({**problem(), "bandwith_hz": 1.0})

    def test_unknown_method_and_solver(self) -> None:
        with pytest.raises(InputError, match=r"method is jcbpa.*did you mean 'jcpba'"):
            plan(problem(method="jcbpa"))
        with pytest.raises(InputError, match=r"method is missing"):
            plan(problem(method=None))
        with pytest.raises(InputError, match=r"solver for jcpba is exakt.*did you mean 'exact'"):
            plan(problem(), solver="exakt")


class TestAnswer:
    KEYS = (
        "status",
        "message",
        "latency_s",
        "lower_bound_s",
        "gap",
        "solver",
        "solve_time_s",
        "iterations",
        "check",
        "clients",
    )

    @pytest.mark.parametrize("solver", SOLVERS)
    def test_exact_keys_and_plain_values(self, solver: str) -> None:
        found = solved(problem(), solver).answer
        assert tuple(found) == self.KEYS
        assert found["solver"] == solver
        assert found["status"] in ("optimal", "feasible")
        assert json.loads(json.dumps(found, allow_nan=False)) == found
        for client in found["clients"]:
            assert {"name", "bandwidth_hz", "pruning_rate", "compute_s", "upload_s"} <= set(client)
            spent = client["fixed_delay_s"] + client["compute_s"] + client["upload_s"]
            assert spent <= found["latency_s"] * (1 + 1e-12)

    def test_infeasible(self) -> None:
        planned = solved(problem(gain_db=-math.inf))
        found = planned.answer
        assert tuple(found) == (*self.KEYS[:2], "plan", *self.KEYS[2:])
        assert found["plan"] is None
        assert found["status"] == "infeasible"
        assert found["message"].startswith("client b has a payload but no signal")
        assert [found[key] for key in ("latency_s", "lower_bound_s", "gap", "clients")] == [
            None
        ] * 4

    def test_zero_latency_has_no_gap(self) -> None:
        nothing = {"compute_delay_s": {"prunable": 0}, "payload_bits": {"prunable": 0}}
        mapping = problem()
        for client in mapping["clients"]:
            client.update(nothing)
        found = solved(mapping).answer
        assert found["latency_s"] == 0
        assert found["gap"] == 0

    def test_clients_without_names_are_numbered(self) -> None:
        mapping = problem(name=None)
        got = read(mapping)
        assert [client["name"] for client in answer(got, SOLVERS["exact"](got))["clients"]] == [
            "a",
            "1",
        ]

    def test_twins_get_the_same(self) -> None:
        first, second = solved(problem(name="twin")).answer["clients"]
        assert first["bandwidth_hz"] == pytest.approx(second["bandwidth_hz"], rel=1e-9)


class TestDraws:
    def test_columns_with_a_draw_axis_give_one_plan_per_draw(self) -> None:
        rng = np.random.default_rng(0)
        gains_db = rng.uniform(-125, -100, (5, 3))
        clients: dict[str, Any] = {
            "name": ["a", "b", "c"],
            "weight": np.array([1.0, 2.0, 3.0]),
            "tx_power_dbm": 23,
            "gain_db": gains_db,
            "compute_delay_s": {"fixed": 0.1, "prunable": np.array([3.0, 5.0, 8.0])},
            "payload_bits": {"prunable": 4.7e6},
        }
        batch = plan({**problem(), "clients": clients})
        assert isinstance(batch, list)
        assert len(batch) == 5
        for draw, planned in enumerate(batch):
            rows = [
                {
                    "name": clients["name"][n],
                    "weight": n + 1,
                    "tx_power_dbm": 23,
                    "gain_db": float(gains_db[draw, n]),
                    "compute_delay_s": {"fixed": 0.1, "prunable": [3.0, 5.0, 8.0][n]},
                    "payload_bits": {"prunable": 4.7e6},
                }
                for n in range(3)
            ]
            alone = solved({**problem(), "clients": rows})
            assert planned.answer["latency_s"] == pytest.approx(alone.answer["latency_s"])
            assert planned.problem.names == ("a", "b", "c")

    def test_one_draw_is_still_a_list(self) -> None:
        clients = {
            "spectral_efficiency_bps_hz": np.ones((1, 2)),
            "compute_delay_s": {"prunable": np.ones(2)},
            "payload_bits": {"prunable": np.ones(2)},
        }
        batch = plan({**problem(noise_psd_dbm_hz=None), "clients": clients})
        assert isinstance(batch, list)
        assert len(batch) == 1

    def test_columns_without_draws_are_one_problem(self) -> None:
        clients = {
            "spectral_efficiency_bps_hz": np.ones(2),
            "compute_delay_s": {"prunable": np.ones(2)},
            "payload_bits": {"prunable": np.ones(2)},
        }
        assert isinstance(plan({**problem(noise_psd_dbm_hz=None), "clients": clients}), Planned)

    def test_unequal_draws_are_refused(self) -> None:
        clients = {"gain": np.ones((2, 2)), "spectral_efficiency_bps_hz": np.ones((3, 2))}
        with pytest.raises(InputError, match=r"draws is 2 and 3 in different columns"):
            plan({**problem(), "clients": clients})


def test_the_example_says_what_it_does() -> None:
    mapping = read_yaml_mapping(EXAMPLE, "problem")
    assert isinstance(mapping["bandwidth_hz"], float)
    read(mapping)
