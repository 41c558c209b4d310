"""The tables of the comparisons: from experiments/results into the documents.

    python scripts/comparison_tables.py --collect runs    # copy the results of `make compare`
    python scripts/comparison_tables.py                   # write the tables
    python scripts/comparison_tables.py --check           # exit 1 if a document is out of date

A document says where a table goes with `<!-- comparison NAME -->` ... `<!-- end -->`; `NAME main`
takes only the arms with the most seeds, and the columns a newcomer asks for first; `NAME targets`
is the costs to each of several targets.
"""

import argparse
import json
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from airtune.comparison.table import HEADINGS, caveats, comparison_sentences, table_rows
from airtune.report.sentences import charged_as
from airtune.report.targets import ABOUT, target_tables

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "experiments" / "results"
DOCUMENTS = (ROOT / "README.md", ROOT / "docs" / "choosing.md")
COLLECTED = ("comparison.json", "comparison.csv", "curves.csv")
FIRST_COLUMNS = ("arm", "seeds", "final loss [nat]", "rounds", "time", "sent up", "energy")
PLACE = re.compile(
    r"(<!-- comparison ([\w-]+)(?: (main|targets))? -->\n).*?(<!-- end -->)", re.DOTALL
)
NO_RESULT = "Not run yet: `make compare`.\n"


def collect(runs: Path) -> list[str]:
    """Copy what `make compare` left in `runs/compare-NAME`; answers the names."""
    names = []
    for folder in sorted(runs.glob("compare-*")):
        name = folder.name.removeprefix("compare-")
        ships = (ROOT / "experiments" / f"{folder.name}.yaml").is_file()
        if ships and (folder / COLLECTED[0]).is_file():
            (RESULTS / name).mkdir(parents=True, exist_ok=True)
            for file in COLLECTED:
                shutil.copyfile(folder / file, RESULTS / name / file)
            names.append(name)
    return names


def table(numbers: Mapping[str, Any], main: bool) -> str:
    """The comparison in Markdown, with the sentences that belong to it."""
    columns = [k for k, words in enumerate(HEADINGS) if not main or words in FIRST_COLUMNS]
    seeds = [len(arm["runs"]) for arm in numbers["arms"]]
    rows = [
        row
        for row, count in zip(table_rows(numbers), seeds, strict=True)
        if not main or count == max(seeds)
    ]
    lines = [_line([HEADINGS[k] for k in columns]), _line(["---", *["--:"] * (len(columns) - 1)])]
    lines += [_line([row[k] for k in columns]) for row in rows]
    told = [charged_as(numbers["charge_as"], numbers["model"]), *comparison_sentences(numbers)]
    shown = [arm for arm, count in zip(numbers["arms"], seeds, strict=True) if count == max(seeds)]
    under = [*told[:2], *caveats(shown)] if main else _paragraph(told)
    return "\n".join([*lines, "", *under]) + "\n"


def targets(numbers: Mapping[str, Any]) -> str:
    """The costs to each of several targets in Markdown."""
    lines = []
    for table in target_tables(numbers):
        aligned = _line(["---", *["--:"] * (len(table.headings) - 1)])
        rows = [_line(table.headings), aligned, *map(_line, table.rows)]
        lines += [f"{table.title}:", "", *rows, ""]
    return "\n".join([*lines, ABOUT]) + "\n"


def _paragraph(sentences: Sequence[str]) -> list[str]:
    return [f"- {sentence}" for sentence in sentences if sentence]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def filled(text: str) -> str:
    """A document with every table written anew."""

    def written(place: re.Match[str]) -> str:
        path = RESULTS / place[2] / "comparison.json"
        if not path.is_file():
            content = NO_RESULT
        elif place[3] == "targets":
            content = targets(json.loads(path.read_text()))
        else:
            content = table(json.loads(path.read_text()), main=place[3] == "main")
        return f"{place[1]}\n{content}\n{place[4]}"

    return PLACE.sub(written, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--collect", type=Path, metavar="RUNS", help="folder with compare-NAME")
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if it would")
    arguments = parser.parse_args()
    if arguments.collect is not None:
        print("Collected:", ", ".join(collect(arguments.collect)) or "nothing")
    stale = [path for path in DOCUMENTS if filled(path.read_text()) != path.read_text()]
    if arguments.check:
        sys.exit(f"Out of date: {', '.join(path.name for path in stale)}" if stale else 0)
    for path in stale:
        path.write_text(filled(path.read_text()))
        print(f"Wrote {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
