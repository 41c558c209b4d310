"""What a comparison leaves behind: comparison.json, comparison.csv, curves.csv and report.html.

Its table of short texts is the same in the terminal, the page and the documents.
"""

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from airtune import __version__
from airtune.comparison.definition import Comparison
from airtune.comparison.measure import MEASURES, RunResult, default_target, measure_arms
from airtune.errors import AirtuneError, redacted
from airtune.experiment.shards import deal_devices
from airtune.experiment.world import client_names
from airtune.files import write_json_atomic, write_text_atomic
from airtune.methods.registry import unfederated
from airtune.quantities import format_duration, format_quantity
from airtune.report.comparison_page import ArmView, ComparisonView, render_comparison
from airtune.report.costs import COSTS, spent
from airtune.report.sentences import charged_as
from airtune.wireless.channel import open_channel
from airtune.wireless.state import NO_CLIENTS

HEADINGS = (
    "arm",
    "seeds",
    "final loss [nat]",
    "rounds",
    "time",
    "sent up",
    "sent down",
    "energy",
    "FLOPs",
)
"""Rounds and all to their right are those to the target loss; energy and FLOPs the clients'."""

_COLUMNS: tuple[tuple[str, Callable[[float], str]], ...] = (
    ("rounds", lambda value: f"{value:.3g}"),
    ("virtual_time_s", format_duration),
    ("uplink_bytes", lambda value: format_quantity(value, "B")),
    ("downlink_bytes", lambda value: format_quantity(value, "B")),
    ("energy_j", lambda value: format_quantity(value, "J")),
    ("flops", lambda value: format_quantity(value, "FLOP")),
)

ALIKE = 0.005
"""Ratios that differ by less are not called a difference."""


def table_rows(comparison: Mapping[str, Any]) -> list[list[str]]:
    """A row an arm, under HEADINGS; ratios to the first arm in brackets."""
    return [_row(arm, index == 0) for index, arm in enumerate(comparison["arms"])]


def _row(arm: Mapping[str, Any], first: bool) -> list[str]:
    if not arm["finished"]:
        return [arm["arm"], "0", "failed", *["–"] * (len(HEADINGS) - 3)]
    cells = [arm["arm"], str(arm["finished"]), _loss(arm["final_test_loss"], arm["finished"])]
    if arm["to_target"] is None:
        best = arm["best_test_loss"]["mean"]
        return [*cells, f"not reached (best {best:.4g})", *["–"] * (len(HEADINGS) - 4)]
    for key, words in _COLUMNS:
        ratio = arm["ratio"][key]
        against = "" if first or ratio is None else f" (×{ratio:.2f})"
        cells.append(words(arm["to_target"][key]["mean"]) + against)
    if arm["reached"] < arm["finished"]:
        cells[3] += f", {arm['reached']} of {arm['finished']} seeds"
    return cells


def _loss(value: Mapping[str, float], seeds: int) -> str:
    return f"{value['mean']:.4f}" + (f" ± {value['sd']:.4f}" if seeds > 1 else "")


def comparison_sentences(comparison: Mapping[str, Any]) -> list[str]:
    """The result in words: who was fastest, who sent least, who did not get there, what failed."""
    arms = comparison["arms"]
    there = [arm for arm in arms if arm["to_target"] is not None]
    sentences = [_target(comparison)]
    sentences += [
        sentence
        for key, verb in (
            ("virtual_time_s", "is the fastest to the target"),
            ("uplink_bytes", "sends least up to the target"),
            ("energy_j", "takes the least of the clients' energy to the target"),
        )
        for sentence in _best(arms, there, key, verb)
    ]
    missed = [
        f"{arm['arm']} (best {arm['best_test_loss']['mean']:.4g} nat)"
        for arm in arms
        if arm["finished"] and arm["to_target"] is None
    ]
    partly = [
        f"{arm['arm']} ({arm['reached']} of {arm['finished']} seeds)"
        for arm in there
        if arm["reached"] < arm["finished"]
    ]
    if missed:
        sentences.append(f"The target was not reached by {', '.join(missed)}.")
    if partly:
        sentences.append(
            f"It was reached only in part by {', '.join(partly)}; their figures are those of the "
            "seeds that got there."
        )
    return [*sentences, *caveats(there), *_unequal(arms), *failures(comparison)]


def caveats(arms: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the figures of these arms leave out, for those that reached the target."""
    there = [arm for arm in arms if arm["to_target"] is not None]
    servers = [_main_server(arm) for arm in there if _served(arm)]
    return servers + [
        f"{arm['arm']} is left out of who is fastest, sends least and takes least energy: its "
        "figures are those of one device that holds all data already, and collecting the data is "
        "not counted."
        for arm in there
        if _is_centralised(arm)
    ]


def _is_centralised(arm: Mapping[str, Any]) -> bool:
    """By its method; comparisons of earlier versions have only the arm's name."""
    named = str(arm.get("method", arm["arm"]))
    return any(named.startswith(name) for name in unfederated())


def _unequal(arms: Sequence[Mapping[str, Any]]) -> list[str]:
    counts = sorted({arm["finished"] for arm in arms if arm["finished"]})
    if len(counts) < 2:
        return []
    return [
        f"Arms were run on {' or '.join(map(str, counts))} seeds (column seeds): means over "
        "different seeds stand side by side, ratios are taken seed by seed."
    ]


def _served(arm: Mapping[str, Any]) -> bool:
    """Whether a main server computed; comparisons of earlier versions do not record it."""
    costs = arm["to_target"]
    return "server_flops" in costs and costs["server_flops"]["mean"] > 0


def _main_server(arm: Mapping[str, Any]) -> str:
    """What a split model leaves to the main server; energy and FLOPs above are the clients'."""
    costs = arm["to_target"]
    flops = format_quantity(costs["server_flops"]["mean"], "FLOP")
    energy = costs["server_energy_j"]["mean"]
    if energy:
        also = f"{flops} and {format_quantity(energy, 'J')}"
        return f"The main server of {arm['arm']} adds {also} to the clients' to the target."
    return (
        f"The main server of {arm['arm']} adds {flops} to the clients' to the target; its energy "
        "is not counted (server_power_w is 0), so the energy is the clients' alone."
    )


def failures(comparison: Mapping[str, Any]) -> list[str]:
    """A sentence for every run that failed."""
    return [
        f"{arm['arm']}, seed {run['seed']}, failed: {run['failure']}"
        for arm in comparison["arms"]
        for run in arm["runs"]
        if "failure" in run
    ]


def _target(comparison: Mapping[str, Any]) -> str:
    source = comparison["target_source"]
    if source == "given":
        return f"The target is a test loss of {comparison['target_loss']:.4g} nat."
    return (
        f"The target is a test loss of {comparison['target_loss']:.4g} nat, the lowest that every "
        f"run of {comparison['arms'][0]['arm']} reached."
    )


def _best(
    arms: Sequence[Mapping[str, Any]], there: Sequence[Mapping[str, Any]], key: str, verb: str
) -> list[str]:
    """The arm with the least ratio to the first; nothing where the least two are alike."""
    # An arm that got there on some seeds only would be compared on its lucky ones. Ratios are taken
    # seed by seed, so that arms with fewer seeds are compared on those they have.
    # What such an arm takes leaves out the collecting of its data.
    whole = [
        arm
        for arm in there
        if arm["reached"] == arm["finished"] and arm["ratio"][key] and not _is_centralised(arm)
    ]
    if len(whole) < 2:
        return []
    best, second = sorted(whole, key=lambda arm: float(arm["ratio"][key]))[:2]
    ratio = best["ratio"][key]
    if second["ratio"][key] - ratio < ALIKE:
        return []
    words = dict(_COLUMNS)[key](best["to_target"][key]["mean"])
    if best is arms[0]:
        return [f"{best['arm']} {verb}: {words}."]
    return [f"{best['arm']} {verb}: {words}, ×{ratio:.2f} of {arms[0]['arm']}."]


def measured(comparison: Comparison, results: Sequence[RunResult]) -> dict[str, Any]:
    """The comparison in numbers. Raises AirtuneError where no run of the first arm finished."""
    target, source = comparison.target_loss, "given"
    if target is None:
        target, source = default_target(results), "first arm"
    if target is None:
        first = next(result for result in results if result.arm == comparison.arms[0].name)
        raise AirtuneError(
            f"No run of the first arm, {first.arm}, finished, so there is no target loss: "
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
        "arms": [
            {**measured, "method": methods[measured["arm"]]}
            for measured in measure_arms(results, target)
        ],
        "notices": notices(results),
    }


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
    """Write the four files; answers what is in comparison.json."""
    numbers = measured(comparison, results)
    write_json_atomic(out / "comparison.json", numbers)
    write_text_atomic(out / "comparison.csv", runs_csv(numbers))
    write_text_atomic(out / "curves.csv", curves_csv(results))
    view = comparison_view(comparison, results, numbers, out)
    write_text_atomic(out / "report.html", render_comparison(view))
    return numbers


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
            rows.append([result.arm, result.seed, number, f"{loss:.6g}", *costs])
    return _csv(rows)


def _csv(rows: Sequence[Sequence[Any]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()


def comparison_view(
    comparison: Comparison,
    results: Sequence[RunResult],
    numbers: Mapping[str, Any],
    out: Path,
) -> ComparisonView:
    """The comparison as its page shows it; the cell is that of the first run."""
    arm, seed = comparison.runs[0]
    config = arm.configs[seed]
    channel = open_channel(config.cell, config.clients.count, seed)
    position_m = channel.observe(0, NO_CLIENTS).truth.position_m
    arms = [
        ArmView(
            arm.name,
            [
                (result.summary["start_test_loss"], result.records)
                for result in results
                if result.arm == arm.name and result.summary is not None
            ],
            [
                (result.seed, f"{result.folder.relative_to(out).as_posix()}/report.html")
                for result in results
                if result.arm == arm.name and result.summary is not None
            ],
        )
        for arm in comparison.arms
    ]
    return ComparisonView(
        title=f"airtune: {len(arms)} arms on {numbers['model']}, {numbers['data']}",
        note=charged_as(numbers["charge_as"], numbers["model"]),
        sentences=comparison_sentences(numbers),
        headings=HEADINGS,
        rows=table_rows(numbers),
        arms=arms,
        measured=numbers,
        names=client_names(deal_devices(config)),
        position_m=[[float(x) for x in place[:2]] for place in position_m],
        radius_m=config.cell.radius_m if config.cell.is_drawn else None,
    )
