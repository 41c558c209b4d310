"""Split point, rank, subchannels and power together: the joint search, with a proven bound.

For a candidate the two uplinks are independent min-max problems. The federated one is the same for
all candidates, because the adapter's bits scale all clients' upload times alike. So the joint
optimum is the best over candidates of the main link's optimum, and candidates are dropped as soon
as a bound on their main link proves that they cannot win.
"""

import math

import numpy as np

from airtune.allocation.solve import OPTIMALITY, Solution, SolveTimer, Status, checked
from airtune.allocation.split.problem import (
    LinkPlan,
    SplitCandidate,
    SplitPlan,
    SplitTraining,
    check_split_plan,
    plan_delay_s,
)
from airtune.allocation.subchannels.link import LinkAnswer, LinkSolver, obstacle
from airtune.allocation.subchannels.power import Demand, control_power, measure
from airtune.quantities import format_duration


class NoPlanError(Exception):
    """No plan exists; the sentence names the client or the limit."""


def require_reachable(training: SplitTraining) -> None:
    """Raise NoPlanError where a client can never send what the candidates need."""
    activations = max(training.candidates, key=lambda c: float(np.max(c.activation_bits)))
    adapter = max(training.candidates, key=lambda candidate: candidate.adapter_bits)
    blocked = obstacle(
        training.main, training.main_demand(activations), training.name, "main server's"
    ) or obstacle(
        training.federated, training.federated_demand(adapter), training.name, "federated server's"
    )
    if blocked:
        raise NoPlanError(blocked)


class FederatedLink:
    """The best allocation of the federated link, for an adapter of any size."""

    def __init__(self, training: SplitTraining) -> None:
        self._link, self._training = training.federated, training
        largest = max(candidate.adapter_bits for candidate in training.candidates)
        self._unit = Demand(np.full(training.clients, largest), np.zeros(training.clients))
        self._largest = largest
        answer = LinkSolver(self._link).solve(self._unit)
        assert answer is not None
        self._answer: LinkAnswer = answer

    def upload_s(self, candidate: SplitCandidate) -> float:
        """The slowest upload of this candidate's adapter, with its round trip."""
        return self._trip_s(candidate) + self._share(candidate) * self._answer.window_s

    def upload_bound_s(self, candidate: SplitCandidate) -> float:
        """No allocation uploads it faster."""
        return self._trip_s(candidate) + self._share(candidate) * self._answer.window_bound_s

    def plan(self) -> LinkPlan:
        """Owners and densities; the same for every candidate."""
        control = control_power(self._link, self._answer.owner, self._unit)
        return LinkPlan(self._answer.owner, control.psd_w_per_hz)

    def _trip_s(self, candidate: SplitCandidate) -> float:
        return float(self._training.trip_s(candidate.adapter_bits))

    def _share(self, candidate: SplitCandidate) -> float:
        return candidate.adapter_bits / self._largest if self._largest > 0 else 0.0


def solve_joint(training: SplitTraining) -> Solution[SplitPlan]:
    """The best plan over all candidates, subchannels and powers, with a bound on any plan.

    The trace holds the best total after each candidate that had to be solved.
    """
    watch = SolveTimer()
    try:
        search = _Search(training)
    except NoPlanError as error:
        return Solution(Status.INFEASIBLE, str(error), "joint", solve_time_s=watch.seconds)
    search.run()
    plan, bound = search.answer()
    return finished(training, plan, "joint", watch.seconds, bound, tuple(search.trace))


class _Search:
    """Candidates in ascending order of their bounds, which exclude most of them."""

    def __init__(self, training: SplitTraining) -> None:
        require_reachable(training)
        self._training = training
        self._federated = FederatedLink(training)
        self._demands = [training.main_demand(candidate) for candidate in training.candidates]
        self._main = LinkSolver(training.main)
        self._best: tuple[float, int, LinkAnswer] | None = None
        self._bounds = [0.0] * len(training.candidates)
        self.trace: list[float] = []

    def run(self) -> None:
        """Solve the most promising candidate, then those that may still beat the best."""
        waiting = list(range(len(self._demands)))
        guesses = [self._total(i, self._demands[i].deadline(self._guess(i))) for i in waiting]
        first = waiting.pop(int(np.argmin(guesses)))
        self._solve(first, math.inf)
        for index in sorted(waiting, key=self._bound_before_solving):
            assert self._best is not None
            self._solve(index, self._best[0])

    def answer(self) -> tuple[SplitPlan, float]:
        """The best plan, and a bound on the total of any plan."""
        assert self._best is not None
        _, index, answer = self._best
        control = control_power(self._training.main, answer.owner, self._demands[index])
        main = LinkPlan(answer.owner, control.psd_w_per_hz)
        return SplitPlan(index, main, self._federated.plan()), min(self._bounds)

    def _solve(self, index: int, total_to_beat: float) -> None:
        """Solve one candidate, or prove that it cannot beat a total."""
        candidate, demand = self._training.candidates[index], self._demands[index]
        upload = self._federated.upload_s(candidate)
        deadline = self._training.main_deadline_for(candidate, total_to_beat, upload)
        cutoff = deadline - demand.latest_start_s if demand.sends.any() else math.inf
        answer = None
        if cutoff > 0 and deadline > demand.deadline(0.0):
            answer = self._main.solve(demand, cutoff)
        if answer is None:
            # Proven: no allocation of the main link meets the deadline that would be needed.
            self._bounds[index] = self._bound(index, max(deadline, demand.deadline(0.0)))
            return
        self._bounds[index] = self._bound(index, demand.deadline(answer.window_bound_s))
        total = self._total(index, demand.deadline(answer.window_s))
        if self._best is None or total < self._best[0]:
            self._best = (total, index, answer)
        self.trace.append(self._best[0])

    def _guess(self, index: int) -> float:
        return self._main.guess(self._demands[index])

    def _total(self, index: int, main_deadline_s: float) -> float:
        candidate = self._training.candidates[index]
        upload = self._federated.upload_s(candidate)
        return self._training.total_s(candidate, main_deadline_s, upload)

    def _bound(self, index: int, main_deadline_bound_s: float) -> float:
        candidate = self._training.candidates[index]
        upload = self._federated.upload_bound_s(candidate)
        return self._training.total_s(candidate, main_deadline_bound_s, upload)

    def _bound_before_solving(self, index: int) -> float:
        demand = self._demands[index]
        return self._bound(index, demand.deadline(self._main.bound(demand)))


def finished(
    training: SplitTraining,
    plan: SplitPlan,
    solver: str,
    seconds: float,
    bound: float | None = None,
    trace: tuple[float, ...] = (),
) -> Solution[SplitPlan]:
    """The solution of a plan: its total recomputed, checked, and held against the bound."""
    total = plan_delay_s(training, plan)
    if not math.isfinite(total):
        message = f"The {solver} plan leaves a client without a rate; solver joint finds a plan."
        return Solution(Status.INFEASIBLE, message, solver, solve_time_s=seconds, trace=trace)
    if bound is not None:
        bound = min(bound, total)
    optimal = bound is not None and total - bound <= OPTIMALITY * total
    solution = Solution(
        status=Status.OPTIMAL if optimal else Status.FEASIBLE,
        message=_message(training, plan, total, bound, optimal),
        solver=solver,
        plan=plan,
        objective=total,
        lower_bound=bound,
        iterations=len(trace),
        solve_time_s=seconds,
        trace=trace,
    )
    return checked(solution, lambda found: check_split_plan(training, found, total))


def _message(
    training: SplitTraining, plan: SplitPlan, total: float, bound: float | None, optimal: bool
) -> str:
    """One sentence: how good it is, the choice, and what holds it back."""
    candidate = training.candidates[plan.candidate]
    claim = "Optimal" if optimal else "Feasible"
    if bound is not None and not optimal and bound > 0:
        claim += f", at most {100 * (total / bound - 1):.2g} % above the optimum"
    return (
        f"{claim}: split after block {candidate.split_point} with rank {candidate.rank} takes "
        f"{format_duration(total)}; {_bottleneck(training, plan)}."
    )


def _bottleneck(training: SplitTraining, plan: SplitPlan) -> str:
    """Who uploads activations last, and which cap of the main link holds them back."""
    rate, power = measure(training.main, plan.main.owner, plan.main.psd_w_per_hz)
    stages = training.delays(training.candidates[plan.candidate], rate, rate)
    finish = stages.client_forward_s + stages.activation_upload_s
    last = finish >= np.max(finish) * (1 - 1e-9)
    first = training.name(int(np.argmax(last)))
    who = f"{first} uploads activations last"
    if np.count_nonzero(last) > 1:
        who = f"{np.count_nonzero(last)} clients end their uploads of activations together"
    if np.sum(power) >= training.main.power_total_w * (1 - 1e-6):
        return f"{who}, and the total power of the main server's link is the limit"
    full = np.flatnonzero(last & (power >= training.main.power_max_w * (1 - 1e-6)))
    if len(full):
        return f"{who}, and the power of {training.name(int(full[0]))} is the limit"
    return who
