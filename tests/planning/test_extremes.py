"""Problem files with what nobody can mean: one sentence each, and no warning beside an answer."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from airtune.errors import InputError
from airtune.files import read_yaml_mapping
from airtune.methods.plan import Planned, plan
from airtune.quantities import db_to_linear, format_quantity

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str, path: str = "", value: Any = None) -> dict[str, Any]:
    """A shipped example with the entry at a dotted path changed."""
    problem = read_yaml_mapping(EXAMPLES / f"{name}.yaml", "problem")
    place: Any = problem
    *outer, last = path.split(".")
    for key in outer:
        place = place[int(key) if isinstance(place, list) else key]
    place[int(last) if isinstance(place, list) else last] = value
    return problem


@pytest.mark.parametrize(
    ("name", "path", "value", "words"),
    [
        ("jcpba", "clients.1.name", "phone-near", "clients 0 and 1 .* would share it"),
        ("fedsllm", "clients.3.name", "laptop", "clients 0 and 3 .* would share it"),
        ("tsfa", "clients.2.name", "near", "a name of its own for every client"),
        ("sflllm", "clients.0.name", "tablet", "a name of its own for every client"),
        ("tsfa", "clients.2.name", ["x"], r"clients\[2\].name is \['x'\]"),
        ("jcpba", "method", ["jcpba"], r"method is \['jcpba'\], but it must be one of"),
        ("jcpba", "method", {}, r"method is {}, but it must be one of"),
        ("jcpba_cell", "method", ["jcpba"], r"method is \['jcpba'\], but it must be one of"),
        ("jcpba_cell", "model", ["gpt2"], r"model is \['gpt2'\], but it must be text"),
        (
            "jcpba_cell",
            "training.batch_size",
            1e308,
            "batch_size is 1e.308, .* 1e.15 at most",
        ),
        ("jcpba_cell", "training.local_steps", 10**400, "local_steps is 1000"),
        ("fedsllm", "clients.0.compute_delay_s", 8e198, "magnitude 1e.50 at most"),
        ("fedsllm", "clients.0.tx_power_dbm", 4e6, "magnitude 450 at most"),
        ("jcpba", "noise_psd_dbm_hz", 31e4, "magnitude 450 at most"),
        ("jcpba", "clients.0.payload_bits.prunable", 4.7e306, "magnitude 1e.50 at most"),
        ("jcpba", "clients.0.weight", 1e-320, "magnitude 1e-50 at least where it is not 0"),
        ("tsfa", "bandwidth_hz", 1e-194, "magnitude 1e-50 at least where it is not 0"),
        ("tsfa", "clients.0.rank_energy", [1e300, 1.0], "magnitude 1e.50 at most"),
        ("jcpba_cell", "cell.radius_m", 1e194, "cell.radius_m is 1e.194, .* in metres"),
        ("jcpba_cell", "cell.bandwidth_hz", 10**400, "cell.bandwidth_hz is 1000"),
        ("jcpba_cell", "cell.radius_m", ["x"], "cell.radius_m"),
        ("sflllm_cell", "split_points", [1, 2, 2], "from 1 to 11, each given once"),
        ("tsfa_cell", "round", 10**6, "round is 1000000, but it must be at most 8332 with 6"),
        ("sflllm_cell", "round", 1e15, "must be at most 9999 with 5 clients, or mean"),
        ("tsfa_cell", "clients.count", 10**9, "a whole number from 1 to 10000"),
        ("sflllm_cell", "federated_server.subchannels", 10**8, "a whole number from 1 to 10000"),
    ],
)
def test_refused_in_one_sentence(name: str, path: str, value: Any, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        plan(example(name, path, value))
    assert "\n" not in str(caught.value)


def test_names_that_stand_for_numbers_count_as_names() -> None:
    """A client without a name is called by its number."""
    columns = {
        "name": ["1", None],
        "tx_power_w": [1.0, 1.0],
        "gain": [1e-10, 1e-10],
        "compute_delay_s": [1.0, 1.0],
        "payload_bits": [1e6, 1e6],
    }
    problem = {"method": "fedsllm", "a": 1, "v": 1, "bandwidth_hz": 1e6, "noise_psd_dbm_hz": -174}
    with pytest.raises(InputError, match=r"two clients .* would share it"):
        plan({**problem, "clients": columns})
    answered = plan({**problem, "clients": {**columns, "name": [7, "b"]}})
    assert isinstance(answered, Planned)
    assert [one["name"] for one in answered.answer["clients"]] == ["7", "b"]


@pytest.mark.parametrize("name", ["jcpba", "tsfa", "fedsllm", "latency_energy", "client_selection"])
@pytest.mark.parametrize("power", [-40, -12, 12, 40])
def test_any_magnitude_within_the_limits_has_an_answer(name: str, power: int) -> None:
    """Warnings are errors here; the answer passes its independent check."""
    problem = read_yaml_mapping(EXAMPLES / f"{name}.yaml", "problem")
    for key, value in problem.items():
        if isinstance(value, float) and not key.startswith("pruning"):
            planned = plan({**problem, key: value * 10.0**power})
            assert isinstance(planned, Planned)
            assert planned.solution.plan is None or planned.solution.check is not None


def test_decibels_and_sizes_beyond_a_float() -> None:
    np.testing.assert_array_equal(db_to_linear([1e6, 10.0, -np.inf]), [np.inf, 10.0, 0.0])
    assert format_quantity(10**30, "byte") == "1e+12 Ebyte"
