"""The results as LaTeX tables (booktabs), with one unit a column, and as csv.

The numbers are those of the table in the terminal: means over the seeds with three digits, and a
sample standard deviation, in the unit of the column.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import floor, log10
from statistics import fmean, stdev
from textwrap import wrap
from typing import Any

from airtune.report.costs import COSTS, Cost, spent
from airtune.report.labels import span
from airtune.report.sources import ArmSource, Source
from airtune.report.targets import ABOUT, TargetTable, target_tables

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"{''}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "–": "--",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}
_LABELS = {
    "rounds": "Rounds",
    "virtual_time_s": "Time",
    "uplink_bytes": "Sent up",
    "downlink_bytes": "Sent down",
    "energy_j": "Energy",
    "flops": "Computing",
}
_NAMES = {"virtual_time_s": "time", "uplink_bytes": "bytes", "energy_j": "energy"}
"""Costs as the names of figures have them, too."""
MISSING = "--"


def escaped(text: str) -> str:
    """Text as LaTeX prints it, safe at the start of a row and beside other letters."""
    plain = " ".join(text.split())
    made = "".join(_SPECIAL.get(letter, letter) for letter in plain).replace("--", "-{}-")
    # After \\, LaTeX takes [ and * for arguments of its own.
    return f"{{{made[0]}}}{made[1:]}" if made[:1] in ("[", "*") else made


def number(value: float, decimals: int) -> str:
    """Fixed decimals, with a real minus sign."""
    shown = f"{value:.{decimals}f}"
    return f"${shown}$" if value < 0 else shown


def decimals_of(value: float, digits: int = 3) -> int:
    """Decimals that show so many digits of a value, none beyond the point for large ones."""
    return max(0, digits - 1 - floor(log10(abs(value)))) if value else digits - 1


def with_spread(mean: float, sd: float | None, decimals: int | None = None) -> str:
    r"""`12.3 $\pm$ 0.4`; alone for one seed."""
    places = decimals_of(float(f"{mean:.3g}")) if decimals is None else decimals
    spread = "" if sd is None else rf" $\pm$ {number(sd, places)}"
    return number(mean, places) + spread


@dataclass(frozen=True)
class Table:
    """Headings (label, unit), and per row its name, cells in LaTeX, and numbers for the csv.

    `columns` names the numbers; `about` are comments at the top.
    """

    name: str
    headings: Sequence[tuple[str, str]]
    lines: Sequence[tuple[str, Sequence[str]]]
    columns: Sequence[str]
    numbers: Sequence[Sequence[Any]]
    about: Sequence[str]

    def latex(self) -> str:
        r"""A `tabular`, for `\input` into a table."""
        comments = ["Needs \\usepackage{booktabs}.", *self.about]
        labels = [escaped(label) for label, _ in self.headings]
        # Below the labels, so that the table is no wider than its numbers.
        units = [f"[{unit}]" if unit else "" for _, unit in self.headings]
        heads = [labels, units] if any(units) else [labels]
        body = [" & ".join([escaped(name), *cells]) + r" \\" for name, cells in self.lines]
        return "\n".join(
            [
                *(f"% {comment}" for comment in comments),
                rf"\begin{{tabular}}{{l{'r' * (len(labels) - 1)}}}",
                r"\toprule",
                *(" & ".join(head) + r" \\" for head in heads),
                r"\midrule",
                *body,
                r"\bottomrule",
                r"\end{tabular}",
                "",
            ]
        )

    def rows(self) -> Iterator[Sequence[Any]]:
        """The numbers in base units and full precision, a row an arm."""
        yield self.columns
        yield from self.numbers


def tables(source: Source) -> list[Table]:
    """Of a finished comparison the costs to its target and their ratios; else totals."""
    if source.comparison is None:
        return [_totals(source)]
    measured = source.comparison
    entries = measured.get("targets") or []
    several = [_targets(table, entries) for table in target_tables(measured)]
    return [_results(measured), _ratios(measured), *several]


def _results(measured: Mapping[str, Any]) -> Table:
    arms = measured["arms"]
    there = [arm["to_target"] for arm in arms if arm["to_target"]]
    shown = {
        cost.key: span(max((c[cost.key]["mean"] for c in there), default=0.0), cost.unit)
        for cost in COSTS
    }
    costs = [(cost.key, shown[cost.key].unit, shown[cost.key].scale) for cost in COSTS]
    every = [("rounds", "", 1.0), *costs]
    first = [("Arm", ""), ("Seeds", ""), ("Final loss", "nat")]
    return Table(
        name="results",
        headings=[*first, *((_LABELS[key], unit) for key, unit, _ in every)],
        lines=[(arm["arm"], _result(arm, every)) for arm in arms],
        columns=_columns([key for key, *_ in every]),
        numbers=[_numbers(arm, [key for key, *_ in every]) for arm in arms],
        about=(
            f"Costs up to a test loss of {measured['target_loss']:.4g} nat, means over the seeds;",
            "+- is one sample standard deviation. Energy and computing are the clients'.",
        ),
    )


def _result(arm: Mapping[str, Any], every: Sequence[tuple[str, str, float]]) -> list[str]:
    width = len(every)
    if not arm["finished"]:
        return ["0", rf"\multicolumn{{{width + 1}}}{{c}}{{failed}}"]
    loss = arm["final_test_loss"]
    several = arm["finished"] > 1
    cells = [str(arm["finished"]), with_spread(loss["mean"], loss["sd"] if several else None, 4)]
    costs = arm["to_target"]
    if costs is None:
        best = f"not reached (best {arm['best_test_loss']['mean']:.4g})"
        return [*cells, rf"\multicolumn{{{width}}}{{c}}{{{best}}}"]
    for key, _, scale in every:
        sd = scale * costs[key]["sd"] if arm["reached"] > 1 else None
        cells.append(with_spread(scale * costs[key]["mean"], sd))
    if arm["reached"] < arm["finished"]:
        cells[2] += f" ({arm['reached']} of {arm['finished']} seeds)"
    return cells


def _columns(keys: Sequence[str]) -> list[str]:
    spread = [f"{key}_{part}" for key in ("final_test_loss", *keys) for part in ("mean", "sd")]
    return ["arm", "finished", "reached", *spread, *(f"{key}_ratio" for key in keys)]


def _numbers(arm: Mapping[str, Any], keys: Sequence[str]) -> list[Any]:
    costs = arm["to_target"] or {}
    found = [arm["final_test_loss"], *(costs.get(key) for key in keys)]
    spread = [value[part] if value else "" for value in found for part in ("mean", "sd")]
    ratios = ["" if arm["ratio"][key] is None else arm["ratio"][key] for key in keys]
    return [arm["arm"], arm["finished"], arm["reached"], *spread, *ratios]


def _ratios(measured: Mapping[str, Any]) -> Table:
    keys = ["rounds", *(cost.key for cost in COSTS)]
    arms = [arm for arm in measured["arms"] if arm["finished"]]
    return Table(
        name="ratios",
        headings=[("Arm", ""), *((_LABELS[key], "") for key in keys)],
        lines=[(arm["arm"], [_ratio(arm["ratio"][key]) for key in keys]) for arm in arms],
        columns=["arm", *keys],
        numbers=[
            [arm["arm"], *("" if arm["ratio"][k] is None else arm["ratio"][k] for k in keys)]
            for arm in arms
        ],
        about=(
            f"Costs to the target over those of {' '.join(measured['arms'][0]['arm'].split())},",
            "taken seed by seed, then averaged.",
        ),
    )


def _targets(table: TargetTable, entries: Sequence[Mapping[str, Any]]) -> Table:
    key = table.key
    numbers = [
        [arm["arm"], entry["share"], entry["target_loss"], arm["finished"], arm["reached"]]
        + ["" if arm["to_target"] is None else arm["to_target"][key]["mean"]]
        + ["" if part is None else part for part in _ends(arm["ratio"][key])]
        for entry in entries
        for arm in entry["arms"]
    ]
    return Table(
        name=f"targets-{_NAMES[key]}",
        headings=[("Arm", ""), *((share, "") for share in table.headings[1:])],
        lines=[(row[0], [escaped(text) for text in row[1:]]) for row in table.rows],
        columns=["arm", "share", "target_loss", "finished", "reached", f"{key}_mean"]
        + [f"{key}_ratio{part}" for part in ("", "_low", "_high")],
        numbers=numbers,
        about=(f"{' '.join(table.title.split())}.", *wrap(ABOUT, 90)),
    )


def _ends(ratio: Mapping[str, float | None] | None) -> list[float | None]:
    return [None] * 3 if ratio is None else [ratio[part] for part in ("mean", "low", "high")]


def _ratio(value: float | None) -> str:
    return MISSING if value is None else rf"$\times${value:.2f}"


def _totals(source: Source) -> Table:
    sums: dict[str, Callable[[ArmSource], list[float]]] = {
        "rounds": lambda arm: [float(len(run.records)) for run in arm.runs],
        **{cost.key: _spent(cost) for cost in COSTS},
    }
    most = {key: max(fmean(of(arm)) for arm in source.arms) for key, of in sums.items()}
    units = {cost.key: span(most[cost.key], cost.unit) for cost in COSTS}
    losses = {arm.name: [run.records[-1].test_loss for run in arm.runs] for arm in source.arms}
    lines, numbers = [], []
    for arm in source.arms:
        cells = [str(len(arm.runs)), with_spread(*_statistics(losses[arm.name]), 4)]
        for key, of in sums.items():
            scale = units[key].scale if key in units else 1.0
            cells.append(with_spread(*_statistics([scale * value for value in of(arm)])))
        lines.append((arm.name, cells))
        found = [
            _statistics(values) for values in (losses[arm.name], *(of(arm) for of in sums.values()))
        ]
        spread = ["" if part is None else part for pair in found for part in pair]
        numbers.append([arm.name, len(arm.runs), *spread])
    heads = [(_LABELS[key], units[key].unit if key in units else "") for key in sums]
    names = [f"{key}_{part}" for key in ("final_test_loss", *sums) for part in ("mean", "sd")]
    return Table(
        name="totals",
        headings=[("Run", ""), ("Seeds", ""), ("Final loss", "nat"), *heads],
        lines=lines,
        columns=["run", "seeds", *names],
        numbers=numbers,
        about=("What all rounds took. Energy and computing are the clients'.",),
    )


def _spent(cost: Cost) -> Callable[[ArmSource], list[float]]:
    return lambda arm: [spent(run.records, cost)[-1] for run in arm.runs]


def _statistics(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and sample standard deviation of several."""
    return fmean(values), stdev(values) if len(values) > 1 else None
