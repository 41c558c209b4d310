"""Feasibility and predicted latency of a plan, checked before every round.

Nothing here trusts a planner: shares are added up, powers compared with the devices', and the
latency is recomputed from the channel that the planner saw and the costs of the parts that run.
"""

from dataclasses import replace

import numpy as np

from airtune.allocation.solve import Status
from airtune.cost.device import refuse_small_memory
from airtune.errors import AirtuneError
from airtune.federated.charging.costs import RoundCosts
from airtune.federated.charging.split_charge import power_of
from airtune.federated.charging.split_costs import LinkSettings, SplitSystem
from airtune.federated.method import Method
from airtune.federated.view import PlanningView
from airtune.round_plan import ClientPlan, Decision, Plan
from airtune.workload.architecture import require_prunable

SLACK = 1e-9
"""Relative: shares that fill the band add up to it but for rounding."""
PROMISE = 1e-6
"""Relative difference between a predicted latency and that of the plan."""


class BrokenRoundPlanError(AirtuneError):
    """A planner's answer that cannot be carried out, or whose prediction is wrong."""


def check_plan(view: PlanningView, plan: Plan, split: SplitSystem | None) -> None:
    """Raise BrokenRoundPlanError, naming the planner's mistake, for an impossible plan."""
    check = _Check(view, plan)
    check.members()
    for entry in plan.clients:
        check.client(entry)
    if split is None:
        check.bandwidth()
    else:
        check.subchannels(split)
    check.promise()


def refuse_small_devices(method: Method, costs: RoundCosts, rank: int) -> None:
    """Refuse devices that cannot hold the least that the planner may assign to them.

    `rank` is the adapter's. What the planner does assign is checked with every plan. Raises
    InputError for the first such client, and for a planner that prunes what cannot be pruned.
    """
    decides = method.planner.decides
    if Decision.PRUNING in decides:
        field = "charge_as" if costs.model.as_other_model else "model"
        require_prunable(costs.model.work.architecture, field)
    least = min(1, rank) if Decision.RANK in decides else rank
    for client, device in enumerate(costs.model.devices):
        if costs.split is not None:
            costs.split.split_points(client)
            continue
        plan = ClientPlan(client, 0.0, 0.0, least)
        if Decision.PRUNING in decides:
            plan = replace(plan, pruning_rate=costs.least_rate(plan))
        refuse_small_memory(f"client {client}", device, costs.memory_bytes(plan))


class _Check:
    """One round's plan against what the planner was given."""

    def __init__(self, view: PlanningView, plan: Plan) -> None:
        self.view, self.plan = view, plan
        self.places = {int(client): place for place, client in enumerate(view.cohort)}
        self.measured = np.isposinf(view.uplink.limit_bps())

    def fail(self, sentence: str) -> None:
        raise BrokenRoundPlanError(
            f"The plan of round {self.view.round_index + 1} cannot be carried out: {sentence}."
        )

    def members(self) -> None:
        """Scheduled and skipped clients are of the cohort, and no client is both."""
        scheduled = [entry.client for entry in self.plan.clients]
        for client in (*scheduled, *self.plan.skipped):
            if client not in self.places:
                self.fail(f"client {client} is not in the round's cohort {sorted(self.places)}")
        for client in scheduled:
            if client in self.plan.skipped:
                self.fail(f"client {client} is both scheduled and skipped")

    def client(self, entry: ClientPlan) -> None:
        """Each decision within its own range, and the device able to carry it out."""
        who = f"client {entry.client}"
        limit = float(self.view.tx_power_w[self.places[entry.client]])
        for name, value, low, high in (
            ("bandwidth_hz", entry.bandwidth_hz, 0.0, self.view.bandwidth_hz),
            ("tx_power_w", entry.tx_power_w, 0.0, limit),
            ("downlink_share", entry.downlink_share or 0.0, 0.0, 1.0),
        ):
            if not low <= value <= high * (1 + SLACK):
                self.fail(f"{name} of {who} is {value:g}, allowed is {low:g} to {high:g}")
        self.speed(entry)
        for name, share in (
            ("pruning_rate", entry.pruning_rate),
            ("sparsity", entry.sparsity),
            ("cut_dropout", entry.cut_dropout),
        ):
            if not 0.0 <= share < 1.0:
                self.fail(f"{name} of {who} is {share:g}, allowed is 0 to below 1")
        if not min(1, self.view.rank) <= entry.rank <= self.view.rank:
            self.fail(f"rank of {who} is {entry.rank}, allowed is 1 to {self.view.rank}")
        for kept in entry.kept_ranks or ():
            if not 0 <= kept <= self.view.rank:
                self.fail(f"kept_ranks of {who} has {kept}, allowed is 0 to {self.view.rank}")
        self.memory(entry)

    def speed(self, entry: ClientPlan) -> None:
        """Full speed and power where slower computing or less power would not be charged."""
        who, place = f"client {entry.client}", self.places[entry.client]
        if not 0.0 < entry.speed <= 1.0:
            self.fail(f"speed of {who} is {entry.speed:g}, allowed is above 0 to 1")
        if self.view.costs.split is not None and entry.speed != 1.0:
            self.fail(
                f"speed of {who} is {entry.speed:g}, and a split model computes at full speed"
            )
        full_w = float(self.view.tx_power_w[place])
        measured = bool(self.measured[place])
        if measured and self.view.costs.split is None and entry.tx_power_w < full_w * (1 - SLACK):
            self.fail(
                f"tx_power_w of {who} is {entry.tx_power_w:g}, and its rate was measured at full "
                f"power, {full_w:g}"
            )

    def memory(self, entry: ClientPlan) -> None:
        costs = self.view.costs
        if entry.split_point is not None:
            points = costs.split.split_points(entry.client) if costs.split else []
            if entry.split_point not in points:
                self.fail(
                    f"split_point of client {entry.client} is {entry.split_point}, its memory "
                    f"allows {points}"
                )
            return
        needed, usable = costs.memory_bytes(entry), costs.usable_memory_bytes(entry.client)
        if needed > usable:
            self.fail(
                f"client {entry.client} needs {needed / 1e9:.3g} GB for it and has "
                f"{usable / 1e9:.3g} GB"
            )

    def bandwidth(self) -> None:
        """Shares of one band; no main server, which only a split model has."""
        if self.plan.main_server is not None:
            self.fail("main_server is given, and the method does not split the model")
        total = sum(entry.bandwidth_hz for entry in self.plan.clients)
        if total > self.view.bandwidth_hz * (1 + SLACK):
            self.fail(
                f"the bandwidth shares add up to {total:g} Hz of a band of "
                f"{self.view.bandwidth_hz:g} Hz"
            )

    def subchannels(self, split: SplitSystem) -> None:
        """Each link on its own; the downlink is shared; the main server holds the earliest cut."""
        self.link("main", split.main)
        self.link("federated", split.federated)
        shares = sum(entry.downlink_share or 0.0 for entry in self.plan.clients)
        if shares > 1 + SLACK:
            self.fail(f"the downlink shares add up to {shares:g}, allowed is 1")
        server = self.plan.main_server
        earliest = min((entry.split_point or 0 for entry in self.plan.clients), default=None)
        points = {entry.split_point for entry in self.plan.clients}
        if split.aggregation_ratio > 0 and len(points) > 1:
            self.fail("split points differ, and gradients are aggregated along one path")
        if earliest is not None and (server is None or server.split_point != earliest):
            held = None if server is None else server.split_point
            self.fail(f"main_server has split_point {held}, allowed is the earliest, {earliest}")

    def link(self, name: str, link: LinkSettings) -> None:
        """A subchannel serves one client; powers stay under each client's cap and the link's."""
        owners: dict[int, int] = {}
        radiated_w = 0.0
        for entry in self.plan.clients:
            who, share = f"client {entry.client}", getattr(entry, name)
            if share is None and name == "federated" and not entry.sends_half:
                continue
            if share is None or not share.subchannels:
                self.fail(f"{who} has no subchannel of the {name} link")
            if len(share.psd_w_per_hz) != len(share.subchannels) or min(share.psd_w_per_hz) < 0:
                self.fail(f"{who} must have a power of 0 or more on each {name} subchannel")
            for number in share.subchannels:
                if not 0 <= number < link.subchannels:
                    self.fail(f"{who} has subchannel {number} of {link.subchannels} {name} ones")
                if number in owners:
                    self.fail(f"{name} subchannel {number} serves {owners[number]} and {who}")
                owners[number] = entry.client
            power_w = power_of(share, link.width_hz(self.view.bandwidth_hz))
            limit_w = float(self.view.tx_power_w[self.places[entry.client]])
            if not power_w <= limit_w * (1 + SLACK):
                self.fail(f"{who} radiates {power_w:g} W of {limit_w:g} W on the {name} link")
            radiated_w += power_w
        if link.total_power_w is not None and radiated_w > link.total_power_w * (1 + SLACK):
            self.fail(
                f"the {name} link radiates {radiated_w:g} W in all, its limit is "
                f"{link.total_power_w:g} W"
            )

    def promise(self) -> None:
        """The predicted latency is that of the plan, and no claim about it contradicts it."""
        plan = self.plan
        if not plan.clients:
            return
        latency_s = self.view.latency_s(plan.clients)
        if not np.isclose(plan.predicted_latency_s, latency_s, rtol=PROMISE, atol=0.0):
            self.fail(
                f"it predicts {plan.predicted_latency_s:g} s and takes {latency_s:g} s on the "
                "channel that the planner saw"
            )
        if plan.predicted_energy_j is not None:
            energy_j = float(self.view.energy_j(plan.clients).sum())
            if not np.isclose(plan.predicted_energy_j, energy_j, rtol=PROMISE, atol=0.0):
                self.fail(
                    f"it predicts {plan.predicted_energy_j:g} J and takes {energy_j:g} J on the "
                    "channel that the planner saw"
                )
        bound_s = plan.lower_bound_s
        if bound_s is not None and not bound_s <= plan.predicted_latency_s * (1 + SLACK):
            self.fail(f"its lower bound of {bound_s:g} s lies above its own {latency_s:g} s")
        # A planner that weighs more than latency keeps its own objective and bound.
        value = plan.extras.get("objective", latency_s)
        least = plan.extras.get("objective_lower_bound", bound_s)
        if plan.status == Status.OPTIMAL and not _meets(value, least):
            self.fail(f"it is called optimal at {value}, above a lower bound of {least}")


def _meets(value: float | None, bound: float | None) -> bool:
    """Whether a bound proves an objective optimal, up to rounding."""
    return value is not None and bound is not None and value - bound <= PROMISE * abs(value)
