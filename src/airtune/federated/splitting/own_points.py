"""Split points that differ between clients: a fast device takes more blocks than a slow one.

With one cut for all, the slowest device decides how little the fast ones may do. Here every client
takes the most blocks whose work it finishes within a common time, for every such time that makes a
difference; then single clients move their cut by a block, as long as the round gets shorter. Both
uplinks are solved again each time. The start is the best common cut, so the result is no worse.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from airtune.allocation.bandwidth import client_name
from airtune.allocation.split.problem import LinkPlan
from airtune.allocation.subchannels.link import LinkSolver, obstacle
from airtune.allocation.subchannels.power import Demand, Uplink, control_power
from airtune.errors import InfeasibleError
from airtune.federated.splitting.round_problem import SplitProblem
from airtune.quantities import FloatArray


@dataclass(frozen=True)
class OwnPoints:
    """Each client's split point, both links (None: nothing is sent on the federated one), and the
    mean round's latency [s].

    No plan of the links with these points takes less than `bound_s`, of which `main_bound_s` is
    until a step's last activations, and `upload_bound_s` the upload of the halves.
    """

    points: tuple[int, ...]
    main: LinkPlan
    federated: LinkPlan | None
    latency_s: float
    bound_s: float
    main_bound_s: float
    upload_bound_s: float


class PointLinks:
    """Both links of a round for given split points, each solved once.

    Raises InfeasibleError where a client can never send, with too few subchannels for example.
    """

    def __init__(self, problem: SplitProblem) -> None:
        self._problem = problem
        self._main = _RoundLink(problem, problem.links[0], "main server's")
        self._federated = _RoundLink(problem, problem.links[1], "federated server's")
        self._known: dict[tuple[int, ...], OwnPoints] = {}

    def solve(self, points: Sequence[int]) -> OwnPoints:
        """Both links for these split points, and the latency of the mean round."""
        key = tuple(points)
        if key not in self._known:
            self._known[key] = self._solved(key)
        return self._known[key]

    def _solved(self, points: tuple[int, ...]) -> OwnPoints:
        problem = self._problem
        (up, _, _), transfer = problem.bits, problem.transfer
        self._main.require_reachable(up)
        mean = problem.mean_step(points)
        demand = Demand(up, mean.ahead_s + transfer.lead_s(up))
        main, main_s, main_bound_s = self._main.solve(demand)
        federated, upload_s, upload_bound_s = None, 0.0, 0.0
        if problem.sends_half:
            adapters = np.array([problem.adapter_bits(point) for point in points])
            self._federated.require_reachable(adapters)
            demand = Demand(adapters, transfer.lead_s(adapters))
            federated, upload_s, upload_bound_s = self._federated.solve(demand)
        step_s = main_s + mean.server_s + mean.after_s
        step_bound_s = main_bound_s + mean.server_s + mean.after_s
        broadcast_s = problem.broadcast_s(max(points))
        return OwnPoints(
            points,
            main,
            federated,
            problem.steps * step_s + upload_s + broadcast_s,
            problem.steps * step_bound_s + upload_bound_s + broadcast_s,
            main_bound_s,
            upload_bound_s,
        )


class _RoundLink:
    """One uplink of the round; the same clients send on it whatever the split points are."""

    def __init__(self, problem: SplitProblem, link: Uplink, server: str) -> None:
        self._problem, self._link, self._server = problem, link, server
        self._solver, self._open = LinkSolver(link), False

    def solve(self, demand: Demand) -> tuple[LinkPlan, float, float]:
        """Owners and densities, when the last client has sent, and a bound on that [s]."""
        answer = self._solver.solve(demand)
        assert answer is not None, "without a cutoff a reachable link is always solved"
        control = control_power(self._link, answer.owner, demand)
        bound_s = demand.deadline(answer.window_bound_s)
        return LinkPlan(answer.owner, control.psd_w_per_hz), control.deadline_s, bound_s

    def require_reachable(self, bits: FloatArray) -> None:
        """Raise InfeasibleError where a client that has bits [client] to send never can."""
        if self._open:
            return
        names, demand = self._problem.names, Demand(bits, np.zeros_like(bits))
        blocked = obstacle(self._link, demand, lambda k: client_name(names, k), self._server)
        if blocked is not None:
            raise InfeasibleError(f"In round {self._problem.view.round_index + 1}: {blocked}")
        self._open = True


def polished(
    allowed_points: Sequence[Sequence[int]], links: PointLinks, best: OwnPoints
) -> OwnPoints:
    """Single clients move their cut by a block, as long as the round gets shorter."""
    improved = True
    while improved:
        improved = False
        for k, allowed in enumerate(allowed_points):
            for point in (best.points[k] - 1, best.points[k] + 1):
                if point in allowed:
                    moved = links.solve([*best.points[:k], point, *best.points[k + 1 :]])
                    if moved.latency_s < best.latency_s * (1 - 1e-9):
                        best, improved = moved, True
    return best


class OwnPointSearch:
    """Finds split points client by client for one round."""

    def __init__(self, problem: SplitProblem) -> None:
        self._problem, self._links = problem, PointLinks(problem)

    def search(self, common: int) -> OwnPoints:
        """The best of all that is tried, from one cut for all."""
        problem = self._problem
        best = self.solve([common] * len(problem.kept))
        work = [
            {point: self._work_s(k, point) for point in points}
            for k, points in enumerate(problem.points)
        ]
        for limit in sorted({seconds for known in work for seconds in known.values()}):
            points = [
                max((p for p, s in known.items() if s <= limit), default=min(known))
                for known in work
            ]
            best = min(best, self.solve(points), key=lambda found: found.latency_s)
        return polished(self._problem.points, self._links, best)

    def _work_s(self, position: int, point: int) -> float:
        ahead_s, behind_s, _ = self._problem.work_s(position, point)
        return ahead_s + behind_s

    def solve(self, points: Sequence[int]) -> OwnPoints:
        """Both links for these split points, and the latency of the mean round."""
        return self._links.solve(points)
