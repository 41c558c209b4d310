"""A split point for every client of one joint step, at given rates: the exact search by thresholds.

With client k cut after its choice l_k, a local step of a shared main server takes

    max_k a_k(l_k) + sum_k s_k(l_k) + max_k b_k(l_k)

a_k: forward and activations up; s_k: the server's computing for the client; b_k: gradient down and
backward. For given values of the two maxima every client takes, of the cuts that stay within both,
the one with least server time, independently of the others. The maxima are among the clients' own
values, so trying all pairs of these is exact: at most (clients x cuts)^2 of them, of which a bound
leaves few. Ours, after the thresholds of min-max problems; the paper's solver is not known.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airtune.allocation.bandwidth import client_name
from airtune.allocation.solve import Check, Solution, SolveTimer, Status, checked
from airtune.quantities import FloatArray, format_duration

Choice = NDArray[np.intp]
"""Which cut each client takes [client], a column of `CutDelays`."""


@dataclass(frozen=True)
class CutDelays:
    """Seconds of one local step [client, cut]; a cut that a client cannot take is infinite.

    Attributes:
        before_s: from the beginning of the step to the client's last activations at the server.
        after_s: from the beginning of its gradient down to the end of its backward pass.
        server_s: the main server's computing for the client.
    """

    before_s: FloatArray
    after_s: FloatArray
    server_s: FloatArray

    def step_s(self, choice: Choice) -> float:
        """The module's formula."""
        rows = np.arange(len(choice))
        before, after = self.before_s[rows, choice], self.after_s[rows, choice]
        return float(before.max() + self.server_s[rows, choice].sum() + after.max())

    @property
    def allowed(self) -> NDArray[np.bool_]:
        """Which cuts each client can take [client, cut]."""
        return np.isfinite(self.before_s) & np.isfinite(self.after_s) & np.isfinite(self.server_s)


def best_cuts(delays: CutDelays) -> Choice:
    """The choice of least `step_s`; of equally good ones the same for equal clients.

    Raises ValueError where a client can take no cut.
    """
    allowed = delays.allowed
    if not allowed.any(axis=1).all():
        raise ValueError("every client needs a cut that it can take")
    server = np.where(allowed, delays.server_s, np.inf)
    least_after = float(np.where(allowed, delays.after_s, np.inf).min(axis=1).max())
    best_s, best = np.inf, np.zeros(len(server), dtype=np.intp)
    for before in np.unique(delays.before_s[allowed]):
        within = np.where(delays.before_s <= before, server, np.inf)
        lowest = within.min(axis=1).sum()
        if not np.isfinite(lowest) or before + lowest + least_after >= best_s:
            continue
        found = _best_after(within, delays.after_s, best_s - before - lowest)
        if found is None:
            continue
        step_s = delays.step_s(found)
        if step_s < best_s:
            best_s, best = step_s, found
    return best


def _best_after(server_s: FloatArray, after_s: FloatArray, most_s: float) -> Choice | None:
    """The choice of least server time plus largest `after_s`, with none of them above `most_s`."""
    rows = np.arange(len(server_s))
    order = np.argsort(after_s, axis=1, kind="stable")
    sorted_after = np.take_along_axis(after_s, order, axis=1)
    sorted_server = np.take_along_axis(server_s, order, axis=1)
    values = np.unique(after_s[np.isfinite(server_s) & (after_s <= most_s)])
    # The least server time among the cuts up to each one in this order.
    best_so_far = np.minimum.accumulate(sorted_server, axis=1)
    total = np.zeros(len(values))
    for row in rows:
        last = np.searchsorted(sorted_after[row], values, side="right") - 1
        total += np.where(last < 0, np.inf, best_so_far[row, np.maximum(last, 0)])
    if not np.isfinite(total).any():
        return None
    limit = values[int(np.argmin(total + values))]
    choice: Choice = np.where(after_s <= limit, server_s, np.inf).argmin(axis=1)
    return choice


def best_common_cut(delays: CutDelays) -> Choice | None:
    """The best choice of one cut for all; None where no cut suits every client."""
    columns = np.flatnonzero(delays.allowed.all(axis=0))
    if not len(columns):
        return None
    choices = [np.full(len(delays.server_s), column, dtype=np.intp) for column in columns]
    return min(choices, key=delays.step_s)


@dataclass(frozen=True)
class CutProblem:
    """A planning problem: the delays of a step, the steps of a round, and names.

    `split_points` [cut] are the blocks on the client of each column; `names` serve messages.
    """

    delays: CutDelays
    local_steps: int
    split_points: Sequence[int]
    names: Sequence[str] = ()

    def round_s(self, choice: Choice) -> float:
        """All local steps."""
        return self.local_steps * self.delays.step_s(choice)


def solve_thresholds(problem: CutProblem) -> Solution[Choice]:
    """Every client its own cut, optimal."""
    watch = SolveTimer()
    blocked = _blocked(problem)
    if blocked:
        return Solution(Status.INFEASIBLE, blocked, "thresholds", solve_time_s=watch.seconds)
    choice = best_cuts(problem.delays)
    return _finished(problem, choice, "thresholds", watch.seconds, problem.round_s(choice))


def solve_common(problem: CutProblem) -> Solution[Choice]:
    """One cut for all, held against the optimum of own cuts."""
    watch = SolveTimer()
    blocked = _blocked(problem)
    choice = None if blocked else best_common_cut(problem.delays)
    if choice is None:
        message = blocked or "No cut suits every client: solver thresholds gives each its own."
        return Solution(Status.INFEASIBLE, message, "common", solve_time_s=watch.seconds)
    seconds = watch.seconds
    return _finished(problem, choice, "common", seconds, problem.round_s(best_cuts(problem.delays)))


def _blocked(problem: CutProblem) -> str:
    """Why there is no plan; empty where there is one."""
    for client in np.flatnonzero(~problem.delays.allowed.any(axis=1)):
        return f"{client_name(problem.names, int(client))} can take none of the cuts."
    return ""


def _finished(
    problem: CutProblem, choice: Choice, solver: str, seconds: float, bound_s: float
) -> Solution[Choice]:
    round_s = problem.round_s(choice)
    optimal = round_s - bound_s <= 1e-12 * round_s
    points = sorted({problem.split_points[cut] for cut in choice})
    cut = f"block {points[0]}" + (f" to {points[-1]}" if len(points) > 1 else "")
    claim = "Optimal" if optimal else f"{_above(round_s, bound_s)} above own cuts"
    solution = Solution(
        status=Status.OPTIMAL if optimal else Status.FEASIBLE,
        message=f"{claim}: split after {cut}, the round takes {format_duration(round_s)}.",
        solver=solver,
        plan=choice,
        objective=round_s,
        lower_bound=min(bound_s, round_s),
        iterations=1,
        solve_time_s=seconds,
    )
    return checked(solution, lambda found: check_cuts(problem, found, round_s))


def _above(round_s: float, bound_s: float) -> str:
    """How far a round is above another, in percent of it, where it takes any time."""
    if bound_s == 0.0:
        return format_duration(round_s)
    return f"{100 * (round_s / bound_s - 1):.2g} %"


def check_cuts(problem: CutProblem, choice: Choice, round_s: float) -> Check:
    """Recompute by plain loops that every client can take its cut, and the round's seconds."""
    delays, before, after, server, refused = problem.delays, 0.0, 0.0, 0.0, 0.0
    for client, cut in enumerate(choice):
        ahead, behind = float(delays.before_s[client, cut]), float(delays.after_s[client, cut])
        served = float(delays.server_s[client, cut])
        if not all(value < float("inf") for value in (ahead, behind, served)):
            refused = float("inf")
        before, after, server = max(before, ahead), max(after, behind), server + served
    total = problem.local_steps * (before + server + after)
    return Check({"cuts": refused, "round": total / round_s - 1 if round_s > 0 else total})
