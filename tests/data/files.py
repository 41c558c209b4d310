"""Files of rows, written and read in plain Python: what airtune's own reading is held against."""

import csv
import gzip
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

Values = Mapping[str, Any]
TEXT_KINDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".jsonl.gz", ".json.gz", ".csv.gz")
DELIMITERS = {".csv": ",", ".tsv": "\t"}


def write(path: Path, rows: Sequence[Values], delimiter: str | None = None) -> str:
    """Rows as the suffix of the file says, `.gz` compressed."""
    kind = path.name[path.name.index(".") :].removesuffix(".gz")
    if kind == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow.parquet import write_table

        # Row groups of two, so that most files have several.
        write_table(pyarrow.Table.from_pylist(list(rows)), path, row_group_size=2)
        return str(path)
    if kind in DELIMITERS:
        text = _cells(rows, delimiter or DELIMITERS[kind])
    elif kind == ".json":
        text = json.dumps(rows, ensure_ascii=False, indent=1)
    else:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    content = text.encode()
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return str(path)


def _cells(rows: Sequence[Values], delimiter: str) -> str:
    stream = io.StringIO(newline="")
    table = csv.DictWriter(stream, list(rows[0]), delimiter=delimiter)
    table.writeheader()
    table.writerows(rows)
    return stream.getvalue()


def read(path: Path, delimiter: str | None = None) -> list[dict[str, Any]]:
    """The rows of a file, with no more than the standard library (and pyarrow)."""
    kind = path.name[path.name.index(".") :].removesuffix(".gz")
    if kind == ".parquet":
        from pyarrow.parquet import read_table

        return list(read_table(path).to_pylist())
    content = path.read_bytes()
    text = (gzip.decompress(content) if path.name.endswith(".gz") else content).decode()
    if kind in DELIMITERS:
        stream = io.StringIO(text, newline="")
        return list(csv.DictReader(stream, delimiter=delimiter or DELIMITERS[kind]))
    return list(json.loads(text)) if kind == ".json" else _json_lines(text)


def _json_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.split("\n") if line]
