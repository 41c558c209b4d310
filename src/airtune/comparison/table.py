"""A comparison as a table of short texts and in sentences.

They are the same in the terminal, the page and the documents.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from airtune.methods.registry import unfederated
from airtune.quantities import format_duration, format_quantity

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
    # Comparisons of earlier versions have no share.
    share, first = comparison.get("target_share") or 1.0, comparison["arms"][0]["arm"]
    lowest = f"the lowest that every run of {first} reached"
    if share < 1.0:
        lowest = f"{100 * share:g} % of the way from {first}'s loss before training to {lowest}"
    return f"The target is a test loss of {comparison['target_loss']:.4g} nat, {lowest}."


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
