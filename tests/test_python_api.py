"""What a Python program may give: paths and numpy's numbers, listeners of any size, plain text."""

import copy
import pickle
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

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


def test_what_is_no_listener_is_refused(tmp_path: Path) -> None:
    for listener in (3, object(), [print, "a name"]):
        with pytest.raises(InputError, match=r"listener is .*a function of a round's record"):
            Experiment(**QUICK).run(tmp_path / "run", listener=listener)
        assert not (tmp_path / "run").exists()


def test_functions_and_several_listeners(tmp_path: Path) -> None:
    class Notices:
        def __init__(self) -> None:
            self.told: list[str] = []

        def notice(self, sentence: str) -> None:
            self.told.append(sentence)

    rounds: list[int] = []
    notices = Notices()
    run = Experiment(**QUICK).run(
        tmp_path / "run", [lambda record: rounds.append(record.round), notices], progress=False
    )
    assert rounds == [1]
    assert notices.told
    assert set(notices.told) <= set(run.notices)
    rounds.clear()
    Experiment.resume(run.folder.path, 1, lambda record: rounds.append(record.round))
    assert rounds == [2]


def test_progress_in_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for IPython: one output, which is replaced."""
    shown: list[str] = []

    class Handle:
        def update(self, page: str) -> None:
            shown.append(page)

    def display(page: str, display_id: bool) -> Handle:
        assert display_id
        shown.append(page)
        return Handle()

    class ZMQInteractiveShell:
        pass

    shell, pages = ModuleType("IPython"), ModuleType("IPython.display")
    shell.get_ipython = ZMQInteractiveShell  # type: ignore[attr-defined]
    pages.HTML, pages.display = str, display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(sys.modules, "IPython.display", pages)
    Experiment(**QUICK).run(tmp_path / "run", progress=False)
    assert shown == []
    run = Experiment(**QUICK).run(tmp_path / "shown")
    assert "round 0 of 1" in shown[0]
    assert "round 1 of 1" in shown[-1]
    assert f"<td>{run.records[0].test_loss:.4f}</td>" in shown[-1]


def test_what_a_notebook_shows(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    html = run._repr_html_()
    assert f"{run.records[-1].test_loss:.4f} nat" in html
    assert "1 (ended)" in html
    assert "gpt2" in airtune.profile("gpt2")._repr_html_()
    assert "<table" in airtune.advise(methods=["fedlora"], draws=1)._repr_html_()
    monkeypatch.setenv("SECRET_FOLDER", "/a/private/place")
    shown = Experiment(rounds=3, data={"train": "${SECRET_FOLDER}/rows.jsonl"})._repr_html_()
    assert "<th>rounds</th><td>3</td>" in shown
    assert "${SECRET_FOLDER}/rows.jsonl" in shown
    assert "private" not in shown


def test_a_loaded_model_and_its_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    builtin = str(Path(airtune.__file__).parent / "builtin_model")
    model = AutoModelForCausalLM.from_pretrained(builtin)
    tokenizer = AutoTokenizer.from_pretrained(builtin)
    named = Experiment(model=model, tokenizer=tokenizer, **QUICK)
    again = Experiment(model=model, tokenizer=tokenizer, **QUICK)
    assert named.config.model == again.config.model
    assert [path.name for path in (tmp_path / "cache/airtune/models").iterdir()] == [
        Path(named.config.model).name
    ]
    run = named.run(tmp_path / "run")
    plain = Experiment(model=builtin, **QUICK).run(tmp_path / "plain")
    assert run.records[0].test_loss == plain.records[0].test_loss
    with torch.no_grad():
        next(model.parameters()).mul_(1.5)
    other = airtune.keep_model(model, tokenizer, tmp_path / "models")
    assert Path(other).parent == tmp_path / "models"
    assert Path(other).name != Path(named.config.model).name


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    builtin = str(Path(airtune.__file__).parent / "builtin_model")
    model = AutoModelForCausalLM.from_pretrained(builtin)
    tokenizer = AutoTokenizer.from_pretrained(builtin)
    with pytest.raises(InputError, match="tokenizer is missing"):
        Experiment(model=model)
    with pytest.raises(InputError, match=r"tokenizer is .*left out where model is a name"):
        Experiment(model="builtin", tokenizer=tokenizer)
    with pytest.raises(InputError, match="model is a Linear"):
        Experiment(model=torch.nn.Linear(2, 2), tokenizer=tokenizer)
    with pytest.raises(InputError, match="model"):
        Experiment(model=3)
    with pytest.raises(InputError, match=r"with an adapter.*adapter\.start"):
        airtune.keep_model(get_peft_model(model, LoraConfig(target_modules=["q_proj"])), tokenizer)


def test_devices_and_profiles() -> None:
    assert airtune.devices()["pixel-9"].training_flop_rate > 0
    counted = airtune.profile("gpt2", rank=4)
    assert isinstance(counted, airtune.Profile)
    assert counted.parameters == 124_439_808
    assert counted.to_frame()["forward_flops"].sum() == counted.halves["whole"].forward_flops
    split = airtune.profile("gpt2", rank=4, split_point=3)
    assert list(split.halves) == ["client", "server"]
    assert split.memory_bytes < counted.memory_bytes
    assert split.adapter_parameters == counted.adapter_parameters
    with pytest.raises(InputError, match=r"did you mean|closest"):
        airtune.profile("gpt-2")
    with pytest.raises(InputError, match="split_point"):
        airtune.profile("gpt2", split_point=50)


def test_a_comparison_from_python(tmp_path: Path) -> None:
    rows = [{"prompt": f"the old inn {n}", "completion": "is by the river"} for n in range(30)]
    given = {**QUICK, "data": {"train": rows[4:], "test": rows[:4], "max_tokens": 32}}
    arms = {"equal": {"fedlora": {"bandwidth": "equal"}}, "minmax": {}}
    seen: list[int] = []

    class Watcher:
        def round_done(self, arm: str, seed: int, record: Any) -> None:
            seen.append(record.round)

    found = airtune.compare(
        {"experiment": given, "arms": arms}, out=tmp_path / "compared", watcher=Watcher()
    )
    assert found.arms == ("equal", "minmax")
    assert seen == [1, 1]
    assert found.failures == {}
    assert found.to_frame()["arm"].tolist() == ["equal", "minmax"]
    assert set(found.to_frame(rounds=True)["round"]) == {0, 1}
    assert found.run("minmax", 0).records[0].latency_s <= found.run("equal", 0).records[0].latency_s
    assert "minmax" in found._repr_html_()
    with pytest.raises(InputError, match="--methods is missing"):
        airtune.compare(given, out=tmp_path / "none")


@pytest.mark.slow
def test_rows_in_memory_reach_runs_side_by_side(tmp_path: Path) -> None:
    rows = [{"prompt": f"the old inn {n}", "completion": "is by the river"} for n in range(30)]
    given = {**QUICK, "data": {"train": rows[4:], "test": rows[:4], "max_tokens": 32}}
    arms = {"equal": {"fedlora": {"bandwidth": "equal"}}, "minmax": {}}
    one, two = (
        airtune.compare({"experiment": given, "arms": arms}, out=tmp_path / f"{jobs}", jobs=jobs)
        for jobs in (1, 2)
    )
    assert two.failures == {}
    assert one.numbers["arms"] == two.numbers["arms"]


def test_a_set_has_the_same_order_in_every_process() -> None:
    names = {f"device-{number}" for number in range(20)}
    assert file_value({"devices": frozenset(names)}) == {"devices": sorted(names)}
