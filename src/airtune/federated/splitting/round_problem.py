"""One round of split training as the planning problem of `airtune plan`, and a plan of its answer.

Local steps differ, because batches do. The solvers see every client's mean step: since a sum of
maxima is at least the maximum of the sums, their bound also holds for the round as it is charged,
and the latency promised is that of the real steps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from airtune.allocation.bandwidth import minmax_bandwidth
from airtune.allocation.split.problem import LinkPlan, SplitCandidate, SplitTraining
from airtune.allocation.subchannels.power import Uplink, measure
from airtune.cost.latency import TransferModel
from airtune.cost.timeline import Timeline
from airtune.federated.charging.split_costs import RoundRates, SplitRoundCosts, link_to_shares
from airtune.federated.idle import NO_SIGNAL
from airtune.federated.view import PlanningView
from airtune.quantities import FloatArray
from airtune.round_plan import MAIN_SERVER, ClientPlan, SubchannelShare
from airtune.tuning.split.model import StepBits
from airtune.wireless.rate import FixedEfficiencyLinks


@dataclass(frozen=True)
class MeanStep:
    """The mean local step at given split points: delays before the upload [client], the main
    server's, and what follows it; `shares` [client] of the downlink, None where it is free."""

    ahead_s: FloatArray
    server_s: float
    after_s: float
    shares: FloatArray | None


@dataclass(frozen=True)
class SplitProblem:
    """A round as its planner sees it; `kept` are positions in the cohort.

    `gets_half`, `sends_half`: whether the averaged client half comes down at the beginning of the
    round, and whether clients send theirs to the federated server at its end.
    """

    view: PlanningView
    kept: Sequence[int]
    gets_half: bool = True
    sends_half: bool = True

    @cached_property
    def costs(self) -> SplitRoundCosts:
        assert self.view.costs.split is not None, "a split is planned for a method that splits"
        return self.view.costs.split

    @property
    def transfer(self) -> TransferModel:
        """Protocol heads, which all bits here contain, and the round trip of every transfer."""
        return self.costs.transfer

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

    def mean_step(self, points: Sequence[int]) -> MeanStep:
        """With one split point per client of `kept`; labels at the clients bring the head there."""
        ahead_s, behind_s, server_s = np.array(
            [self.work_s(k, point) for k, point in enumerate(points)]
        ).T
        _, hidden, gradient = self.bits
        served_s = float(server_s.sum()) + self.mean_path_s(points[0])
        downlink, lead_s = self.costs.system.downlink, self.transfer.lead_s
        # With hidden states down a second message goes up: their gradient.
        ahead_s = ahead_s + lead_s(hidden)
        if downlink == "free":
            return MeanStep(ahead_s, served_s, float(behind_s.max()), None)
        rate = self.view.downlink_bps[list(self.kept)]
        shares = np.full(len(points), 1.0 / len(points))
        if downlink == "planned" and (hidden + gradient > 0).any():
            band = minmax_bandwidth(
                FixedEfficiencyLinks(rate), hidden + gradient, behind_s, 1.0, self.names
            ).plan
            assert band is not None, "clients without signal are left out before"
            shares = band.bandwidth_hz
        after_s = float(np.max(lead_s(gradient) + gradient / (rate * shares) + behind_s))
        after_s += self.shared_s
        ahead_s = ahead_s + lead_s(hidden) + hidden / (rate * shares)
        return MeanStep(ahead_s, served_s, after_s, shares)

    def mean_path_s(self, point: int) -> float:
        """The server's mean seconds along the path of mean activations, at a common cut."""
        if self.costs.aggregation(self.clients) is None:
            return 0.0
        ahead_s, back_s = self.costs.mean_path_s(self.clients, point)
        return float((ahead_s + back_s).mean())

    @cached_property
    def shared_s(self) -> float:
        """Mean seconds of the message of a step that goes to all clients at once."""
        if self.costs.aggregation(self.clients) is None:
            return 0.0
        bits = [step.shared for step in self._messages[0]]
        return float(self.transfer.delay_s(np.array(bits, dtype=float), self.multicast_bps).mean())

    def work_s(self, position: int, point: int) -> tuple[float, float, float]:
        """Seconds of one client's mean step: its own before and after the upload, the server's."""
        return self._work[position][point]

    @cached_property
    def _work(self) -> list[dict[int, tuple[float, float, float]]]:
        return [
            {point: self._worked(k, point) for point in points}
            for k, points in enumerate(self.points)
        ]

    def _worked(self, position: int, point: int) -> tuple[float, float, float]:
        costs, client = self.costs, self.clients[position]
        speed = costs.devices[client].training_flop_rate
        served = costs.system.server_flop_rate
        together = costs.aggregation(self.clients)
        if together is None:
            steps = costs.flops(client, point)
        else:
            steps = together.flops(position, costs.work, point)
        head = sum(step.head_forward + step.head_backward for step in steps)
        ahead = sum(step.client_forward for step in steps)
        server = sum(step.server_forward + step.server_backward for step in steps)
        if costs.keeps_labels:
            ahead += head
        else:
            server += head
        behind = sum(step.client_backward for step in steps)
        count = len(steps)
        return ahead / count / speed, behind / count / speed, server / count / served

    @property
    def is_bounded(self) -> bool:
        """Whether a solver's bound holds for the round: not where hidden states come down on
        shares that were planned for the gradients as well."""
        return not (self.costs.keeps_labels and self.costs.system.downlink == "planned")

    @cached_property
    def bits(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Mean bits of a step on the air [client]: up, hidden states down, gradient down."""
        messages = self._messages
        up, hidden, gradient = (
            self.transfer.air_bits(
                [np.mean([float(getattr(step, name)) for step in steps]) for steps in messages]
            )
            for name in ("uplink", "hidden", "gradient")
        )
        return up, hidden, gradient

    @cached_property
    def _messages(self) -> list[list[StepBits]]:
        """Before any decision about the cut."""
        return self.costs.messages_of([self._bare(client, 1) for client in self.clients])

    @cached_property
    def names(self) -> list[str]:
        """What messages call the clients."""
        return [self.view.names[i].removeprefix("client ") for i in self.kept]

    def training(self, points: Sequence[int]) -> SplitTraining:
        """The problem with one split point for all clients, to be chosen among `points`.

        What follows the upload does not depend on the uplinks, so it counts with the main server.
        """
        main, federated = self.links
        return SplitTraining(
            local_steps=self.steps,
            main=main,
            federated=federated,
            candidates=tuple(self._candidate(point) for point in points),
            names=self.names,
            multicast_bps=self.multicast_bps,
            round_trip_s=self.transfer.round_trip_s,
        )

    @property
    def steps(self) -> int:
        """Local steps of the round."""
        return len(self.costs.shapes(self.clients[0]))

    @property
    def multicast_bps(self) -> float:
        """Of the broadcast, at the worst rate; it takes no time where the downlink is free."""
        rates = self.view.downlink_bps[list(self.kept)]
        return np.inf if self.costs.system.downlink == "free" else float(rates.min())

    def _candidate(self, point: int) -> SplitCandidate:
        mean = self.mean_step([point] * len(self.kept))
        return SplitCandidate(
            split_point=point,
            rank=self.view.rank,
            rounds=1.0,
            client_forward_s=mean.ahead_s,
            client_backward_s=0.0,
            server_s=mean.server_s + mean.after_s,
            activation_bits=self.bits[0],
            gradient_bits=0.0,
            adapter_bits=self.adapter_bits(point),
            broadcast_bits=self.broadcast_bits(point),
        )

    def adapter_bits(self, point: int) -> float:
        """A client half's update on the air [bit]."""
        return self.view.costs.air_bits(self._bare(self.clients[0], point))

    def broadcast_bits(self, point: int) -> float:
        """The broadcast on the air where this is the deepest cut [bit]."""
        return float(self.transfer.air_bits(self._downlink_bits(point)))

    def broadcast_s(self, point: int) -> float:
        """The broadcast where this is the deepest cut [s]."""
        return float(self.transfer.delay_s(self._downlink_bits(point), self.multicast_bps))

    def _downlink_bits(self, point: int) -> int:
        return self.view.costs.downlink_bits(self._bare(self.clients[0], point))

    def _bare(self, client: int, point: int) -> ClientPlan:
        return ClientPlan(
            client,
            0.0,
            0.0,
            self.view.rank,
            split_point=point,
            pruning_rate=self.costs.system.pruning_rate,
            gets_half=self.gets_half,
            sends_half=self.sends_half,
        )

    def plans(
        self, points: Sequence[int], main: LinkPlan, federated: LinkPlan | None
    ) -> list[ClientPlan]:
        """The clients' plans from split points and both links' owners and densities; None for the
        federated link where nothing is sent on it."""
        link, _ = self.links
        _, power_w = measure(link, main.owner, main.psd_w_per_hz)
        count = len(self.kept)
        shares = self.mean_step(points).shares
        mains = link_to_shares(main.owner, main.psd_w_per_hz, count)
        others: list[SubchannelShare] | list[None] = [None] * count
        if federated is not None:
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
                downlink_share=None if shares is None else float(shares[k]),
                pruning_rate=self.costs.system.pruning_rate,
                gets_half=self.gets_half,
                sends_half=self.sends_half,
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
            self.costs.messages_of(plans),
            [costs.payload_bits(plan) for plan in plans],
            costs.downlink_bits(deepest),
        )


def within_reach(view: PlanningView) -> tuple[list[int], dict[int, str]]:
    """Positions that can be planned for, and the clients without signal with the reason."""
    mute = (view.uplink.limit_bps() <= 0) | (view.downlink_bps <= 0)
    skipped = {int(view.cohort[i]): NO_SIGNAL for i in np.flatnonzero(mute)}
    return [int(i) for i in np.flatnonzero(~mute)], skipped
