"""The page of a run, of several runs or of a comparison, made again from their folders."""

from collections.abc import Sequence
from pathlib import Path

from airtune.comparison.views import source_view
from airtune.errors import InputError
from airtune.experiment.reopened import run_view
from airtune.files import require_place, write_text_atomic
from airtune.report import html
from airtune.report.comparison_page import render_comparison
from airtune.report.page import render
from airtune.report.sources import Source, is_run, read_source

PAGE = "report.html"


def write_page(paths: Sequence[Path], out: Path | None = None) -> tuple[Path, Source]:
    """Write the page; its file, and what it was made from.

    Without `out` it is `report.html` in the folder of the run or comparison. A comparison's own
    page takes the plotting script from a file beside it, every other page holds it. Raises
    AirtuneError for folders that cannot be reported, and where nothing can be written.
    """
    source = read_source(paths)
    if out is None:
        if len(paths) > 1:
            raise InputError("--out", None, "the file of the page, since there are several runs")
        out = paths[0] / PAGE
    if out.suffix != ".html":
        raise InputError("--out", str(out), "a name that ends with .html")
    require_place("--out", out)
    if len(paths) == 1 and is_run(paths[0]):
        write_text_atomic(out, render(run_view(paths[0])))
        return out, source
    inside = out.parent.resolve() == paths[0].resolve() and len(paths) == 1
    if inside:
        write_text_atomic(out.parent / html.SCRIPT, html.script())
    view = source_view(source, out.parent)
    write_text_atomic(out, render_comparison(view, html.SCRIPT if inside else ""))
    return out, source
