"""Split points of a round together with its links: rates from the links, cuts from the rates.

At the rates of the links the cuts are chosen exactly (`allocation/split/own_cuts.py`); for the new
cuts the links are solved again, as long as the round gets shorter, and in the end single clients
move their cut by a block. The start is the best common cut. A bound holds for all cuts and links
together: every client has the rate of the whole band, and no stage is faster than with every
client's first cut.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from airtune.allocation.split.own_cuts import CutDelays, best_cuts
from airtune.allocation.subchannels.power import measure
from airtune.federated.splitting.own_points import OwnPoints, PointLinks, polished
from airtune.federated.splitting.round_problem import SplitProblem
from airtune.quantities import FloatArray

MOST_PASSES = 20


@dataclass(frozen=True)
class FoundCuts:
    """The links of the chosen split points, and no plan of the round takes less than `bound_s`."""

    best: OwnPoints
    bound_s: float


class CutSearch:
    """Split points of one round, for each client among `allowed` [client][...]."""

    def __init__(self, problem: SplitProblem, allowed: Sequence[Sequence[int]]) -> None:
        self._problem, self._allowed = problem, [sorted(points) for points in allowed]
        self._links = PointLinks(problem)

    def common(self) -> FoundCuts | None:
        """One split point for all, with the round's real steps; None where none suits all."""
        points = sorted(set.intersection(*(set(points) for points in self._allowed)))
        if not points:
            return None
        solved = [self._links.solve([point] * len(self._allowed)) for point in points]
        bound_s = min(found.bound_s for found in solved)
        return FoundCuts(min(solved, key=self._real_s), bound_s)

    def own(self) -> FoundCuts:
        """Each client its own, in the real steps no slower than the best common one."""
        common = self.common()
        if common is None:
            start = self._links.solve([points[-1] for points in self._allowed])
        else:
            start = common.best
        best = start
        for _ in range(MOST_PASSES):
            following = self._links.solve(self._cuts_at(best))
            if not following.latency_s < best.latency_s:
                break
            best = following
        best = polished(self._allowed, self._links, best)
        return FoundCuts(min((best, start), key=self._real_s), self._bound_s())

    def _real_s(self, found: OwnPoints) -> float:
        plans = self._problem.plans(found.points, found.main, found.federated)
        return float(self._problem.timeline(plans).finish_s.max())

    @cached_property
    def _columns(self) -> list[int]:
        return sorted({point for points in self._allowed for point in points})

    @cached_property
    def _work(self) -> CutDelays:
        """Computing alone, infinite where a client may not cut [client, cut]."""
        shape = len(self._allowed), len(self._columns)
        ahead, behind, server = (np.full(shape, np.inf) for _ in range(3))
        for k, points in enumerate(self._allowed):
            for point in points:
                column = self._columns.index(point)
                ahead[k, column], behind[k, column], server[k, column] = self._problem.work_s(
                    k, point
                )
        return CutDelays(ahead, behind, server)

    def _at_rates(self, up_bps: FloatArray, down_bps: FloatArray) -> CutDelays:
        """With messages at these rates [client]."""
        up, hidden, gradient = self._problem.bits
        lead_s, work = self._problem.transfer.lead_s, self._work
        ahead_s = lead_s(up) + up / up_bps
        behind_s = np.zeros(len(up))
        if not np.isinf(down_bps).all():
            ahead_s = ahead_s + lead_s(hidden) + hidden / down_bps
            behind_s = lead_s(gradient) + gradient / down_bps
        # With hidden states down a second message goes up: their gradient.
        ahead_s = ahead_s + lead_s(hidden)
        return replace(
            work,
            before_s=work.before_s + ahead_s[:, None],
            after_s=work.after_s + behind_s[:, None],
        )

    def _down_bps(self, shares: FloatArray | None) -> FloatArray:
        rate: FloatArray = self._problem.view.downlink_bps[list(self._problem.kept)]
        return np.full(len(rate), np.inf) if shares is None else rate * shares

    def _cuts_at(self, found: OwnPoints) -> list[int]:
        """The exact choice at the rates of a plan."""
        up_bps, _ = measure(self._problem.links[0], found.main.owner, found.main.psd_w_per_hz)
        shares = self._problem.mean_step(found.points).shares
        choice = best_cuts(self._at_rates(up_bps, self._down_bps(shares)))
        return [self._columns[column] for column in choice]

    def _bound_s(self) -> float:
        """See the module. A sum of maxima is at least the maximum of the sums, so it holds for the
        real steps as well."""
        problem, view = self._problem, self._problem.view
        first = [points[0] for points in self._allowed]
        least, mean = self._links.solve(first), problem.mean_step(first)
        kept = np.array(problem.kept, dtype=np.intp)
        total_w = problem.links[0].power_total_w
        power_w = np.minimum(view.tx_power_w[kept], total_w)
        # Shannon's rate over the whole band at the client's own power.
        noise = problem.links[0].noise_to_gain[:, 0] * view.bandwidth_hz
        up_bps = view.bandwidth_hz * np.log2(1.0 + power_w / noise)
        most = None if mean.shares is None else np.ones(len(kept))
        delays = self._at_rates(up_bps, self._down_bps(most))
        delays = CutDelays(
            np.where(delays.allowed, np.maximum(delays.before_s, least.main_bound_s), np.inf),
            np.where(delays.allowed, np.maximum(delays.after_s, mean.after_s), np.inf),
            delays.server_s,
        )
        step_s = delays.step_s(best_cuts(delays))
        broadcast_s = problem.broadcast_s(max(first))
        return problem.steps * step_s + least.upload_bound_s + broadcast_s
