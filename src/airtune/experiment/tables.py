"""Tables of offline stages as files."""

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airtune.errors import InputError
from airtune.files import require_place, write_text_atomic

FORMATS = (".json", ".yaml", ".yml", ".csv")


def check_name(path: Path | None) -> None:
    """Refuse a name whose ending says no format, and a place that does not exist, before the work
    that would fill it."""
    if path is None:
        return
    if path.suffix not in FORMATS:
        raise InputError("--out", str(path), f"a name that ends in {', '.join(FORMATS)}")
    require_place("--out", path)


def write_table(path: Path, table: Mapping[str, Any], rows: str) -> None:
    """Write a table by the ending of its name; a csv holds the rows alone, one a line."""
    check_name(path)
    if path.suffix == ".csv":
        text = _csv(table[rows])
    elif path.suffix == ".json":
        text = json.dumps(table, indent=2) + "\n"
    else:
        text = _yaml(table)
    write_text_atomic(path, text)


def _csv(rows: list[dict[str, Any]]) -> str:
    stream = io.StringIO()
    columns = [key for key in rows[0] if not isinstance(rows[0][key], list)]
    writer = csv.DictWriter(stream, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def _yaml(table: Mapping[str, Any]) -> str:
    from ruamel.yaml import YAML

    stream = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.dump(dict(table), stream)
    return stream.getvalue()
