"""`airtune plan` on problems that name a model and a cell, its examples, and its page."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from airtune.config.experiment import ExperimentConfig
from airtune.files import read_yaml_mapping
from airtune.methods.jcpba import problem as jcpba_reader
from airtune.methods.plan import from_cell
from airtune.methods.registry import problem_specs
from airtune.planning.reading import scene_of
from airtune.planning.sections import CellSection
from airtune.section import check
from airtune.workload.adapter_shape import AdapterShape
from airtune.workload.architecture import load_architecture
from airtune.workload.step import Step
from airtune.workload.transformer import workload
from tests.cli import conftest
from tests.planning.cell_cases import CASES, CELL, JCPBA, TSFA

Command = Callable[..., tuple[int, str, str]]
command = conftest.airtune
ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "planning-from-a-model.md"


def written(path: Path, problem: dict[str, Any]) -> Path:
    with path.open("w") as stream:
        YAML(typ="safe").dump(problem, stream)
    return path


def without_time(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key != "solve_time_s"}


@pytest.mark.parametrize("name", CASES)
def test_the_written_problem_has_the_same_answer(
    name: str, command: Command, tmp_path: Path
) -> None:
    problem = written(tmp_path / "cell.yaml", CASES[name])
    code, out, _ = command("plan", problem, "--json")
    assert code == 0
    assert command("plan", problem, "--write-problem", "explicit.yaml")[0] == 0
    explicit = tmp_path / "explicit.yaml"
    numbers = read_yaml_mapping(explicit, "problem")
    assert numbers == from_cell(CASES[name]).numbers
    assert not {"model", "cell", "adapter", "training"} & set(numbers)
    code, again, said = command("plan", explicit, "--json")
    assert (code, said) == (0, "")
    assert without_time(json.loads(again)) == without_time(json.loads(out))
    assert explicit.read_text().startswith("# From gpt2, LoRA of rank ")


def test_an_assumed_spectrum_is_said_and_written(command: Command, tmp_path: Path) -> None:
    problem = written(tmp_path / "cell.yaml", TSFA)
    _, out, said = command("plan", problem, "--json")
    json.loads(out)
    assert said.startswith("Note: rank_energy is assumed, not measured: rank k = 1, 2, ...")
    command("plan", problem, "--write-problem", "explicit.yaml")
    comments = (tmp_path / "explicit.yaml").read_text().partition("method:")[0]
    assert "rank_energy is assumed, not measured" in comments
    own = TSFA | {"rank_energy": [8, 7, 6, 5, 4, 3, 2, 1]}
    assert command("plan", written(tmp_path / "own.yaml", own), "--json")[2] == ""


def test_sweep_over_models_and_rounds(command: Command, tmp_path: Path) -> None:
    problem = written(tmp_path / "cell.yaml", JCPBA)
    _, out, _ = command("plan", problem, "--sweep", "model=builtin,gpt2", "--json")
    small, large = json.loads(out)
    assert (small["model"], large["model"]) == ("builtin", "gpt2")
    assert small["latency_s"] < large["latency_s"] / 5
    alone = json.loads(command("plan", problem, "--json")[1])
    assert alone["latency_s"] == large["latency_s"]
    _, out, _ = command("plan", problem, "--sweep", "round=0,1,mean", "--json")
    assert len({answer["latency_s"] for answer in json.loads(out)}) == 3
    _, _, said = command("plan", written(tmp_path / "t.yaml", TSFA), "--sweep", "v=1,10,100")
    assert said.count("assumed") == 1


def test_simulated_rounds_start_from_the_mean(command: Command, tmp_path: Path) -> None:
    problem = written(tmp_path / "cell.yaml", TSFA)
    code, out, _ = command("plan", problem, "--rounds", "5", "--json")
    assert (code, json.loads(out)["rounds"]) == (0, 5)
    mean = written(tmp_path / "mean.yaml", TSFA | {"round": "mean"})
    assert json.loads(command("plan", mean, "--rounds", "5", "--json")[1]) == json.loads(out)
    third = written(tmp_path / "third.yaml", TSFA | {"round": 3})
    code, _, said = command("plan", third, "--rounds", "5")
    assert code == 2
    assert "round is 3, but it must be mean, or left out, with --rounds" in said


def test_wrong_input_exits_with_2_and_writes_nothing(command: Command, tmp_path: Path) -> None:
    problem = written(tmp_path / "cell.yaml", JCPBA | {"tokns": 3})
    code, out, said = command("plan", problem, "--write-problem", "explicit.yaml")
    assert (code, out) == (2, "")
    assert said.startswith("airtune: tokns is not a key that airtune knows")
    assert said.count("\n") == 1
    assert not (tmp_path / "explicit.yaml").exists()
    problem = written(tmp_path / "cell.yaml", JCPBA)
    code, _, said = command("plan", problem, "--sweep", "v=1", "--write-problem", "explicit.yaml")
    assert code == 2
    assert "--write-problem is explicit.yaml, but it must be left out beside --sweep" in said


def test_a_client_without_signal_is_infeasible(command: Command, tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text("a_mbps,b_mbps\n20,0\n")
    trace = {
        "trace": str(tmp_path / "trace.csv"),
        "trace_column": ["a_mbps", "b_mbps"],
        "trace_bandwidth_hz": 20e6,
    }
    problem = JCPBA | {"cell": trace, "clients": {"count": 2, "devices": "orange-pi-5"}}
    code, out, _ = command("plan", written(tmp_path / "cell.yaml", problem), "--json")
    assert code == 3
    answer = json.loads(out)
    assert answer["status"] == "infeasible"
    assert "1 (orange-pi-5)" in answer["message"]


def test_no_torch_without_3gpp() -> None:
    code = (
        "import sys, airtune; from tests.planning.cell_cases import CASES\n"
        "for case in CASES.values(): airtune.plan(case)\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_3gpp_path_loss_is_the_cells_own() -> None:
    pytest.importorskip("sionna")
    from airtune.wireless.cell import CellSettings
    from airtune.wireless.channel import open_channel

    cell = {**CELL, "path_loss": "umi"}
    clients = from_cell(JCPBA | {"cell": cell, "round": 2}).numbers["clients"]
    state = open_channel(CellSettings(**cell), 3, seed=4).observe(2).estimate
    assert [10 ** (client["gain_db"] / 10) for client in clients] == pytest.approx(
        state.gain.tolist(), rel=1e-9
    )


def test_sections_are_those_of_an_experiment() -> None:
    """Same keys and same defaults as `airtune run`."""
    training = {"batch_size": 1, "local_steps": 1}
    file = check(CellSection, {"method": "x", "training": training, "tokens": 8})
    mine, theirs = scene_of(file), ExperimentConfig()
    assert file.clients.model_dump() == theirs.clients.model_dump()
    assert file.adapter.model_dump() == theirs.adapter.model_dump()
    given = theirs.training.model_dump() | training
    assert file.training.model_dump() == given
    assert len(mine.devices) == theirs.clients.count
    assert mine.model == theirs.model
    assert mine.precision.dtype == theirs.dtype
    assert mine.seed == theirs.seed
    assert mine.adapter.rank == theirs.adapter.rank
    assert mine.cell == theirs.cell


@pytest.mark.slow
def test_a_run_with_the_same_sections_is_charged_alike(command: Command, tmp_path: Path) -> None:
    """Channel, powers, broadcast and payload of round 1 are those of a real run's record."""
    settings = conftest.quick("rounds=1", "cell.tx_power_dbm=20", "clients.count=4", "seed=4")
    code, _, said = command("run", "--quiet", "--out", tmp_path / "run", *settings)
    assert code == 0, said
    record = json.loads((tmp_path / "run" / "rounds.jsonl").read_text())
    problem = JCPBA | {
        "model": "builtin",
        "adapter": {"rank": 2},
        "cell": {"path_loss": "log_distance", "tx_power_dbm": 20},
        "clients": {"count": 4},
        "seed": 4,
        "round": 0,
    }
    numbers = from_cell(problem).numbers
    links = jcpba_reader.read(numbers).links
    bands = np.array([entry["bandwidth_hz"] for entry in record["clients"]])
    rates = [entry["rate_bps"] for entry in record["clients"]]
    np.testing.assert_allclose(links.rate(bands), rates, rtol=1e-8)
    for charged, client in zip(record["clients"], numbers["clients"], strict=True):
        assert charged["tx_power_w"] == pytest.approx(10 ** (client["tx_power_dbm"] / 10 - 3))
        assert charged["broadcast_s"] == pytest.approx(client["fixed_delay_s"], rel=1e-12)
        assert charged["uplink_bits"] == sum(client["payload_bits"].values())
        # The run's batches are shorter than `tokens`, but the seconds per operation are the same.
        compute = 3 * workload(load_architecture("builtin"), AdapterShape(2), Step(2, 64)).flops
        told = sum(client["compute_delay_s"].values()) / compute
        assert charged["compute_s"] / charged["flops"] == pytest.approx(told, rel=1e-12)


@pytest.mark.parametrize("name", ["jcpba", "tsfa", "sflllm"])
def test_the_example_does_what_its_comments_show(name: str, command: Command) -> None:
    path = ROOT / "examples" / f"{name}_cell.yaml"
    lines = re.findall(r"^#   airtune (plan .*)$", path.read_text(), flags=re.MULTILINE)
    assert len(lines) >= 2
    for line in lines:
        arguments = [str(path) if word.startswith("examples/") else word for word in line.split()]
        code, _, said = command(*arguments)
        assert code == 0, said
    code, out, _ = command("plan", path, "--json")
    assert json.loads(out)["status"] == "optimal"


def test_the_page_lists_every_key() -> None:
    page = PAGE.read_text()
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    listed = set(re.findall(r"`(\w+)`", " ".join(cells)))
    files = [problem.cell_file.load() for problem in problem_specs().values() if problem.cell_file]
    assert len(files) == sum(spec.from_cell is not None for spec in problem_specs().values())
    assert listed == {key for file in files for key in file.model_fields}


def test_commands_on_the_page_run(command: Command, tmp_path: Path) -> None:
    page = PAGE.read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "problem.yaml").write_text(blocks[0])
    for line in re.findall(r"^    airtune (plan .*)$", page, flags=re.MULTILINE):
        code, _, said = command(*line.split())
        assert code == 0, said
