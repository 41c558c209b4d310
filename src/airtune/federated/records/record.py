"""The record of a round: every key of `rounds.jsonl` that does not belong to one method.

Numbers of one method's own are under `plan` and `measured`, declared by the method
(`MethodSpec.recorded`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, Self, final

from airtune.federated.records.fields import COUNT, DIMENSIONLESS, Quantity, Record, Shown
from airtune.round_plan import ClientPlan, SubchannelShare

IN_TIME, LATE, SILENT = "in_time", "late", "silent"
OfSplit = partial(Quantity, split=True)
Decision = partial(Quantity, decision=True)
OnLink = partial(Quantity, decision=True, divides=True, split=True)


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class ClientRecord(Record):
    """What one client's round was planned to be, and what it took.

    Delays that never happened are 0; a decision that removes nothing is None.
    """

    client: Annotated[int, Quantity("client")]
    """Number of the client, from 0."""
    outcome: Annotated[str, Quantity("outcome")]
    """`in_time`, `late` (its update is discarded) or `silent`."""
    bandwidth_hz: Annotated[float, Decision("bandwidth", "Hz", divides=True, order=1)]
    """Share of the uplink band."""
    rate_bps: Annotated[float, Quantity("uplink rate", "bit/s")]
    """True rate on the uplink."""
    broadcast_s: Annotated[float, Quantity("broadcast", "s")]
    """Time to receive the adapter."""
    compute_s: Annotated[float, Quantity("computing", "s")]
    """Time of the local training; of a split model, forward + head + backward on the client."""
    upload_s: Annotated[float, Quantity("upload", "s")]
    """Time to send; of a split model, on both uplinks."""
    uplink_bits: Annotated[int, Quantity("sent up", "bit")]
    """Sent, as encoded; of a late client, what was on the air by the deadline."""
    flops: Annotated[float, Quantity("computing", "FLOP")]
    """Computed; of a late client, by the deadline."""
    energy_j: Annotated[float, Quantity("energy", "J")]
    """Spent on computing and sending."""
    download_s: Annotated[float | None, OfSplit("from the main server", "s")] = None
    """Time to receive hidden states and gradients."""
    server_s: Annotated[float | None, OfSplit("computing of the main server", "s")] = None
    """Time in which the client waited for the main server."""
    wait_s: Annotated[float | None, OfSplit("waiting for others", "s")] = None
    """Time in which the client waited for slower ones."""
    stages_s: Annotated[Mapping[str, float] | None, OfSplit("stages", "s")] = None
    """Time in each of the stages broadcast, forward, activations, hidden, head, hidden_gradient,
    gradient, backward and adapter."""
    cut_uplink_bits: Annotated[int | None, OfSplit("sent up at the cut", "bit")] = None
    """Sent across the cut in all steps."""
    cut_downlink_bits: Annotated[int | None, OfSplit("sent down at the cut", "bit")] = None
    """Received across the cut in all steps."""
    adapter_bits: Annotated[int | None, OfSplit("adapter", "bit")] = None
    """The update of its half."""
    federated_rate_bps: Annotated[
        float | None, OfSplit("rate to the federated server", "bit/s")
    ] = None
    """True rate to the federated server; absent where nothing is sent to it."""
    train_loss: Annotated[float | None, Quantity("train loss", "nat")] = None
    """Mean of its losses before each of its steps; absent where it did not train."""
    update_norm: Annotated[float | None, Quantity("norm of the update", DIMENSIONLESS)] = None
    """Euclidean norm of its change as the server decoded it; absent where none arrived in time."""
    own_test_loss: Annotated[float | None, Quantity("test loss with its own part", "nat")] = None
    """Per completion token of its held-out rows, with its own part of the adapter; absent where it
    has none."""
    rank: Annotated[int | None, Decision("LoRA rank", "ranks", order=5)] = None
    """LoRA rank; absent without LoRA."""
    tx_power_w: Annotated[float, Decision("transmit power", "W", display=Shown("mW", 1e3))]
    """Power on the uplink."""
    speed: Annotated[float | None, Decision("CPU speed", "share of full speed", order=7)] = None
    """Share of the full training rate at which it computed; absent for 1."""
    pruning_rate: Annotated[float | None, Decision("pruning rate", "share removed", order=2)] = None
    """Share of the attention units and neurons that is removed; absent for 0."""
    sparsity: Annotated[float | None, Decision("sparsity", "share removed", order=3)] = None
    """Share of the ranks removed; absent for 0."""
    split_point: Annotated[
        int | None, OfSplit("blocks on the client", "blocks", decision=True, order=6)
    ] = None
    """Blocks on the client, of the model that is charged."""
    cut_kept_share: Annotated[
        float | None, OfSplit("kept at the cut", "share", decision=True, order=7)
    ] = None
    """Share of a token's numbers that cross the cut; absent for all of them."""
    cut_format: Annotated[str | None, OfSplit("number format at the cut")] = None
    """Of what crosses the cut; absent where it is that of the method."""
    downlink_share: Annotated[float | None, OnLink("downlink share", "share")] = None
    """Share of the downlink's band and power; absent where the downlink is free."""
    main_subchannels: Annotated[
        Sequence[int] | None, OnLink("subchannels to the main server", COUNT)
    ] = None
    """Subchannels to the main server."""
    main_psd_w_per_hz: Annotated[
        Sequence[float] | None, OnLink("power density to the main server", "W/Hz")
    ] = None
    """Power density on each; `bandwidth_hz`, `tx_power_w` and `rate_bps` are their sums."""
    federated_subchannels: Annotated[
        Sequence[int] | None, OnLink("subchannels to the federated server", COUNT)
    ] = None
    """Subchannels to the federated server."""
    federated_psd_w_per_hz: Annotated[
        Sequence[float] | None, OnLink("power density to the federated server", "W/Hz")
    ] = None
    """Power density on each."""
    kept_ranks: Annotated[
        Sequence[int] | None, Decision("kept ranks of a matrix (mean)", "ranks", order=4)
    ] = None
    """Ranks sent of each matrix, where matrices differ."""
    share: Annotated[float | None, Quantity("share of the update", "share")] = None
    """Coefficient with which its update entered; only where updates are weighed by more than their
    examples."""
    version: Annotated[int | None, Quantity("adapter version")] = None
    """Server steps before its broadcast; only without synchronous rounds."""
    staleness: Annotated[int | None, Quantity("staleness", "steps")] = None
    """Server steps between its broadcast and its update."""
    stale_error: Annotated[float | None, Quantity("product error of a stale update", "1")] = None
    """Norm of `dB (A - A0) + (B - B0) dA` over that of the product change it was trained for."""
    inclusion: Annotated[float | None, Quantity("probability of taking part", "share")] = None
    """Probability with which it was drawn; only where a sampler draws the cohort."""


def decisions(plan: ClientPlan) -> dict[str, Any]:
    """The fields of a client's record that its plan decides."""
    return {
        "client": plan.client,
        "bandwidth_hz": plan.bandwidth_hz,
        "rank": plan.rank or None,
        "tx_power_w": plan.tx_power_w,
        "speed": None if plan.speed == 1.0 else plan.speed,
        "pruning_rate": plan.pruning_rate or None,
        "sparsity": plan.sparsity or None,
        "split_point": plan.split_point,
        "cut_kept_share": None if plan.cut_dropout == 0.0 else 1.0 - plan.cut_dropout,
        "cut_format": plan.cut_format,
        "downlink_share": plan.downlink_share,
        **_link("main", plan.main),
        **_link("federated", plan.federated),
        "kept_ranks": None if plan.kept_ranks is None else list(plan.kept_ranks),
    }


def _link(name: str, share: SubchannelShare | None) -> dict[str, Any]:
    if share is None:
        return {}
    return {
        f"{name}_subchannels": list(share.subchannels),
        f"{name}_psd_w_per_hz": list(share.psd_w_per_hz),
    }


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class RoundRecord(Record):
    """One round: what it cost, what was learned, and every client that took part."""

    round: Annotated[int, Quantity("round")]
    """Number of the round, from 1."""
    virtual_time_s: Annotated[float, Quantity("virtual time", "s")]
    """Sum of the latencies so far."""
    latency_s: Annotated[float, Quantity("latency", "s")]
    """How long the round lasted."""
    planned_latency_s: Annotated[float, Quantity("planned latency", "s")]
    """Latency of the plan, on the channel that the planner saw."""
    planned_energy_j: Annotated[float | None, Quantity("planned energy", "J")] = None
    """Clients' energy of the plan, on the channel that the planner saw; absent where it is not
    planned."""
    straggler: Annotated[int | None, Quantity("straggler")]
    """Client whose own stages took longest; null without one."""
    straggler_stage: Annotated[str | None, Quantity("its stage")]
    """Stage in which it is furthest behind the median client."""
    train_loss: Annotated[float | None, Quantity("train loss", "nat")]
    """Mean of the clients' losses, weighted by their examples; null where no client trained."""
    test_loss: Annotated[float, Quantity("test loss", "nat")]
    """Per completion token, after the round."""
    learning_rate: Annotated[float | None, Quantity("learning rate", DIMENSIONLESS)] = None
    """Of the clients' steps of this round, as scheduled."""
    uplink_bits: Annotated[int, Quantity("sent up", "bit")]
    """Sent by all clients."""
    downlink_bits: Annotated[int, Quantity("sent down", "bit")]
    """One broadcast; of a split model, also what crosses the cut."""
    energy_j: Annotated[float, Quantity("clients' energy", "J")]
    """Spent by all clients."""
    server_s: Annotated[float | None, OfSplit("main server's time", "s")] = None
    """Time in which the main server computed."""
    server_flops: Annotated[float | None, OfSplit("main server's computing", "FLOP")] = None
    """`server_s` at `server_flop_rate`; not in the clients' `flops`."""
    server_energy_j: Annotated[float | None, OfSplit("main server's energy", "J")] = None
    """`server_s` at `server_power_w` (default 0: not counted); not in `energy_j`."""
    skipped: Annotated[Mapping[str, str], Quantity("skipped")]
    """Client -> reason, for clients that take no part."""
    plan: Annotated[Mapping[str, Any] | None, Quantity("plan")] = None
    """Numbers behind the plan; only where the method adds them."""
    idle_s: Annotated[float | None, Quantity("waiting", "s")] = None
    """Waiting time of a round in which no client could send."""
    clients: Annotated[Sequence[ClientRecord], Quantity("clients")]
    """One entry per scheduled client."""
    started: Annotated[Sequence[int] | None, Quantity("tasks begun")] = None
    """Clients whose tasks began with this step's broadcast; only without synchronous rounds."""
    in_flight: Annotated[int | None, Quantity("tasks under way", "clients")] = None
    """Tasks under way after the step."""
    measured: Annotated[Mapping[str, Any] | None, Quantity("measured")] = None
    """Only where the method measures the updates; null for what is not a finite number."""

    @classmethod
    def read(cls, found: Any) -> Self:
        record = super().read(found)
        return replace(record, clients=[ClientRecord.read(entry) for entry in record.clients])
