"""Writing the figures and tables of a paper into a folder, each with the csv of its numbers."""

import csv
import io
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from airtune.errors import AirtuneError, InputError
from airtune.files import make_folder, write_bytes_atomic, write_text_atomic
from airtune.report.figures.content import drawings
from airtune.report.figures.drawing import Drawing
from airtune.report.figures.latex import tables
from airtune.report.sources import Source, read_source

KINDS = ("pdf", "svg", "png")
FOLDER = "figures"
_UNDATED: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
    "png": {},
}
"""Metadata without a date: the same numbers are the same bytes."""


@dataclass(frozen=True)
class Written:
    """Files in order, and sentences about what is left out or does not look as meant."""

    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def write_figures(
    folders: Path | Sequence[Path],
    kinds: Sequence[str] = ("pdf",),
    columns: int = 1,
    out: Path | None = None,
) -> Written:
    """The figures of a run, of several runs or of a comparison, and a csv of each one's numbers.

    `kinds` are file formats (pdf, svg, png), `columns` the width: 1 (3.5 in) or 2 (7.16 in). They
    go to `out`, or to `figures` in the one folder. Raises InputError for other values and for
    folders that cannot be reported, AirtuneError without matplotlib.
    """
    source = read_source(_paths(folders))
    _check(kinds, columns)
    place = _place(folders, out)
    if find_spec("matplotlib") is None:
        raise AirtuneError("Figures need matplotlib: pip install airtune[plots]")
    made, left_out = drawings(source)
    make_folder("--out", place)
    files = [path for drawing in made for path in _write(drawing, place, kinds, columns)]
    return Written(tuple(files), (*source.notes, *left_out, *_unreadable(made)))


def write_tables(folders: Path | Sequence[Path], out: Path | None = None) -> Written:
    """The tables of results as LaTeX (booktabs) and as csv; places and errors as for figures."""
    source: Source = read_source(_paths(folders))
    place = _place(folders, out)
    make_folder("--out", place)
    files = []
    for table in tables(source):
        files += [place / f"{table.name}.tex", place / f"{table.name}.csv"]
        write_text_atomic(files[-2], table.latex())
        write_text_atomic(files[-1], csv_text(table.rows()))
    return Written(tuple(files), source.notes)


def require_drawable(path: Path) -> None:
    """InputError for a figure in a format that is not known, AirtuneError without matplotlib."""
    if path.suffix.removeprefix(".") not in KINDS:
        raise InputError("--figure", str(path), f"a file that ends in {', '.join(KINDS)}")
    if find_spec("matplotlib") is None:
        raise AirtuneError("Figures need matplotlib: pip install airtune[plots]")


def write_drawing(drawing: Drawing, path: Path) -> None:
    """One drawing, one column wide, in the format of the file's ending."""
    from airtune.report.figures.draw import draw, styled

    kind, stream = path.suffix.removeprefix("."), io.BytesIO()
    with styled():
        draw(drawing, 1).savefig(stream, format=kind, metadata=_UNDATED[kind])
    write_bytes_atomic(path, stream.getvalue())


def csv_text(rows: Iterable[Sequence[Any]]) -> str:
    """Rows as csv; numbers in full precision."""
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def _paths(folders: Path | Sequence[Path]) -> list[Path]:
    return [folders] if isinstance(folders, Path) else list(folders)


def _check(kinds: Sequence[str], columns: int) -> None:
    for kind in kinds:
        if kind not in KINDS:
            raise InputError("--figures", kind, f"of {', '.join(KINDS)}", "separate them by commas")
    if not kinds:
        raise InputError("--figures", "", f"one or several of {', '.join(KINDS)}")
    if columns not in (1, 2):
        raise InputError("--columns", columns, "1 or 2")


def _place(folders: Path | Sequence[Path], out: Path | None) -> Path:
    paths = _paths(folders)
    if out is None and len(paths) > 1:
        raise InputError("--out", None, "the folder of the figures, since there are several runs")
    return out or paths[0] / FOLDER


def _write(drawing: Drawing, place: Path, kinds: Sequence[str], columns: int) -> list[Path]:
    from airtune.report.figures.draw import draw, styled

    files = []
    with styled(), warnings.catch_warnings():
        # Letters that the font lacks are named in a note.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        for kind in dict.fromkeys(kinds):
            stream = io.BytesIO()
            # Drawn anew, since the layout of a saved figure depends on what was saved before.
            draw(drawing, columns).savefig(stream, format=kind, metadata=_UNDATED[kind])
            files.append(place / f"{drawing.name}.{kind}")
            write_bytes_atomic(files[-1], stream.getvalue())
    files.append(place / f"{drawing.name}.csv")
    write_text_atomic(files[-1], csv_text(drawing.rows()))
    return files


def _unreadable(made: Sequence[Drawing]) -> list[str]:
    from airtune.report.figures.draw import FONT, missing_letters

    letters = missing_letters([label for drawing in made for label in drawing.labels])
    if not letters:
        return []
    return [
        f"{FONT}, the font of the figures, has no {' '.join(letters)}: boxes stand in their place. "
        "Give these arms or run folders other names."
    ]
