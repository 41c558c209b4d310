"""Keys without effect are refused by name; what a run writes for itself is always accepted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airtune import Experiment
from airtune.comparison.definition import read_comparison
from airtune.config.text import commented, resolved_yaml
from airtune.errors import InputError
from airtune.experiment.reading import default_experiment, read_config
from airtune.experiment.unused import (
    refuse_unused,
    replaced_notice,
    unused_keys,
)
from airtune.methods.registry import method_names, shipped_methods
from tests.cli.conftest import quick

Call = Callable[..., tuple[int, str, str]]

UNUSED = {
    "fedlora.uplink_dtype": ("codec=dense", "fedlora.uplink_dtype=bf16"),
    "jcpba.pruning_budget": ("jcpba.pruning_budget=0.2",),
    "fedlora.bandwidth": ("method=jcpba", "fedlora.bandwidth=equal"),
    "hetlora.rank_min": ("method=hetlora", "planner=bandwidth", "hetlora.rank_min=3"),
    "jcpba.solver": ("method=jcpba", "planner=bandwidth", "jcpba.solver=bcd"),
    "soft_tsfa.merge": ("method=soft_tsfa", "aggregator=factor-mean", "soft_tsfa.merge=mean"),
    "cell.trace_where": ("cell.trace_where={operator: a}",),
    "cell.trace_column": ("cell.trace_column=a",),
    "cell.trace_bandwidth_hz": ("cell.trace_bandwidth_hz=2e7",),
    "cell.rician_k_db": ("cell.rician_k_db=9",),
    "cell.log_distance_slope_db": ("cell.log_distance_slope_db=20",),
    "cell.bs_height_m": ("cell.path_loss=log_distance", "cell.bs_height_m=20"),
    "cell.fading_correlation": (
        "cell.path_loss=log_distance",
        "cell.fading=none",
        "cell.fading_correlation=1",
    ),
    "cell.shadowing_distance_m": ("cell.path_loss=free_space", "cell.shadowing_distance_m=20"),
    "server.momentum": ("server.momentum=0.5",),
    "server.learning_rate": ("server.learning_rate=0.5",),
    "server.adaptivity": ("server.optimizer=momentum", "server.adaptivity=0.1"),
    "data.partition.concentration": ("data.partition.concentration=0.1",),
    "data.partition.column": ("data.partition={kind: size, column: name}",),
    "data.partition.kind": ("method=centralised", "data.partition.kind=dirichlet"),
    "training.keep_optimizer": ("method=centralised", "training.keep_optimizer=false"),
    "adapter.rank": ("adapter.kind=full", "adapter.rank=4"),
    "soft_tsfa.sparsity": ("method=soft_tsfa", "soft_tsfa.sparsity=0.7"),
    "soft_tsfa.choice": (
        "method=soft_tsfa",
        "soft_tsfa.sparsifier=top-k",
        "soft_tsfa.choice=largest",
    ),
    "soft_tsfa.penalty_form": ("method=soft_tsfa", "soft_tsfa.penalty_form=raw"),
    "jcpba.calibration_rows": ("method=jcpba", "jcpba.calibration_rows=8"),
    "jcpba.pruning_rate_max": (
        "method=jcpba",
        "jcpba.solver=none",
        "jcpba.pruning_rate_max=0.5",
    ),
    "workers": ("engine=sequential", "workers=2"),
    "ray_address": ("ray_address=auto",),
}


@pytest.mark.parametrize(("key", "settings"), UNUSED.items(), ids=list(UNUSED))
def test_a_key_without_effect_is_refused_by_name(key: str, settings: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as error:
        Experiment.load(None, settings)
    assert str(error.value).startswith(f"{key} is ")
    assert "it would have no effect" in str(error.value)


@pytest.mark.parametrize("settings", UNUSED.values(), ids=list(UNUSED))
def test_without_that_key_the_combination_is_accepted(settings: tuple[str, ...]) -> None:
    Experiment.load(None, settings[:-1])


def test_the_sentence() -> None:
    with pytest.raises(InputError) as error:
        Experiment(codec="dense", fedlora={"uplink_dtype": "bf16"})
    assert str(error.value) == (
        "fedlora.uplink_dtype is bf16, but it must be left out unless codec is that of fedlora "
        "(give codec the option, or leave it out): it would have no effect."
    )


def test_defaults_that_are_spelt_out_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "all.yaml").write_text(commented(default_experiment()))
    for method in method_names():
        for changes in ((), ("codec=dense",), ("cell.path_loss=log_distance",)):
            config = Experiment.load(tmp_path / "all.yaml", [f"method={method}", *changes]).config
            (tmp_path / "again.yaml").write_text(resolved_yaml(config))
            Experiment.load(tmp_path / "again.yaml")


@pytest.mark.parametrize("method", ["fedlora", "soft_tsfa", "centralised"])
def test_what_a_run_resolved_is_accepted(method: str, tmp_path: Path) -> None:
    run = Experiment.load(None, [*quick("rounds=1", f"method={method}")[1::2]]).run(tmp_path / "r")
    refuse_unused(read_config(run.folder.experiment))


def test_options_of_parts_exist_somewhere() -> None:
    """A renamed option must not leave its rule behind."""
    for spec in shipped_methods().values():
        for options in spec.part_options.values():
            assert set(options) <= spec.options.model_fields.keys()


def test_a_device_file_of_which_nothing_is_named(tmp_path: Path) -> None:
    profile = (
        "board: {title: b, kind: board, training_flop_rate: 1e10, memory_bytes: 4e9, "
        "tx_power_dbm: 23, computing_power_w: 5, sources: {training_flop_rate: assumed, "
        "memory_bytes: assumed, tx_power_dbm: assumed, computing_power_w: assumed}}\n"
    )
    (tmp_path / "own.yaml").write_text(profile)
    file = f"clients.device_file={tmp_path / 'own.yaml'}"
    with pytest.raises(InputError, match=r"device_file is .* names \(it has board\)"):
        Experiment.load(None, [file])
    Experiment.load(None, [file, "clients.devices=[board, pixel-9]"])


def test_a_trace_says_which_keys_it_replaces(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("throughput_mbps\n30\n20\n")
    trace = (f"cell.trace={tmp_path / 't.csv'}", "cell.trace_bandwidth_hz=2e7")
    config = Experiment.load(None, [*trace, "cell.path_loss=log_distance"]).config
    assert replaced_notice(config) == [
        "cell.trace replaces propagation, so cell.path_loss has no effect."
    ]
    assert replaced_notice(Experiment.load(None, trace).config) == []
    still_charged = ("cell.overhead_share=0.05", "cell.round_trip_s=0.02")
    assert replaced_notice(Experiment.load(None, [*trace, *still_charged]).config) == []
    assert replaced_notice(Experiment.load(None, ["cell.path_loss=log_distance"]).config) == []


def test_a_shared_key_of_a_comparison_needs_one_arm(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    shared = "experiment: {jcpba: {pruning_budget: 0.2}, data: {partition: {kind: size}}}\n"
    path.write_text(shared + "arms: {a: {method: jcpba}, b: {method: centralised}}\n")
    read_comparison(path)
    with pytest.raises(InputError, match=r"^jcpba\.pruning_budget is 0\.2"):
        read_comparison(path, ["b"])
    path.write_text("arms: {a: {method: fedlora, jcpba: {pruning_budget: 0.1}}, b: {}}\n")
    with pytest.raises(InputError, match=r"^arm a: jcpba\.pruning_budget"):
        read_comparison(path)


def test_unused_keys_name_keys() -> None:
    config = read_config(None, ["method=jcpba", "jcpba.solver=none", "codec=dense", "workers=3"])
    for key, _ in unused_keys(config):
        value: Any = config
        for part in key.split("."):
            value = getattr(value, part)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("plan", "p.yaml", "--solver", "a", "--solver", "b"), "--solver is given 2 times"),
        (("run", "--out", "a", "--out", "b"), "--out is given 2 times"),
        (("device", "list", "--file", "a", "--file", "b"), "--file is given 2 times"),
        (("run", "--dry-run", "--out", "a"), "--out is a, but it must be left out beside"),
        (("run", "--dry-run", "--profile"), "--profile is given, but it must be left out"),
        (("compare", "--methods", "fedlora", "--dry-run", "-j", "2"), "--jobs is 2"),
        (("generate", "x", "--prompt", "a", "--count", "2"), "--count is 2"),
    ],
)
def test_options_without_effect(airtune: Call, arguments: tuple[str, ...], sentence: str) -> None:
    code, out, err = airtune(*arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert len(err.splitlines()) == 1
