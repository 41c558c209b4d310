"""`airtune profile`: the workload as a table and as JSON, without torch."""

import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner, Result  # type: ignore[attr-defined]

from airtune.cli.profile import profile
from airtune.errors import InputError
from airtune.workload.adapter_shape import AdapterShape, EveryParameter
from airtune.workload.architecture import load_architecture
from airtune.workload.payload import update_bits
from airtune.workload.step import Step
from airtune.workload.transformer import split_workload, workload

APP = typer.Typer()
APP.command()(profile)


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(APP, arguments)


def test_table_of_a_large_model_fits_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    result = _run("llama-3.1-70b", "--batch", "1", "--tokens", "512")
    assert result.exit_code == 0
    assert "blocks 1-79, each" in result.stdout
    assert "70.6 G" in result.stdout
    assert max(len(line) for line in result.stdout.splitlines()) <= 80


def test_json_is_the_workload() -> None:
    answer = json.loads(_run("gpt2", "--rank", "4", "--batch", "2", "--json").stdout)
    model, adapter, step = load_architecture("gpt2"), AdapterShape(4), Step(2, 256)
    counted = workload(model, adapter, step)
    assert answer["whole"]["forward_flops"] == counted.forward_flops
    assert answer["whole"]["memory_bytes"] == counted.memory_bytes
    assert len(answer["whole"]["parts"]) == 14
    assert answer["update_bits"] == update_bits(model, adapter)


def test_every_parameter() -> None:
    answer = json.loads(_run("gpt2", "--full", "--batch", "2", "--json").stdout)
    model, step = load_architecture("gpt2"), Step(2, 256)
    counted = workload(model, EveryParameter(), step)
    assert answer["whole"]["adapter_parameters"] == answer["whole"]["parameters"] == 124_439_808
    assert answer["whole"]["backward_flops"] == counted.backward_flops
    assert answer["whole"]["memory_bytes"] == counted.memory_bytes
    assert answer["update_bits"] == update_bits(model, EveryParameter())
    assert "every parameter trained; one step" in " ".join(_run("gpt2", "--full").stdout.split())
    for refused in (
        "--split-point 2",
        "--pruning-rate 0.5",
        "--dtype bf16",
        "--rank 4",
        "--target-modules q_proj",
    ):
        assert "every parameter" in str(_run("gpt2", "--full", *refused.split()).exception)


def test_split_pruned_and_chosen_targets() -> None:
    answer = json.loads(
        _run(
            "llama-3.2-1b",
            "--split-point",
            "5",
            "--pruning-rate",
            "0.25",
            "--target-modules",
            "q_proj, v_proj",
            "--dtype",
            "bf16",
            "--update-dtype",
            "fp16",
            "--json",
        ).stdout
    )
    model, adapter = load_architecture("llama-3.2-1b"), AdapterShape(8, ("q_proj", "v_proj"))
    client, server = split_workload(model, adapter, Step(8, 256), 5, 0.25)
    assert answer["client"]["backward_flops"] == client.backward_flops
    assert answer["server"]["parameters"] == server.parameters
    assert answer["update_bits"] == update_bits(model, adapter, "fp16", 0.25, range(5))
    table = _run("llama-3.2-1b", "--split-point", "5", "--pruning-rate", "0.25").stdout
    assert "pruned by 25%" in table
    assert "client" in table
    assert "server" in table


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gpt2", "--rank", "0"], "adapter.rank is 0"),
        (["gpt2", "--target-modules", "c_atn"], "did you mean 'c_attn'?"),
        (["gpt2", "--target-modules", ","], "at least one module name"),
        (["gpt2", "--tokens", "2048"], "at most 1024"),
        (["gpt2", "--pruning-rate", "1"], "pruning_rate is 1.0"),
        (["gpt2", "--split-point", "12"], "from 1 to 11"),
        (["gpt2", "--dtype", "int4"], "one of fp32, fp16, bf16"),
        (["gpt2", "--update-dtype", "int4"], "one of fp32, fp16, bf16"),
    ],
)
def test_refusals(arguments: list[str], message: str) -> None:
    result = _run(*arguments)
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)
    assert result.stdout == ""


def test_without_torch() -> None:
    code = (
        "import sys, typer\n"
        "from airtune.cli.profile import profile\n"
        "app = typer.Typer(); app.command()(profile)\n"
        "app(['gpt2', '--json'], standalone_mode=False)\n"
        "assert not {'torch', 'transformers', 'scipy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
