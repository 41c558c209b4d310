"""The sweep as one call, which the command line makes, too."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airtune.data.memory import named_in_data
from airtune.files import file_value
from airtune.methods.file_kinds import PROBLEM
from airtune.sweeping.axes import Axes, checked_axes, flat_point, read_list
from airtune.sweeping.definition import Sweep, define, read_definition
from airtune.sweeping.planning import run_planning
from airtune.sweeping.table import SweepResult

if TYPE_CHECKING:
    from airtune.jobs.job import Watcher


def sweep(
    source: Path | str | Mapping[str, Any] | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    *,
    points: Sequence[Mapping[str, Any]] | Path | str | None = None,
    out: Path | str,
    settings: Sequence[str] = (),
    seeds: int | None = None,
    solver: str | None = None,
    plan: bool = False,
    jobs: int = 1,
    watcher: "Watcher | None" = None,
) -> SweepResult:
    """Sweep an experiment or a planning problem; called again, it goes on where it was.

    Args:
        source: the file of an experiment or of a problem, its content (`data.train` may be rows in
            memory), or None for the built-in experiment.
        grid: dotted keys and their values; every combination is a point.
        points: a list of points, dotted or nested keys, or the file of one (csv, YAML); every one
            of them is combined with the grid.
        out: the folder of the sweep, new or that of the same sweep.
        settings: `key=value` for every point, training runs only.
        seeds: how many, counted from the experiment's own; 1 by default.
        solver: a solver of the problem's method; its first one by default.
        plan: the source is a planning problem although its keys might be an experiment's.
        jobs: how many runs at once; above 1, a core each.
        watcher: has the methods of `airtune.jobs.job.Watcher`.

    Returns:
        The table, as `sweep.json` and `sweep.csv` in the folder have it. A run that is refused,
        infeasible or diverges is a row with its sentence.

    Raises:
        InputError: before anything is run, where every point is refused, or the folder holds
            something else.
    """
    rows = (
        read_list(Path(points))
        if isinstance(points, str | Path)
        else [flat_point(file_value(point)) for point in points or ()]
    )
    axes = checked_axes(Axes({key: file_value(v) for key, v in (grid or {}).items()}, rows), "grid")
    if isinstance(source, Mapping):
        source = named_in_data(source)
    asked = define(source, axes, settings, seeds, solver, plan=plan)
    return run_sweep(asked, Path(out), watcher, jobs)


def run_sweep(
    asked: Sweep, out: Path, watcher: "Watcher | None" = None, jobs: int = 1
) -> SweepResult:
    """Run what is missing of a sweep; writes its table and its page."""
    if asked.kind == PROBLEM:
        result = run_planning(asked, out, jobs)
    else:
        from airtune.sweeping.running import run_training

        result = run_training(asked, out, watcher, jobs)
    from airtune.sweeping.page import write_page

    write_page(result)
    return result


def resume_sweep(folder: Path, watcher: "Watcher | None" = None, jobs: int = 1) -> SweepResult:
    """Go on with the sweep of a folder."""
    return run_sweep(read_definition(folder), folder, watcher, jobs)
