"""What a Python program may give: paths and numpy's numbers, listeners of any size, plain text."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import airtune
from airtune import Experiment, Run
from airtune.comparison.definition import read_comparison
from airtune.config.text import resolved_yaml
from airtune.cost.device import load_devices
from airtune.errors import AirtuneError, InputError, UnknownKeyError
from airtune.files import file_value
from airtune.wireless.cell import CellSettings
from airtune.workload.architecture import load_architecture

QUICK: dict[str, Any] = {
    "rounds": 1,
    "clients": {"count": 2},
    "training": {"local_steps": 1},
    "threads": 1,
    "data": {"train_limit": 20, "test_limit": 4, "score_rows": 0},
    "engine": "sequential",
    "cell": {"path_loss": "log_distance"},
    "adapter": {"rank": 1},
}


def test_paths_and_numpy_numbers_are_values(tmp_path: Path) -> None:
    given = Experiment(
        model=tmp_path,
        rounds=np.int64(3),
        seed=np.uint8(7),
        deadline_s=np.float32(2.5),
        adapter={"rank": np.int32(4), "target_modules": ("q_proj", np.str_("v_proj"))},
        data={"train": tmp_path / "rows.jsonl", "max_tokens": np.array(64)},
        clients={"devices": np.array(["pixel-9", "laptop-cpu"])},
        training={"keep_optimizer": np.bool_(False)},
        cell={
            "bandwidth_hz": np.float32(5e6),
            "csi_delay_rounds": np.int64(1),
            "trace": [tmp_path / "a.csv"],
            "trace_bandwidth_hz": np.array(1e6),
        },
        method="sflllm",
        sflllm={"rounds_table": {np.int64(4): np.float64(60.0)}},
        planner={"use": "jcpba", "pruning_budget": np.float32(0.5)},
    )
    plain = Experiment(
        model=str(tmp_path),
        rounds=3,
        seed=7,
        deadline_s=2.5,
        adapter={"rank": 4, "target_modules": ["q_proj", "v_proj"]},
        data={"train": str(tmp_path / "rows.jsonl"), "max_tokens": 64},
        clients={"devices": ["pixel-9", "laptop-cpu"]},
        training={"keep_optimizer": False},
        cell={
            "bandwidth_hz": 5e6,
            "csi_delay_rounds": 1,
            "trace": [str(tmp_path / "a.csv")],
            "trace_bandwidth_hz": 1e6,
        },
        method="sflllm",
        sflllm={"rounds_table": {4: 60.0}},
        planner={"use": "jcpba", "pruning_budget": 0.5},
    )
    assert given.config == plain.config
    # Nothing of numpy is left to trip over when the run folder is written.
    assert resolved_yaml(given.config) == resolved_yaml(plain.config)


def test_wrong_values_stay_wrong() -> None:
    for keys in (
        {"rounds": np.float64(2.5)},
        {"rounds": np.array([1, 2])},
        {"model": 3},
        {"rounds": object()},
        {"deadline_s": np.float32("nan")},
    ):
        with pytest.raises(InputError):
            Experiment(**keys)


def test_a_cell_and_a_problem_from_python(tmp_path: Path) -> None:
    cell = CellSettings(
        bandwidth_hz=np.float32(4e6),
        csi_delay_rounds=np.int64(2),
        trace=(tmp_path / "a.csv", tmp_path / "b.csv"),
        trace_bandwidth_hz=np.int32(1_000_000),
    )
    assert cell.trace == (str(tmp_path / "a.csv"), str(tmp_path / "b.csv"))
    assert type(cell.bandwidth_hz) is float
    assert hash(cell) is not None
    problem = {
        "method": "jcpba",
        "bandwidth_hz": np.float32(1e7),
        "noise_psd_dbm_hz": np.int64(-174),
        "pruning_budget": np.array(0.2),
        "pruning_rate_max": np.float32(0.9),
        "clients": {
            "tx_power_dbm": 23,
            "gain_db": np.array([-100.0, -110.0]),
            "compute_delay_s": {"fixed": np.float32(0.5), "prunable": 1},
            "payload_bits": {"fixed": 1e6, "prunable": np.int64(10**6)},
        },
    }
    planned = airtune.plan(problem)
    assert not isinstance(planned, list)
    assert planned.solution.plan is not None


def test_text_is_a_path_everywhere(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("")
    assert load_devices(str(own)) == load_devices(own) == load_devices()
    folder = Path(airtune.__file__).parent / "builtin_model"
    assert load_architecture(folder) == load_architecture(str(folder))
    comparison = tmp_path / "compare.yaml"
    comparison.write_text("experiment: one.yaml\narms: {fedlora: {}}\n")
    (tmp_path / "one.yaml").write_text("rounds: 3")
    assert read_comparison(str(comparison)) == read_comparison(comparison)


def test_an_unknown_key_is_bad_input() -> None:
    with pytest.raises(UnknownKeyError) as told:
        Experiment(rouns=2)
    assert isinstance(told.value, InputError)
    assert str(told.value) == "rouns is not a key that airtune knows: did you mean 'rounds'?"
    assert told.value.field == "rouns"
    with pytest.raises(InputError, match=r"cell.bandwith_hz is not a key"):
        Experiment(cell={"bandwith_hz": 1})
    with pytest.raises(InputError, match=r"charge_as is .*no-such-model"):
        Experiment(charge_as="./no-such-model/config.json", **QUICK).preview()


def test_errors_keep_their_kind_and_place() -> None:
    error = InputError("a", 1, "2", "do so").within("arm x")
    for again in (error, copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(again) is InputError
        assert str(again) == "arm x: a is 1, but it must be 2: do so."
        assert (again.field, again.value, again.allowed, again.remedy) == ("a", 1, "2", "do so")
    unknown = pickle.loads(pickle.dumps(UnknownKeyError("a", "known here: b.").within("arm y")))
    assert str(unknown) == "arm y: a is not a key that airtune knows: known here: b."
    assert isinstance(unknown, AirtuneError)


def test_values_of_a_file() -> None:
    marker = object()
    value = file_value({"a": (Path("x"), np.arange(2), {np.int64(1): marker}), "b": "text"})
    assert value == {"a": ["x", [0, 1], {1: marker}], "b": "text"}
    assert type(next(iter(value["a"][2]))) is int


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    class Rounds:
        """Of a listener's methods, one."""

        seen = 0

        def __bool__(self) -> bool:
            return False  # as an empty collection that listens

        def round_done(self, record: dict[str, Any]) -> None:
            self.seen += 1

    listener = Rounds()
    run = Experiment(**QUICK).run(str(tmp_path_factory.mktemp("runs") / "one"), listener)
    assert listener.seen == 1
    return run


def test_a_run_takes_paths_as_text(run: Run, tmp_path: Path) -> None:
    run.export(str(tmp_path / "adapter"))
    assert (tmp_path / "adapter" / "adapter_model.safetensors").is_file()
    assert Run(str(run.folder.path)).summary == run.summary


def test_a_listener_that_hears_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"listener is .*at least one of notice, started"):
        Experiment(**QUICK).run(tmp_path / "run", listener=print)
    assert not (tmp_path / "run").exists()


def test_a_set_has_the_same_order_in_every_process() -> None:
    names = {f"device-{number}" for number in range(20)}
    assert file_value({"devices": frozenset(names)}) == {"devices": sorted(names)}
