"""`airtune plan` on explicit numbers: table, JSON, sweeps, exit codes, and a quick start."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli import conftest

Command = Callable[..., tuple[int, str, str]]
command = conftest.airtune
ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "jcpba.yaml"


@pytest.fixture
def changed(tmp_path: Path) -> Callable[[str, str], Path]:
    """The example with one piece of its text replaced."""

    def change(old: str, new: str) -> Path:
        text = EXAMPLE.read_text()
        assert old in text
        path = tmp_path / "changed.yaml"
        path.write_text(text.replace(old, new))
        return path

    return change


def test_the_table_says_who_gets_what_and_how_sure_that_is(command: Command) -> None:
    code, out, err = command("plan", EXAMPLE)
    assert code == 0
    assert err == ""
    assert out.startswith("Optimal: 4 of 4 clients end together, after 4.56 s; ")
    assert "the band and the pruning budget bind" in out
    for word in (
        "phone-near",
        "old-board",
        "MHz",
        "Mbit/s",
        "lower bound",
        "gap",
        "iterations",
        "solve time",
        "every constraint holds",
    ):
        assert word in out


def test_json_is_the_answer_of_the_library(command: Command) -> None:
    from airtune.methods.plan import Planned, plan

    code, out, _ = command("plan", EXAMPLE, "--json", "--solver", "bcd")
    assert code == 0
    printed = json.loads(out)
    planned = plan(EXAMPLE, "bcd")
    assert isinstance(planned, Planned)
    del printed["solve_time_s"]
    assert printed == {k: v for k, v in planned.answer.items() if k != "solve_time_s"}


def test_infeasible_prints_why_and_exits_with_3(
    command: Command, changed: Callable[[str, str], Path]
) -> None:
    path = changed("gain_db: -128", "gain_db: -.inf")
    code, out, _ = command("plan", path)
    assert code == 3
    assert "client phone-far has a payload but no signal" in out
    code, out, _ = command("plan", path, "--json")
    assert code == 3
    answer = json.loads(out)
    assert answer["status"] == "infeasible"
    assert answer["plan"] is None
    assert answer["clients"] is None
    assert "client phone-far" in answer["message"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("bandwidth_hz: 10.0e6", "bandwidth_hz: -1", "bandwidth_hz is -1"),
        ("bandwidth_hz: 10.0e6", "bandwith_hz: 1e6", "bandwith_hz"),
        ("method: jcpba", "method: jcpa", "did you mean 'jcpba'"),
        ("weight: 0.30", "weight: .nan", "weight of client tablet is nan"),
        ("tx_power_dbm: 20", "tx_power_w: -0.1", "tx_power_w of client old-board is -0.1"),
        ("clients:", "clients: [", "not YAML"),
    ],
)
def test_bad_input_is_one_sentence_and_exits_with_2(
    command: Command, changed: Callable[[str, str], Path], old: str, new: str, words: str
) -> None:
    code, out, err = command("plan", changed(old, new))
    assert code == 2
    assert out == ""
    assert words in err
    assert err.startswith("airtune: ")
    assert err.count("\n") == 1


def test_missing_file(command: Command) -> None:
    code, _, err = command("plan", "nowhere.yaml")
    assert code == 2
    assert "nowhere.yaml" in err


KEYS = {
    "jcpba": (
        ["latency_s", "lower_bound_s", "gap"],
        ["name", "bandwidth_hz", "pruning_rate", "compute_s", "upload_s"],
    ),
    "tsfa": (
        ["latency_s", "objective", "objective_lower_bound", "gap", "virtual_queue_next"],
        ["name", "bandwidth_hz", "kept_ranks", "sparsity", "compute_s", "upload_s"],
    ),
    "sflllm": (
        ["total_delay_s", "split_point", "rank", "lower_bound_s", "gap"],
        [
            "name",
            "main_subchannels",
            "main_psd_w_per_hz",
            "federated_subchannels",
            "federated_psd_w_per_hz",
            "client_forward_s",
            "activation_upload_s",
            "adapter_upload_s",
        ],
    ),
    "fedsllm": (
        ["total_delay_s", "local_accuracy", "lower_bound_s", "gap"],
        ["name", "bandwidth_hz", "compute_s", "upload_s"],
    ),
    "latency_energy": (
        ["latency_s", "energy_j", "cost_s", "lower_bound_s", "gap", "joule_worth_s"],
        ["name", "bandwidth_hz", "speed", "tx_power_w", "compute_s", "upload_s", "energy_j"],
    ),
    "client_selection": (
        ["taking_part", "weight_share", "most_weight_share", "latency_s", "gap"],
        ["name", "takes_part", "bandwidth_hz", "start_s", "upload_s", "finish_s"],
    ),
}


@pytest.mark.parametrize("method", KEYS)
def test_the_answer_has_the_promised_keys(command: Command, method: str) -> None:
    code, out, _ = command("plan", ROOT / "examples" / f"{method}.yaml", "--json")
    assert code == 0
    answer = json.loads(out)
    own, of_clients = KEYS[method]
    shared = ["status", "message", "solver", "solve_time_s", "iterations", "clients"]
    assert set(shared + own) <= set(answer)
    assert "plan" not in answer
    assert answer["check"]["passed"] is True
    assert answer["status"] == "optimal"
    for row in answer["clients"]:
        assert set(of_clients) <= set(row)
        if method == "sflllm":
            assert len(row["main_subchannels"]) == len(row["main_psd_w_per_hz"])
            assert len(row["federated_subchannels"]) == len(row["federated_psd_w_per_hz"])


@pytest.mark.parametrize("method", KEYS)
def test_tables_name_every_client_and_what_binds(command: Command, method: str) -> None:
    path = ROOT / "examples" / f"{method}.yaml"
    code, out, err = command("plan", path)
    assert code == 0
    assert err == ""
    answer = json.loads(command("plan", path, "--json")[1])
    assert all(row["name"] in out for row in answer["clients"])
    assert "every constraint holds; tightest: " in out
    assert "nan" not in out


class TestSweep:
    def test_one_row_for_each_value(self, command: Command) -> None:
        code, out, _ = command("plan", EXAMPLE, "--sweep", "pruning_budget=0.1,0.2,3e-1", "--json")
        assert code == 0
        answers = json.loads(out)
        assert [answer["pruning_budget"] for answer in answers] == [0.1, 0.2, 0.3]
        latencies = [answer["latency_s"] for answer in answers]
        assert latencies == sorted(latencies, reverse=True)
        code, out, _ = command("plan", EXAMPLE, "--sweep", "pruning_budget=0.1,0.2,3e-1")
        assert code == 0
        assert out.count("optimal") == 3

    def test_several_keys_are_every_combination(self, command: Command) -> None:
        keys = ("--sweep", "pruning_budget=0.1,0.2", "--sweep", "bandwidth_hz=5e6,1e7")
        code, out, _ = command("plan", EXAMPLE, *keys, "--json")
        assert code == 0
        found = [(a["pruning_budget"], a["bandwidth_hz"], a["latency_s"]) for a in json.loads(out)]
        pairs = [(budget, band) for budget, band, _ in found]
        assert pairs == [(0.1, 5e6), (0.1, 1e7), (0.2, 5e6), (0.2, 1e7)]
        assert found[0][2] > found[1][2] > found[3][2]
        code, out, _ = command("plan", EXAMPLE, *keys)
        assert (code, out.count("optimal")) == (0, 4)
        code, _, err = command("plan", EXAMPLE, "--sweep", "a=1", "--sweep", "a=2")
        assert (code, "a is given twice" in err) == (2, True)

    def test_infeasible_values_are_explained(self, command: Command) -> None:
        code, out, _ = command("plan", EXAMPLE, "--sweep", "pruning_budget=0,0.2")
        assert code == 0
        assert "pruning_budget = 0: The pruning budget of 0 cannot be kept" in out
        assert command("plan", EXAMPLE, "--sweep", "pruning_budget=0,0.01")[0] == 3

    def test_a_path_reaches_every_client(self, command: Command) -> None:
        sweep = "clients.payload_bits.prunable=1e6,4e6"
        code, out, _ = command("plan", EXAMPLE, "--json", "--sweep", sweep)
        assert code == 0
        first, second = json.loads(out)
        assert first["latency_s"] < second["latency_s"]

    @pytest.mark.parametrize(
        ("sweep", "words"),
        [
            ("pruning_budget", "KEY=A,B,C"),
            ("=1,2", "KEY=A,B,C"),
            ("pruning_budgte=0.1", "pruning_budgte is not a key that airtune knows"),
            ("pruning_budget.x=1", "a key of the problem"),
            ("pruning_budget=0.1,much", "pruning_budget is much"),
        ],
    )
    def test_refusals(self, command: Command, sweep: str, words: str) -> None:
        code, _, err = command("plan", EXAMPLE, "--sweep", sweep)
        assert code == 2
        assert words in err


def test_rounds_are_for_methods_with_a_queue(command: Command) -> None:
    code, _, err = command("plan", EXAMPLE, "--rounds", 10)
    assert code == 2
    assert "--rounds is 10, but it must be left out unless method keeps a queue" in err
    assert "the problem's method is jcpba" in err


def test_rounds_heed_the_solver(command: Command) -> None:
    path = ROOT / "examples" / "tsfa.yaml"
    code, out, _ = command("plan", path, "--rounds", 3, "--solver", "dense", "--json")
    assert code == 0
    assert json.loads(out)["solver"] == "dense"
    code, _, err = command("plan", path, "--rounds", 3, "--solver", "densse")
    assert code == 2
    assert "did you mean 'dense'" in err


def test_a_written_problem_has_the_same_answer(command: Command, tmp_path: Path) -> None:
    assert command("plan", EXAMPLE, "--write-problem", "again.yaml")[0] == 0

    def answer(path: Path) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(command("plan", path, "--json")[1])
        return {key: value for key, value in found.items() if key != "solve_time_s"}

    assert answer(tmp_path / "again.yaml") == answer(EXAMPLE)


def test_many_clients_are_cut_in_the_table_only(command: Command, tmp_path: Path) -> None:
    head, client = (
        EXAMPLE.read_text().split("- name: phone-near")[0],
        (
            "- {tx_power_dbm: 23, gain_db: -110, compute_delay_s: {prunable: 4}, "
            "payload_bits: {prunable: 1e6}}\n"
        ),
    )
    path = tmp_path / "many.yaml"
    path.write_text(head + 50 * client)
    code, out, _ = command("plan", path)
    assert code == 0
    assert "and 10 more clients (--json has all)" in out
    assert len(json.loads(command("plan", path, "--json")[1])["clients"]) == 50


def test_nothing_heavy_is_imported_on_the_way() -> None:
    """What would keep `airtune plan` from feeling instant."""
    code = (
        "import sys; sys.argv = ['airtune', 'plan', sys.argv[1]]\n"
        "from airtune.cli.main import entry\n"
        "try: entry()\n"
        "except SystemExit as stop: assert not stop.code, stop.code\n"
        "heavy = {'torch', 'scipy', 'transformers', 'pandas', 'sionna', 'matplotlib', 'cvxpy'}\n"
        "print('heavy:', sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(EXAMPLE)], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("heavy: []\n")
