"""What the methods share that split the model: its depth, the servers, and the cut's codec.

And those whose client halves stay at the clients for some rounds or for all.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from airtune.config.experiment import ExperimentConfig
from airtune.errors import InputError
from airtune.federated.charging.split_costs import LinkSettings, SplitSystem
from airtune.federated.method import Exchange, Method
from airtune.federated.splitting.cut_planner import OWN, CutPlanner
from airtune.methods.bench import Bench
from airtune.methods.spec import Unused
from airtune.methods.split_recorded import OwnLosses
from airtune.quantities import dbm_to_watts
from airtune.tuning.adapter import AdapterState, initial_state, read_adapter
from airtune.tuning.split.round import SplitSettings
from airtune.tuning.split.tuner import SplitTuner
from airtune.update.cut import CutCodec
from airtune.update.halves import BroadcastHalf, Depth, HalfCodec
from airtune.update.means import HalvesMean
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


@dataclass(frozen=True)
class KeptHalves:
    """A composition whose client halves stay at their clients: for good, for a period, or not.

    `section` is that of the method, the others are its options.
    """

    section: str
    cuts: str
    split_point: int | None
    client_halves: str
    aggregate_every: int

    @property
    def planner(self) -> CutPlanner:
        """Cuts, subchannels and powers; InputError for halves that cannot be kept so."""
        cuts = self.cuts if self.split_point is None else "common"
        return CutPlanner(
            self.section, cuts, self.split_point, self.client_halves, self.aggregate_every
        )

    def compose(
        self,
        bench: Bench,
        options: Any,
        labels_at: str = "server",
        server_side: str = "shared",
        **training: Any,
    ) -> Method:
        """The method; `training` are further fields of `SplitSettings`."""
        config, model, planner = bench.config, bench.model, self.planner
        keeps = planner.keeps_own
        if keeps and self.client_halves != OWN:
            self._refuse_between_averagings(config)
        depth, system = depth_of(config, model), system_of(model, options, labels_at)
        settings = SplitSettings(server_side, labels_at, keeps, **training)
        return Method(
            self.section,
            planner,
            SplitTuner(model, system.cut, settings, depth.trained_point),
            HalfCodec(depth, options.uplink_dtype, config.seed),
            HalvesMean(),
            BroadcastHalf(
                HalfCodec(depth, options.downlink_dtype),
                known_adapter(config, model) if keeps else {},
            ),
            split=replace(system, aggregation_ratio=settings.aggregation_ratio),
            measure=own_losses if keeps else None,
            keeps_own=keeps,
        )

    def _refuse_between_averagings(self, config: ExperimentConfig) -> None:
        """InputError for what has no meaning in rounds in which halves are not averaged."""
        for key, value, allowed, why in (
            (
                "cohort.size",
                config.cohort.size,
                None,
                "a client that comes in between has no half of the period",
            ),
            (
                "server.optimizer",
                config.server.optimizer,
                "none",
                "its steps between two averagings would move halves that no client has",
            ),
        ):
            if value != allowed:
                words = f"{allowed or 'null'} with {self.section}.aggregate_every above 1"
                raise InputError(key, value, words, why)


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
