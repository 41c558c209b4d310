"""What `airtune deploy server`, `client`, `status` and `shards` refuse, and what shards are."""

from collections.abc import Callable
from pathlib import Path

import pytest

from airtune.data.sources import SourceOptions, load_client_data
from airtune.errors import InputError
from tests.cli.conftest import quick

Call = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["server", "--insecure"], "--out is left out"),
        (["server", "--out", "r"], "--keys is left out"),
        (["server", "--out", "r", "--insecure", "--keys", "k"], "given beside --insecure"),
        (["server", "--out", "r", "--insecure"], "--listen is 0.0.0.0:8443, but it must be at"),
        (["server", "--out", "r", "--keys", "k", "--listen", "here"], "of the form HOST:PORT"),
        (["server", "--out", "r", "--keys", "k", "--listen", "a:70000"], "of the form HOST:PORT"),
        (["server", "--out", "r", "--keys", "k"], "the folder of keys is k"),
        (["client", "--server", "h:1", "--data", "d"], "--keys is left out"),
        (["client", "--server", "h:1", "--data", "d", "--insecure"], "--server is h:1"),
        (["client", "--server", "localhost:1", "--data", "d", "--insecure"], "--client is left"),
        (
            ["client", "--server", "h:1", "--data", "d", "--keys", "k", "--client", "1"],
            "a certificate names it",
        ),
        (
            ["client", "--server", "localhost:1", "--data", "d", "--insecure", "--client", "0"],
            "--data is d, but it must be a file",
        ),
        (["status", "nowhere"], "the folder of a deployed run"),
    ],
)
def test_refusals(arguments: list[str], sentence: str, airtune: Call) -> None:
    code, out, err = airtune("deploy", *arguments)
    assert (code, out) == (2, "")
    assert sentence in err
    assert err.count("\n") == 1


def test_a_server_that_is_not_there(airtune: Call, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "p", "completion": "c"}\n')
    code, _, err = airtune(
        *("deploy", "client", "--server", "127.0.0.1:1", "--insecure", "--client", "0"),
        *("--data", "rows.jsonl", "--wait-s", "0.3"),
    )
    assert code == 2
    assert err.splitlines()[-1] == (
        "airtune: The server at 127.0.0.1:1 cannot be reached (Connection refused)."
    )


def test_shards_are_the_simulations(airtune: Call, tmp_path: Path) -> None:
    """A run on the files has the records of a run that draws its partition."""
    (tmp_path / "e.yaml").write_text("engine: sequential\n")
    settings = quick("rounds=1", "data.score_rows=0")
    code, out, err = airtune("deploy", "shards", "e.yaml", "shards", *settings)
    assert (code, err) == (0, "")
    assert "--set data.train=shards" in out
    assert airtune("deploy", "shards", "e.yaml", "shards", *settings)[0] == 2
    assert airtune("run", "e.yaml", "--out", "drawn", "-q", *settings)[0] == 0
    files = quick("rounds=1", "data.score_rows=0", "data.train=shards")
    assert airtune("run", "e.yaml", "--out", "files", "-q", *files)[0] == 0
    drawn, read = ((tmp_path / name / "rounds.jsonl").read_bytes() for name in ("drawn", "files"))
    assert drawn == read


def test_a_deployed_run_is_not_resumed_as_a_simulation(airtune: Call, tmp_path: Path) -> None:
    assert airtune("run", "--out", "r", "-q", *quick("rounds=1"))[0] == 0
    (tmp_path / "r" / "deploy.json").write_text("{}")
    code, _, err = airtune("resume", "r", "--rounds", "+1")
    assert code == 2
    assert "The clients of r are on other machines" in err


def test_keys_of_a_deployment_are_noticed_in_a_simulation(airtune: Call) -> None:
    settings = quick("rounds=1", "deploy.quorum=2", "deploy.pace=true", "data.score_rows=0")
    code, out, _ = airtune("run", "--out", "r", *settings)
    assert code == 0
    said = " ".join(out.split())
    assert "deploy.quorum, deploy.pace: used by `airtune deploy` alone" in said


def test_the_delimiter_of_a_clients_own_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("prompt;completion\np;c\n")
    options = SourceOptions(delimiter=";")
    assert [(e.prompt, e.completion) for e in load_client_data(path, options)] == [("p", "c")]
    lines = tmp_path / "rows.jsonl"
    lines.write_text('{"prompt": "p", "completion": "c"}\n')
    for file, mark in ((lines, ";"), (path, ";;"), (path, '"')):
        with pytest.raises(InputError, match=r"--delimiter is .* one character, for a csv"):
            load_client_data(file, SourceOptions(delimiter=mark))
