"""A cut for every client at given rates, as a planning problem.

The file is `HsflFile`, or `HsflCell` where the numbers follow from a model and a cell.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from airtune.allocation.solve import Solution
from airtune.allocation.split.own_cuts import (
    Choice,
    CutDelays,
    CutProblem,
    solve_common,
    solve_thresholds,
)
from airtune.cost.latency import TransferModel
from airtune.errors import InputError
from airtune.methods.hsfl.problem_file import HsflFile
from airtune.planning.answer import closing, finite, heading
from airtune.planning.table import read_downlink
from airtune.quantities import FloatArray
from airtune.section import check

FILE = HsflFile
SOLVERS: dict[str, Callable[[CutProblem], Solution[Choice]]] = {
    "thresholds": solve_thresholds,
    "common": solve_common,
}


def read(mapping: Mapping[str, Any]) -> CutProblem:
    """The problem in SI units. Raises InputError, in one sentence, for anything it cannot mean."""
    file = check(HsflFile, mapping)
    cuts, clients = sorted(file.cuts, key=lambda cut: cut.split_point), file.clients
    points = [cut.split_point for cut in cuts]
    if len(set(points)) < len(points):
        raise InputError("cuts", points, "a list with one row per split point")
    down_bps = read_downlink(clients, needed=any(cut.gradient_bits > 0 for cut in cuts))

    def row(key: str) -> FloatArray:
        """A cut's number for a whole batch [cut]."""
        return file.batch_size * np.array([float(getattr(cut, key)) for cut in cuts])

    speed = clients.number("flop_rate")[:, None]
    transfer = TransferModel(round_trip_s=file.round_trip_s)
    up_s = transfer.delay_s(row("activation_bits"), clients.number("uplink_rate_bps")[:, None])
    down_bps = np.full(len(clients), np.inf) if down_bps is None else down_bps
    down_s = transfer.delay_s(row("gradient_bits"), down_bps[:, None])
    server = row("server_forward_flops") + row("server_backward_flops")
    server_s = np.broadcast_to(server / file.main_server.flop_rate, up_s.shape)
    most = clients.number("most_blocks")[:, None]
    held = np.isnan(most) | (np.array(points) <= most)
    before_s = row("client_forward_flops") / speed + up_s
    after_s = row("client_backward_flops") / speed + down_s
    delays = CutDelays(*(np.where(held, each, np.inf) for each in (before_s, after_s, server_s)))
    return CutProblem(delays, file.local_steps, points, clients.names)


def answer(problem: CutProblem, solution: Solution[Choice]) -> dict[str, Any]:
    """What `airtune plan --json` prints; plan entries are null where there is no plan."""
    choice = solution.plan
    return {
        **heading(solution),
        "latency_s": finite(solution.objective),
        "lower_bound_s": finite(solution.lower_bound),
        "gap": finite(solution.gap),
        **closing(solution),
        "clients": None if choice is None else _clients(problem, choice),
    }


def _clients(problem: CutProblem, choice: Choice) -> list[dict[str, Any]]:
    """One row per client: its cut, and the stages of one local step."""
    delays = problem.delays
    return [
        {
            "name": problem.names[client],
            "split_point": problem.split_points[cut],
            "before_s": float(delays.before_s[client, cut]),
            "server_s": float(delays.server_s[client, cut]),
            "after_s": float(delays.after_s[client, cut]),
        }
        for client, cut in enumerate(choice)
    ]
