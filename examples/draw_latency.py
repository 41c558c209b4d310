"""Draw how long a round takes against bandwidth, pruning budget and number of clients.

    python examples/draw_latency.py [FOLDER]

Three figures, PNG, of every solver of every method, on the numbers of `jcpba.yaml`, `tsfa.yaml`,
`sflllm.yaml` and `fedsllm.yaml` beside this file: against the band, against the pruning budget
(JCPBA) and against the number of clients (copies of the file's clients share its band). TSFA weighs
latency against energy, so its latency alone is not what it minimises. It takes about a quarter of a
minute and needs matplotlib.
"""

import copy
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

import airtune
from airtune.methods.plan import load_problem, load_problem_module

HERE = Path(__file__).parent
METHODS = ("jcpba", "tsfa", "sflllm", "fedsllm")
BANDS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Multiples of the file's own band."""
BUDGETS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7)
COPIES = (1, 2, 4, 8)

Problem = dict[str, Any]


def read(method: str) -> Problem:
    """The example of a method, without memory floors: with them not all solvers have a plan."""
    problem = copy.deepcopy(dict(load_problem(HERE / f"{method}.yaml")))
    for client in problem["clients"]:
        client.pop("pruning_rate_min", None)
    return problem


def with_band(problem: Problem, factor: float) -> Problem:
    """The same problem in a wider or narrower band."""
    changed = copy.deepcopy(problem)
    if "bandwidth_hz" in changed:
        changed["bandwidth_hz"] *= factor
    for link in ("main_server", "federated_server"):
        if link in changed:
            widths = changed[link]["subchannel_bandwidth_hz"]
            changed[link]["subchannel_bandwidth_hz"] = [factor * width for width in widths]
    return changed


def with_copies(problem: Problem, copies: int) -> Problem:
    """Every client so many times; SflLLM's subchannels are divided, so that the band stays."""
    changed = copy.deepcopy(problem)
    changed["clients"] = [
        {**client, "name": f"{client['name']} {index}"}
        for index in range(copies)
        for client in problem["clients"]
    ]
    for link in ("main_server", "federated_server"):
        if link in changed:
            widths = changed[link]["subchannel_bandwidth_hz"]
            changed[link]["subchannel_bandwidth_hz"] = [
                width / copies for width in widths for _ in range(copies)
            ]
    if copies > 1 and "federated_server" in changed:
        for client in changed["clients"]:
            for key in ("main_gain_db", "federated_gain_db"):
                if isinstance(client[key], list):
                    client[key] = [gain for gain in client[key] for _ in range(copies)]
    return changed


def latency_s(problem: Problem, solver: str) -> float:
    """What the solver takes; NaN where it has no plan."""
    planned = airtune.plan(problem, solver)
    assert not isinstance(planned, list)
    answer = planned.answer
    found = answer.get("latency_s", answer.get("total_delay_s"))
    return float("nan") if found is None else float(found)


def curve(
    problem: Problem, solver: str, change: Callable[[Problem, Any], Problem], values: Iterable[Any]
) -> list[float]:
    """Latency for each value."""
    return [latency_s(change(problem, value), solver) for value in values]


def band_hz(problem: Problem) -> float:
    """The whole band; of a split problem the main server's."""
    if "bandwidth_hz" in problem:
        return float(problem["bandwidth_hz"])
    return float(sum(problem["main_server"]["subchannel_bandwidth_hz"]))


def draw_solvers(
    axes: Axes,
    method: str,
    x: Sequence[float],
    change: Callable[[Problem, Any], Problem],
    values: Sequence[Any],
) -> None:
    """One curve for each solver of a method."""
    problem = read(method)
    seen: list[float] = []
    for index, solver in enumerate(solvers(method)):
        marker = "osv^Dxp*+<"[index % 10]
        latency = curve(problem, solver, change, values)
        seen += latency
        axes.plot(x, latency, marker=marker, markersize=4, linewidth=1.2, label=solver)
    whole = method in ("sflllm", "fedsllm")
    axes.set(title=method, ylabel="total delay (s)" if whole else "latency of a round (s)")
    if max(seen) > 2 * min(seen):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(visible=True, alpha=0.25)
    axes.legend(fontsize="x-small")


def name_ticks(axes: Axes, label: str, values: Sequence[float]) -> None:
    """A logarithmic x axis with a tick at each value that was computed."""
    axes.set(xlabel=label, xscale="log")
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.minorticks_off()


def solvers(method: str) -> list[str]:
    """All that can be drawn: `blocks` needs choices of its own in the file."""
    return [name for name in load_problem_module(method).SOLVERS if name != "blocks"]


def against_bandwidth(factors: Sequence[float] = BANDS) -> Figure:
    """Latency of all methods against the band."""
    figure = Figure(figsize=(10, 8), layout="constrained")
    for axes, method in zip(figure.subplots(2, 2).flat, METHODS, strict=True):
        megahertz = [1e-6 * factor * band_hz(read(method)) for factor in factors]
        draw_solvers(axes, method, megahertz, with_band, factors)
        name_ticks(axes, "bandwidth (MHz)", megahertz)
    return figure


def against_budget(budgets: Sequence[float] = BUDGETS) -> Figure:
    """Latency of JCPBA against the pruning budget."""
    figure = Figure(figsize=(6, 4.5), layout="constrained")
    axes = figure.subplots()
    draw_solvers(
        axes, "jcpba", budgets, lambda problem, value: {**problem, "pruning_budget": value}, budgets
    )
    axes.set(xlabel="pruning budget (sum of weight x pruning rate)")
    return figure


def against_clients(copies: Sequence[int] = COPIES) -> Figure:
    """Latency of all methods against the number of clients that share the band."""
    figure = Figure(figsize=(10, 8), layout="constrained")
    for axes, method in zip(figure.subplots(2, 2).flat, METHODS, strict=True):
        clients = [count * len(read(method)["clients"]) for count in copies]
        draw_solvers(axes, method, clients, with_copies, copies)
        name_ticks(axes, "clients", clients)
    return figure


def main(folder: Path) -> None:
    """Draw everything into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        "latency_bandwidth": against_bandwidth,
        "latency_pruning_budget": against_budget,
        "latency_clients": against_clients,
    }
    for name, draw in figures.items():
        path = folder / f"{name}.png"
        draw().savefig(path, dpi=120)
        print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
