"""`airtune advise` at the terminal: text within 80 columns, JSON, page, exit codes."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from airtune.cli.advise import seconds_of
from airtune.cli.main import app
from airtune.errors import InputError
from tests.advising.test_rounds import SMALL

SETTINGS = [word for setting in (*SMALL, "rounds=3") for word in ("--set", setting)]


def _run(*words: str) -> tuple[int, str]:
    answer = CliRunner().invoke(app, ["advise", "--draws", "3", *SETTINGS, *words])
    return answer.exit_code, answer.output


def test_text_fits_a_page_and_names_what_helps(tmp_path: Path) -> None:
    page = tmp_path / "advice.html"
    code, text = _run("--deadline", "1h", "--out", str(page))
    assert code == 0
    for line in text.splitlines():
        assert len(line) <= 80 or line.strip().startswith(("--set", "Wrote")), line
    for words in ("A round", "The whole job", "What a round waits for", "What would help fedlora"):
        assert words in text
    assert "<h2" in page.read_text()
    assert "fedlora.uplink_dtype=int8" in page.read_text()


def test_json_has_every_number() -> None:
    code, text = _run("--json", "--methods", "fedlora,jcpba")
    answer = json.loads(text)
    assert code == 0
    assert [entry["name"] for entry in answer["methods"]] == ["fedlora", "jcpba"]
    first = answer["methods"][0]
    assert len(first["round_latencies_s"]) == answer["draws"] == 3
    assert first["round"]["latency_s"]["p10"] <= first["round"]["latency_s"]["p90"]
    assert all(one["command"].startswith("--set ") for one in answer["suggestions"])


def test_exit_code_3_where_nothing_fits() -> None:
    code, text = _run("--deadline", "1s", "--methods", "fedlora")
    assert code == 3
    assert "Deadline: 1 s" in text
    code, text = _run("--set", "charge_as=llama-3.1-70b", "--methods", "fedlora")
    assert code == 3
    assert "memory of client" in text
    assert "A round" not in text


@pytest.mark.parametrize(
    "words",
    [
        ("--deadline", "soon"),
        ("--deadline", "2 weeks"),
        ("--out", "page.pdf"),
        ("--out", "no/such/folder/page.html"),
        ("--methods", "unheard_of"),
        ("--set", "cell.bandwith_hz=1e6"),
        ("--draws", "0"),
    ],
)
def test_bad_input_ends_with_2(
    airtune: Callable[..., tuple[int, str, str]], words: tuple[str, ...]
) -> None:
    code, out, err = airtune("advise", *SETTINGS, *words)
    assert code == 2
    assert out == ""
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90 s", 90), ("30min", 1800), ("2h", 7200), ("1h30m", 5400), ("1d 12h", 129600)],
)
def test_durations(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "-2h", "2 hours", "1h x", "nan", "0"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--deadline"):
        seconds_of(text)
