"""What a comparison leaves behind: comparison.json, comparison.csv, curves.csv, and report.html
with its script.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from airtune import __version__
from airtune.comparison.definition import Comparison
from airtune.comparison.measure import MEASURES, default_target, measure_arms
from airtune.comparison.targets import measure_targets
from airtune.comparison.views import comparison_view
from airtune.errors import AirtuneError, redacted
from airtune.files import write_json_atomic, write_text_atomic
from airtune.jobs.job import RunResult
from airtune.report import html
from airtune.report.comparison_page import render_comparison
from airtune.report.costs import COSTS, spent


def measured(comparison: Comparison, results: Sequence[RunResult]) -> dict[str, Any]:
    """The comparison in numbers. Raises AirtuneError where no run of the first arm finished."""
    target, source = comparison.target_loss, "given"
    if target is None:
        target, source = default_target(results, comparison.target_share), "first arm"
    if target is None:
        first = next(result for result in results if result.name == comparison.arms[0].name)
        raise AirtuneError(
            f"No run of the first arm, {first.name}, finished, so there is no target loss: "
            f"{first.failure} Mend it, put another arm first, or give --target-loss."
        )
    config = next(iter(comparison.arms[0].configs.values()))
    methods = {arm.name: next(iter(arm.configs.values())).method for arm in comparison.arms}
    return {
        "airtune": __version__,
        "model": _bare(config.model),
        "data": _bare(config.data.train),
        "charge_as": _bare(config.charge_as),
        "clients": config.clients.count,
        "target_loss": target,
        "target_source": source,
        "target_share": comparison.target_share if source == "first arm" else None,
        "arms": [
            {**measured, "method": methods[measured["arm"]]}
            for measured in measure_arms(results, target)
        ],
        **_targets(comparison, results),
        "notices": notices(results),
    }


def _targets(comparison: Comparison, results: Sequence[RunResult]) -> dict[str, Any]:
    shares = comparison.target_shares
    return {} if len(shares) < 2 else {"targets": measure_targets(results, shares)}


def notices(results: Sequence[RunResult]) -> list[str]:
    """What a reader of the runs should know (rows dropped, a part held out), each once."""
    found = [
        sentence for result in results for sentence in (result.summary or {}).get("notices", ())
    ]
    return list(dict.fromkeys(found))


def _bare(name: str | None) -> str | None:
    """The last two parts of a path: results are copied between machines, whose folders differ."""
    name = name and redacted(name)
    if name is None or not Path(name).is_absolute():
        return name
    return "/".join(Path(name).parts[-2:])


def write_results(
    comparison: Comparison, results: Sequence[RunResult], out: Path
) -> dict[str, Any]:
    """Write the five files; answers what is in comparison.json."""
    numbers = measured(comparison, results)
    write_json_atomic(out / "comparison.json", numbers)
    write_text_atomic(out / "comparison.csv", runs_csv(numbers))
    write_text_atomic(out / "curves.csv", curves_csv(results))
    config = next(iter(comparison.arms[0].configs.values()))
    view = comparison_view(config, results, numbers, out)
    write_text_atomic(out / html.SCRIPT, html.script())
    write_text_atomic(out / "report.html", render_comparison(view, html.SCRIPT))
    _share_script(results, out)
    return numbers


def _share_script(results: Sequence[RunResult], out: Path) -> None:
    """The pages of the runs use the script in the comparison's folder, in place of their own."""
    for page in (result.folder / "report.html" for result in results):
        if page.is_file():
            above = "../" * len(page.parent.relative_to(out).parts)
            write_text_atomic(page, html.sharing(page.read_text("utf-8"), above + html.SCRIPT))


def runs_csv(numbers: Mapping[str, Any]) -> str:
    """A row a run: its losses, and what it cost in all and to the target (empty: not reached)."""
    head = ["arm", "seed", "failure", "start_test_loss", "final_test_loss", "best_test_loss"]
    head += [f"{part}_{key}" for part in ("total", "to_target") for key in MEASURES]
    rows = []
    for arm in numbers["arms"]:
        for run in arm["runs"]:
            costs = {
                f"{part}_{key}": value
                for part in ("total", "to_target")
                for key, value in (run.get(part) or {}).items()
            }
            row = {"arm": arm["arm"], **run, **costs}
            rows.append([row.get(key, "") for key in head])
    return _csv([head, *rows])


def curves_csv(results: Sequence[RunResult]) -> str:
    """A row a round of every finished run: its test loss and what was spent by then."""
    rows: list[list[Any]] = [["arm", "seed", "round", "test_loss", *(cost.key for cost in COSTS)]]
    for result in results:
        if result.summary is None:
            continue
        losses = [result.summary["start_test_loss"], *(r.test_loss for r in result.records)]
        paths = [spent(result.records, cost) for cost in COSTS]
        for number, loss in enumerate(losses):
            costs = [f"{path[number]:.6g}" for path in paths]
            rows.append([result.name, result.seed, number, f"{loss:.6g}", *costs])
    return _csv(rows)


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()
