"""What crosses the cut under a deadline, at given rates, as a planning problem.

The file is `FedslFile`, or `FedslCell` where the numbers follow from a model and a cell.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from airtune.allocation.solve import Solution
from airtune.allocation.split.cut_precision import (
    CutPrecision,
    PrecisionProblem,
    cut_formats,
    solve_alike,
    solve_precision,
)
from airtune.methods.fedsl.problem_file import FedslFile
from airtune.planning.answer import closing, finite, heading
from airtune.planning.table import read_downlink, read_weights
from airtune.section import check

FILE = FedslFile
SOLVERS: dict[str, Callable[[PrecisionProblem], Solution[CutPrecision]]] = {
    "scan": solve_precision,
    "alike": solve_alike,
}


def read(mapping: Mapping[str, Any]) -> PrecisionProblem:
    """The problem in SI units. Raises InputError, in one sentence, for anything it cannot mean."""
    file = check(FedslFile, mapping)
    clients = file.clients
    down_bps = read_downlink(clients)
    return PrecisionProblem(
        window_s=file.window_s,
        before_s=clients.number("before_s"),
        after_s=clients.number("after_s"),
        up_bps=clients.number("uplink_rate_bps"),
        down_bps=np.full(len(clients), np.inf) if down_bps is None else down_bps,
        tokens=clients.number("tokens"),
        hidden=file.hidden_size,
        fixed_bits=clients.number("fixed_bits"),
        weights=read_weights(clients),
        formats=cut_formats(file.hidden_size),
        least_kept=file.least_kept_share,
        names=clients.names,
    )


def answer(problem: PrecisionProblem, solution: Solution[CutPrecision]) -> dict[str, Any]:
    """What `airtune plan --json` prints; plan entries are null where there is no plan."""
    plan = solution.plan
    return {
        **heading(solution),
        "cut_error": finite(solution.objective),
        "lower_bound": finite(solution.lower_bound),
        "gap": finite(solution.gap),
        **closing(solution),
        "clients": None if plan is None else _clients(problem, plan),
    }


def _clients(problem: PrecisionProblem, plan: CutPrecision) -> list[dict[str, Any]]:
    """One row per client: what it sends of a token, and its stages in one step."""
    rows = []
    for client, (share, index) in enumerate(zip(plan.kept, plan.formats, strict=True)):
        bits = problem.bits(float(share), problem.formats[index], client)
        rows.append(
            {
                "name": problem.names[client],
                "kept_share": float(share),
                "number_format": problem.formats[index].name,
                "message_bits": bits,
                "up_s": float(problem.before_s[client] + bits / problem.up_bps[client]),
                "down_s": float(problem.after_s[client] + bits / problem.down_bps[client]),
            }
        )
    return rows
