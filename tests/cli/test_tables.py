"""Tables at 80 columns and in a pipe: every cell is there, whole; no line is too wide."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import airtune as package
from airtune.cli.text import facts, prose, text_table
from airtune.quantities import format_quantity
from tests.cli.conftest import quick

Call = Callable[..., tuple[int, str, str]]
EXAMPLES = Path(package.__file__).parents[2] / "examples"
ROWS = [[f"name-{k}", "12 min 34 s (×0.87)", "1.01 GB (×1.00)", "33.4 kJ"] for k in range(3)]
HEADINGS = ("arm", "time to the target", "sent up", "energy")


def test_a_wide_table_is_one_block_in_a_pipe() -> None:
    lines = text_table(HEADINGS, ROWS).splitlines()
    assert len(lines) == 4
    assert lines[1] == "name-0  12 min 34 s (×0.87)  1.01 GB (×1.00)  33.4 kJ"


@pytest.mark.parametrize("width", [30, 45, 80])
def test_a_narrow_page_gets_blocks_that_repeat_the_first_column(width: int) -> None:
    text = text_table(HEADINGS, ROWS, width=width)
    assert max(map(len, text.splitlines())) <= width
    for row in ROWS:
        for cell in row:
            assert text.count(cell) >= len(ROWS) if cell != row[0] else cell in text
    blocks = text.split("\n\n")
    assert all("name-2" in block for block in blocks)
    assert (len(blocks) == 1) == (width == 80)


def test_one_cell_wider_than_the_page_is_not_cut() -> None:
    assert "x" * 50 in text_table(("a", "b"), [["k", "x" * 50]], width=20)


def test_facts_and_prose_break_between_words() -> None:
    text = facts([("planned latency", "2.04 s a round: " + "word " * 20), ("rows", "3")], 60)
    assert max(map(len, text.splitlines())) <= 60
    assert text.splitlines()[-1] == "rows             3"
    assert prose("a b " * 40, 30).replace("\n", " ").split() == ["a", "b"] * 40
    assert prose("a b", None) == "a b"


def _shown(call: Call, monkeypatch: pytest.MonkeyPatch, *arguments: Any) -> tuple[str, str]:
    """What a command prints at 80 columns, and in a pipe."""
    monkeypatch.setenv("COLUMNS", "80")
    code, narrow, _ = call(*arguments)
    assert code == 0
    monkeypatch.delenv("COLUMNS")
    return narrow, call(*arguments)[1]


def _words(text: str) -> set[str]:
    return set(re.findall(r"\S+", text))


@pytest.mark.parametrize(
    "arguments",
    [
        ("device", "list"),
        ("profile", "llama-3.1-8b", "--split-point", "3"),
        ("plan", EXAMPLES / "jcpba.yaml"),
        ("plan", EXAMPLES / "tsfa.yaml"),
        ("plan", EXAMPLES / "sflllm.yaml"),
        ("plan", EXAMPLES / "fedsllm.yaml"),
        ("plan", EXAMPLES / "sflllm.yaml", "--sweep", "local_steps=1,2,3,4"),
    ],
    ids=lambda arguments: f"{arguments[0]}-{Path(arguments[1]).stem}-{len(arguments)}",
)
def test_commands_fit_and_lose_nothing(
    arguments: tuple[Any, ...], airtune: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    if isinstance(arguments[1], Path) and not arguments[1].is_file():
        pytest.skip("airtune is installed without its examples")
    narrow, piped = _shown(airtune, monkeypatch, *arguments)
    assert max(map(len, narrow.splitlines())) <= 80
    assert "…" not in narrow + piped
    timed = re.compile(r"^\d.*|m?s$")  # solve times differ
    assert {w for w in _words(piped) if not timed.match(w)} <= _words(narrow)
    tables = [block for block in piped.split("\n\n") if len(block.splitlines()) > 2]
    assert tables
    assert all(not line.endswith(" ") for line in narrow.splitlines())


def test_the_dry_run_shows_every_client_and_whole_numbers(
    airtune: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = airtune("run", "--dry-run", *quick())
    preview = json.loads(airtune("run", "--dry-run", "--json", *quick())[1])
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    for entry in preview["clients"]:
        assert f"{entry['client']} {entry['device']}" in out
        for key, unit in (("rate_bps", "bit/s"), ("memory_bytes", "B"), ("bandwidth_hz", "Hz")):
            assert format_quantity(entry[key], unit) in out


@pytest.mark.slow
def test_a_comparison_fits(airtune: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    arguments = ("compare", "--methods", "fedlora,jcpba", "--out", "c", "--target-loss", "99")
    code, out, _ = airtune(*arguments, *quick("rounds=1", "data.score_rows=0"))
    assert code == 0
    assert max(map(len, out.splitlines())) <= 80
    assert out.count("\njcpba ") >= 2
    numbers = json.loads(Path("c/comparison.json").read_text())
    for arm in numbers["arms"]:
        assert format_quantity(arm["to_target"]["uplink_bytes"]["mean"], "B") in out


def test_hints_can_be_pasted(airtune: Call) -> None:
    assert airtune("init", "my file.yaml")[1].endswith("airtune run 'my file.yaml'\n")
    if (EXAMPLES / "jcpba.yaml").is_file():
        code, out, _ = airtune("plan", EXAMPLES / "jcpba.yaml", "--write-problem", "a b.yaml")
        assert (code, out) == (0, "Wrote a b.yaml. To solve it: airtune plan 'a b.yaml'\n")


def test_an_interrupted_run_says_how_to_go_on(
    airtune: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("airtune.cli.terminal.RoundsView.round", stop)
    code, _, err = airtune("run", "--out", "my run", *quick("rounds=1"))
    assert code == 130
    assert "airtune resume 'my run'\n" in err
