"""A run on a user's channel model: the documented one, what is recorded of it, and its errors."""

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import airtune as package
from airtune.experiment.digests import user_parts
from airtune.experiment.reading import read_config
from tests.cli.conftest import airtune, quick

__all__ = ["airtune"]
Call = Callable[..., tuple[int, str, str]]
DOCUMENT = Path(package.__file__).parents[2] / "docs" / "wireless.md"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    path = list(sys.path)
    yield
    sys.path[:] = path
    sys.modules.pop("my_channel", None)


@pytest.fixture
def street(tmp_path: Path) -> Path:
    if not DOCUMENT.is_file():
        pytest.skip("airtune is installed without its documents")
    blocks = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (code,) = (block for block in blocks if "my_channel.py" in block)
    (tmp_path / "my_channel.py").write_text(code)
    (tmp_path / "experiment.yaml").write_text("cell: {channel: 'my_channel:Street'}\n")
    return tmp_path


SETTINGS = quick("rounds=4", "cell.path_loss=umi")


def test_the_documented_model_runs(airtune: Call, street: Path) -> None:
    code, out, err = airtune("run", "experiment.yaml", *SETTINGS, "--out", "run", "--json")
    assert code == 0, err
    records = [json.loads(line) for line in (street / "run" / "rounds.jsonl").open()]
    # The last client is silent in every fourth round.
    assert [list(record["skipped"]) for record in records] == [[], [], [], ["2"]]
    environment = json.loads((street / "run" / "environment.json").read_text())
    assert environment["channel"] == "the channel model my_channel:Street"
    [part] = environment["parts"]
    assert part["part"] == "cell.channel"
    assert json.loads(out)["rounds"] == 4
    # Its source is part of what the run depends on.
    text = (street / "my_channel.py").read_text()
    (street / "my_channel.py").write_text(text.replace("1e-4", "1e-5"))
    sys.modules.pop("my_channel", None)
    code, _, err = airtune("resume", "run", "--rounds", "+1")
    assert code == 2
    assert "the source of cell.channel my_channel:Street differs" in err


def test_an_error_in_a_round_is_a_sentence(airtune: Call, street: Path) -> None:
    text = (street / "my_channel.py").read_text()
    (street / "my_channel.py").write_text(
        text.replace("return 0.0", "raise KeyError('no such street')")
    )
    code, _, err = airtune("run", "experiment.yaml", *SETTINGS, "--out", "run")
    assert code == 2
    assert "The channel model my_channel:Street in round 4 for client 2 failed: KeyError" in err
    assert "my_channel.py, line" in err


def test_channel_and_plan_find_it(airtune: Call, street: Path) -> None:
    code, out, err = airtune(
        "channel", "cell.csv", "--experiment", "experiment.yaml", "--rounds", 4
    )
    assert code == 0, err
    assert "Wrote 4 rounds" in out
    (street / "problem.yaml").write_text(
        "{method: jcpba, model: gpt2, tokens: 64, training: {batch_size: 1, local_steps: 1},"
        " cell: {channel: 'my_channel:Street'}, pruning_rate_max: 0.8, pruning_budget: 0.3}"
    )
    code, out, err = airtune("plan", "problem.yaml", "--json")
    assert code == 0, err
    assert json.loads(out)["status"] == "optimal"


def test_a_run_folder_is_no_place_for_it(airtune: Call, street: Path) -> None:
    run = street / "run"
    run.mkdir()
    (run / "rounds.jsonl").write_text("")
    (street / "my_channel.py").rename(run / "my_channel.py")
    (street / "experiment.yaml").rename(run / "experiment.yaml")
    sys.path.append(str(run))
    code, _, err = airtune("run", "--set", "cell.channel=my_channel:Street", *SETTINGS)
    assert code == 2
    assert "a run folder is data" in err
    assert "my_channel" not in sys.modules


def test_a_secret_option_is_not_written(street: Path) -> None:
    assert street
    settings = ["cell.channel={use: 'my_channel:Street', api_token: abcdefgh}"]
    config = read_config(None, settings)
    template, value = config._templates["cell", "channel", "api_token"]
    assert (template, value) == ("${AIRTUNE_CELL_CHANNEL_API_TOKEN}", "abcdefgh")
    assert [part.field for part in user_parts(config)] == ["cell.channel"]
