"""The tables of records, parts' options and keys in the documents, from their definitions.

    python scripts/record_tables.py            # write the tables
    python scripts/record_tables.py --check    # exit 1 if a document is out of date

A document says where a table goes with `<!-- record NAME -->` ... `<!-- end -->`; NAME is `rounds`,
`clients`, `split`, or a method that records numbers of its own. `<!-- options KIND -->` is where
the options of the parts of a kind go, such as `codec`; `<!-- keys KIND -->`, where the keys of a
file go (`key_tables.py`).
"""

import ast
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from inspect import cleandoc, getsource
from itertools import pairwise
from pathlib import Path

from airtune.federated.records.fields import quantities
from airtune.federated.records.record import ClientRecord, RoundRecord
from airtune.methods.parts import known_parts
from airtune.methods.registry import shipped_methods
from airtune.section import spots
from key_tables import KEYS

ROOT = Path(__file__).resolve().parents[1]
PLACE = re.compile(r"(<!-- (record|options|keys) ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


Row = tuple[str, str, str, bool]
"""Key, unit, meaning, and whether only split models have it."""


def tables() -> dict[str, list[Row]]:
    """Rows of each table by its name."""
    rounds, clients = _rows(RoundRecord), _rows(ClientRecord)
    return {
        "rounds": [row for row in rounds if not row[3]],
        "clients": [row for row in clients if not row[3]],
        "split": [row for row in (*rounds, *_rows(ClientRecord, "clients[].")) if row[3]],
        **{
            spec.name: [
                row for place, kind in spec.recorded.items() for row in _rows(kind, f"{place}.")
            ]
            for spec in shipped_methods().values()
            if spec.recorded
        },
    }


def _rows(kind: type, prefix: str = "") -> list[Row]:
    told = meanings(kind)
    return [
        (f"{prefix}{key}", what.unit, told.get(key, ""), what.split)
        for key, what in quantities(kind).items()
    ]


def meanings(kind: type) -> dict[str, str]:
    """The docstring below each field of a dataclass."""
    (definition,) = ast.parse(getsource(kind)).body
    assert isinstance(definition, ast.ClassDef)
    return {
        ast.unparse(field.target): cleandoc(below.value.value).replace("\n", " ")
        for field, below in pairwise(definition.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }


def table(rows: Sequence[Row]) -> str:
    """Rows as Markdown."""
    lines = ["| key | unit | meaning |", "|---|---|---|"]
    for key, unit, meaning, _ in rows:
        escaped = meaning.rstrip(".").replace("|", "\\|")
        lines.append(f"| `{key}` | {unit} | {escaped} |")
    return "\n".join(lines) + "\n"


def option_table(kind: str) -> str:
    """The options of the parts of a kind as Markdown."""
    lines = [f"| {kind} | option | default | allowed | meaning |", "|---|---|---|---|---|"]
    for name, part in known_parts()[kind].items():
        fields = part.options.model_fields
        if not fields:
            lines.append(f"| `{name}` | | | | no options |")
        for key, spot in spots(part.options).items():
            default = "null" if fields[key].default is None else fields[key].default
            meaning = (fields[key].description or "").replace("|", "\\|")
            lines.append(f"| `{name}` | `{key}` | {default} | {spot.words} | {meaning} |")
    return "\n".join(lines) + "\n"


def documents() -> Iterator[tuple[Path, str]]:
    """Every document with such tables, and its text with the tables of now."""
    known = tables()
    for path in sorted((ROOT / "docs").glob("*.md")):
        text = path.read_text()
        if PLACE.search(text):
            yield path, PLACE.sub(lambda m: m[1] + _filled(known, m[2], m[3]) + m[4], text)


def _filled(known: Mapping[str, Sequence[Row]], kind: str, name: str) -> str:
    if kind == "keys":
        return KEYS[name]().strip() + "\n"
    return option_table(name) if kind == "options" else table(known[name])


def main() -> int:
    old = [path for path, text in documents() if path.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in old:
            print(f"{path.name} is out of date: python scripts/record_tables.py")
        return int(bool(old))
    for path, text in list(documents()):
        path.write_text(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
