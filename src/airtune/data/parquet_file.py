"""Rows of a parquet file, read a batch of rows at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from airtune.csv_table import column_names
from airtune.data.cells import Row, texts
from airtune.errors import InputError

_BATCH_ROWS = 256


@dataclass(frozen=True)
class Parquet:
    """A parquet file, whose rows are counted from 1; needs pyarrow."""

    path: Path
    field: str

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def columns(self) -> tuple[str, ...]:
        with self._opened() as file:
            return column_names(file.schema_arrow.names, self.field, self.name)

    @property
    def keys(self) -> tuple[str, ...]:
        return self.columns

    def __iter__(self) -> Iterator[tuple[str, Row]]:
        number = 0
        with self._opened() as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for row in self._rows(batch, number):
                    number += 1
                    place = f"{self.path}, row {number}"
                    yield place, texts(row, place)

    def _rows(self, batch: Any, before: int) -> Iterator[dict[str, Any]]:
        for index in range(batch.num_rows):
            row = {}
            for name, column in zip(batch.schema.names, batch.columns, strict=True):
                try:
                    row[name] = column[index].as_py()
                except UnicodeDecodeError:
                    place = f"{self.path}, row {before + index + 1}, column {name!r}"
                    raise InputError(place, "not UTF-8", "UTF-8 text") from None
                except (ValueError, OverflowError):  # days that Python's calendar does not have
                    row[name] = None
            yield row

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        pyarrow = _pyarrow(self.path, self.field)
        try:
            with pyarrow.parquet.ParquetFile(self.path) as file:
                yield file
        except (pyarrow.ArrowException, OSError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
            raise InputError(
                self.field, f"{self.path} ({reason})", "a readable parquet file"
            ) from None


def _pyarrow(path: Path, field: str) -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            field,
            f"{path} (pyarrow is not installed)",
            "a file that can be read here",
            "install the extra: pip install 'airtune[parquet]', or convert the file to .jsonl",
        ) from None
    return pyarrow
