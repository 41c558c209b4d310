"""One round of split training as the planning problem of `airtune plan`, and a plan of its answer.

Local steps differ, because batches do. The solvers see every client's mean step: since a sum of
maxima is at least the maximum of the sums, their bound also holds for the round as it is charged,
and the latency promised is that of the real steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from airtune.allocation.power import Uplink, measure
from airtune.allocation.split_training import LinkPlan, SplitCandidate, SplitTraining
from airtune.cost.timeline import Timeline
from airtune.federated.method import PlanningView
from airtune.federated.split_costs import RoundRates, SplitRoundCosts, link_to_shares
from airtune.quantities import FloatArray
from airtune.round_plan import MAIN_SERVER, ClientPlan


@dataclass(frozen=True)
class MeanStep:
    """A client's mean local step at one split point: seconds on both sides of the cut."""

    ahead_s: float
    behind_s: float
    server_s: float


@dataclass(frozen=True)
class SplitProblem:
    """A round as its planner sees it; `kept` are positions in the cohort."""

    view: PlanningView
    kept: Sequence[int]

    @cached_property
    def costs(self) -> SplitRoundCosts:
        assert self.view.costs.split is not None, "the sflllm planner belongs to a split method"
        return self.view.costs.split

    @cached_property
    def clients(self) -> list[int]:
        return [int(self.view.cohort[i]) for i in self.kept]

    @cached_property
    def points(self) -> list[list[int]]:
        """The split points that fit each client's memory [client][...], ascending."""
        return [self.costs.split_points(client) for client in self.clients]

    @cached_property
    def links(self) -> tuple[Uplink, Uplink]:
        """The uplinks to the main and to the federated server."""
        kept, view, system = np.array(self.kept, dtype=np.intp), self.view, self.costs.system
        links, power_w = view.uplink.select(kept), view.tx_power_w[kept]
        return (
            system.main.uplink(links, power_w, view.bandwidth_hz),
            system.federated.uplink(links, power_w, view.bandwidth_hz),
        )

    def mean_step(self, position: int, point: int) -> MeanStep:
        """Of the client at this position of `kept`; labels at the client bring the head's work."""
        return self._mean_steps[position][point]

    @cached_property
    def _mean_steps(self) -> list[dict[int, MeanStep]]:
        return [
            {point: self._mean(client, point) for point in points}
            for client, points in zip(self.clients, self.points, strict=True)
        ]

    def _mean(self, client: int, point: int) -> MeanStep:
        costs = self.costs
        speed = costs.model.devices[client].training_flop_rate
        served = costs.system.server_flop_rate
        steps = costs.flops(client, point)
        head = sum(step.head_forward + step.head_backward for step in steps)
        ahead = sum(step.client_forward for step in steps)
        server = sum(step.server_forward + step.server_backward for step in steps)
        if costs.keeps_labels:
            ahead += head
        else:
            server += head
        behind = sum(step.client_backward for step in steps)
        count = len(steps)
        hidden_bits = sum(step.hidden for step in costs.messages(client)) / count
        rate = self._gradient_bps[client]
        hidden_s = hidden_bits / rate if hidden_bits else 0.0
        return MeanStep(
            ahead / count / speed + hidden_s, behind / count / speed, server / count / served
        )

    @cached_property
    def _gradient_bps(self) -> dict[int, float]:
        """Each client's equal share of the downlink."""
        free = self.costs.system.downlink == "free"
        return {
            client: float("inf") if free else float(self.view.downlink_bps[i]) / len(self.kept)
            for client, i in zip(self.clients, self.kept, strict=True)
        }

    @cached_property
    def bits(self) -> tuple[FloatArray, FloatArray]:
        """Mean bits of a step up and of its gradient down [client]; hidden states are in the delay
        before, and their gradient goes up with the activations."""
        messages = [self.costs.messages(client) for client in self.clients]
        up = [float(np.mean([step.uplink for step in steps])) for steps in messages]
        down = [float(np.mean([step.gradient for step in steps])) for steps in messages]
        return np.array(up), np.array(down)

    def training(self, points: Sequence[int]) -> SplitTraining:
        """The problem with one split point for all clients, to be chosen among `points`.

        Work is given in seconds at unit speed, because clients differ in device and in batch.
        """
        main, federated = self.links
        free = self.costs.system.downlink == "free"
        reached = self._reached
        return SplitTraining(
            local_steps=self.steps,
            batch_size=1,
            server_flop_rate=1.0,
            client_flop_rate=np.ones(len(self.kept)),
            main=main,
            federated=federated,
            candidates=tuple(self._candidate(point) for point in points),
            downlink_rate_bps=None if free else np.array(list(self._gradient_bps.values())),
            names=[self.view.names[i].removeprefix("client ") for i in self.kept],
            multicast_bps=np.inf if free else reached,
        )

    @property
    def steps(self) -> int:
        """Local steps of the round."""
        return len(self.costs.shapes(self.clients[0]))

    @property
    def _reached(self) -> float:
        rates = self.view.downlink_bps[list(self.kept)]
        return float(rates[rates > 0].min()) if (rates > 0).any() else 0.0

    def _candidate(self, point: int) -> SplitCandidate:
        means = [self.mean_step(k, point) for k in range(len(self.kept))]
        up, down = self.bits
        return SplitCandidate(
            split_point=point,
            rank=self.view.rank,
            rounds=1.0,
            client_forward_flops=np.array([mean.ahead_s for mean in means]),
            client_backward_flops=np.array([mean.behind_s for mean in means]),
            server_forward_flops=sum(mean.server_s for mean in means) / len(means),
            server_backward_flops=0.0,
            activation_bits=up,
            gradient_bits=down,
            adapter_bits=self.adapter_bits(point),
        )

    def adapter_bits(self, point: int) -> int:
        """Length of a client half's update [bit]."""
        return self.view.costs.payload_bits(self._bare(self.clients[0], point))

    def _bare(self, client: int, point: int) -> ClientPlan:
        return ClientPlan(client, 0.0, 0.0, self.view.rank, split_point=point)

    def plans(self, points: Sequence[int], main: LinkPlan, federated: LinkPlan) -> list[ClientPlan]:
        """The clients' plans from split points and both links' owners and densities."""
        link, _ = self.links
        _, power_w = measure(link, main.owner, main.psd_w_per_hz)
        count = len(self.kept)
        mains = link_to_shares(main.owner, main.psd_w_per_hz, count)
        others = link_to_shares(federated.owner, federated.psd_w_per_hz, count)
        return [
            ClientPlan(
                client=client,
                bandwidth_hz=float(link.bandwidth_hz[list(mains[k].subchannels)].sum()),
                tx_power_w=float(power_w[k]),
                rank=self.view.rank,
                split_point=points[k],
                main=mains[k],
                federated=others[k],
            )
            for k, client in enumerate(self.clients)
        ]

    def main_server(self, plans: Sequence[ClientPlan]) -> ClientPlan:
        """The main server holds the model from the earliest cut on."""
        earliest = min(plan.split_point or 0 for plan in plans)
        return ClientPlan(MAIN_SERVER, 0.0, 0.0, self.view.rank, split_point=earliest)

    def timeline(self, plans: Sequence[ClientPlan]) -> Timeline:
        """The round as planned, on the estimated channel, from the real batches of every step."""
        kept, costs = np.array(self.kept, dtype=np.intp), self.view.costs
        rates: RoundRates = self.costs.rates(
            plans,
            self.view.uplink.select(kept),
            self.view.tx_power_w[kept],
            self.view.bandwidth_hz,
            self.view.downlink_bps[kept],
        )
        deepest = max(plans, key=lambda plan: plan.split_point or 0)
        return self.costs.timeline(
            plans,
            rates,
            [self.costs.messages(plan.client) for plan in plans],
            [costs.payload_bits(plan) for plan in plans],
            costs.downlink_bits(deepest),
        )


def silent(view: PlanningView) -> NDArray[np.bool_]:
    """Which clients of the cohort have no signal in either direction."""
    return (view.uplink.limit_bps() <= 0) | (view.downlink_bps <= 0)
