"""What the methods share that split the model: its depth, the servers, and the cut's codec.

And those whose client halves stay at the clients for some rounds or for all.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from airtune.config.experiment import ExperimentConfig
from airtune.errors import InputError
from airtune.federated.charging.split_costs import LinkSettings, SplitSystem
from airtune.federated.method import Exchange
from airtune.federated.splitting.cut_planner import OWN
from airtune.methods.spec import Unused
from airtune.methods.split_recorded import OwnLosses
from airtune.quantities import dbm_to_watts
from airtune.tuning.adapter import AdapterState, initial_state, read_adapter
from airtune.update.cut import CutCodec
from airtune.update.partial import Depth
from airtune.workload.architecture import load_architecture


class SplitOptions(Protocol):
    """The keys of `split_options` that a system is made of."""

    @property
    def activation_dtype(self) -> str: ...
    @property
    def gradient_dtype(self) -> str: ...
    @property
    def downlink(self) -> str: ...
    @property
    def server_flop_rate(self) -> float: ...
    @property
    def server_power_w(self) -> float: ...
    @property
    def main_subchannels(self) -> int: ...
    @property
    def federated_subchannels(self) -> int: ...
    @property
    def main_total_power_dbm(self) -> float | None: ...
    @property
    def federated_total_power_dbm(self) -> float | None: ...


def depth_of(config: ExperimentConfig, model: Any) -> Depth:
    """Blocks of the planned and of the trained model; InputError for one that cannot be cut."""
    trained = model.config.num_hidden_layers
    if trained < 2:
        raise InputError(
            "model", f"{trained} block", f"a model of at least 2 blocks for {config.method}"
        )
    planned = load_architecture(config.charge_as).block_count if config.charge_as else trained
    return Depth(planned, trained)


def system_of(model: Any, options: SplitOptions, labels_at: str = "server") -> SplitSystem:
    """The servers, their links, and what crosses the cut."""
    return SplitSystem(
        main=_link(options.main_subchannels, options.main_total_power_dbm),
        federated=_link(options.federated_subchannels, options.federated_total_power_dbm),
        server_flop_rate=options.server_flop_rate,
        cut=CutCodec(model.config.vocab_size, options.activation_dtype, options.gradient_dtype),
        labels_at=labels_at,
        downlink=options.downlink,
        server_power_w=options.server_power_w,
    )


def known_adapter(config: ExperimentConfig, model: Any) -> AdapterState:
    """The adapter before round 1, which every client has: drawn from the seed, or a warm start that
    is handed out with the model."""
    if config.adapter.start:
        return read_adapter(Path(config.adapter.start))
    return initial_state(model, config.seed)


def warm_start(config: ExperimentConfig) -> Mapping[str, Any]:
    """What the rounds rest on where client halves begin from a warm start."""
    if not config.adapter.start:
        return {}
    return {"adapter.start": Path(config.adapter.start) / "adapter_model.safetensors"}


def own_losses(exchange: Exchange) -> dict[str, float | None]:
    """The record's `measured` of clients that keep their halves."""
    losses = list(exchange.losses.values())
    if not losses:
        return asdict(OwnLosses(None, None))
    return asdict(OwnLosses(sum(losses) / len(losses), max(losses)))


def unused_with_own_halves(section: str, client_halves: str) -> Iterator[Unused]:
    """Keys of what never travels."""
    if client_halves == OWN:
        for key in (
            "uplink_dtype",
            "downlink_dtype",
            "federated_subchannels",
            "federated_total_power_dbm",
        ):
            yield f"{section}.{key}", f"{section}.client_halves is averaged"


def kept_at_clients(section: str, options: Any) -> str | None:
    """Which options keep halves at the clients, so that the server cannot evaluate them where
    clients are on other machines; None where they are averaged in every round."""
    if options.client_halves == OWN:
        return f"{section}.client_halves is own"
    return f"{section}.aggregate_every is above 1" if options.aggregate_every > 1 else None


def _link(subchannels: int, total_power_dbm: float | None) -> LinkSettings:
    if total_power_dbm is None:
        return LinkSettings(subchannels)
    return LinkSettings(subchannels, float(dbm_to_watts(total_power_dbm)))
