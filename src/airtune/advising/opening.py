"""The server side of an experiment, without the model's weights: what plans and charges its rounds.

The same steps as `experiment.world.build_world`, from the same functions. Sizes come from the
model's config, row lengths from the tokenised rows. What several experiments share (rows, channels,
the work of a model) is made once.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar, final

import numpy as np

from airtune.config.experiment import ExperimentConfig
from airtune.experiment.clients import compose_clients
from airtune.experiment.engine import EngineChoice
from airtune.experiment.loading import (
    LoadedModel,
    LoadedServer,
    load_model,
    load_server,
    prepared,
)
from airtune.experiment.shards import EncodedRows, Shards, divided, encoded_rows
from airtune.experiment.trained import precision_notices
from airtune.experiment.unused import replaced_notice
from airtune.experiment.world import cost_model, server_side, settled_planner
from airtune.federated.checks.feasibility import refuse_small_devices
from airtune.federated.context import RoundContext
from airtune.tuning.base_model import BaseModel
from airtune.tuning.unweighted import load_unweighted
from airtune.wireless.attenuation import Clients
from airtune.wireless.channel import Channel, open_channel
from airtune.wireless.state import Observation

Made = TypeVar("Made")
ENGINE = EngineChoice("sequential")
"""No client is ever trained here."""


@final
class RememberedFacts:
    """`ClientFacts` of shards, each computed once; methods and changes ask for the same ones."""

    def __init__(self, shards: Shards) -> None:
        self.shards = shards
        self.rows = shards.rows
        self.longest_step = cache(shards.longest_step)
        self.step_shapes = cache(shards.step_shapes)
        self.cut_shapes = cache(shards.cut_shapes)


@dataclass(frozen=True)
class Loaded:
    """What an experiment's files hold: devices, channel, the model's shape, the clients' rows."""

    server: LoadedServer
    model: LoadedModel
    rows: EncodedRows
    facts: RememberedFacts

    @property
    def notices(self) -> list[str]:
        """Sentences on the data and the model, as a run says them."""
        config = self.model.config
        return [
            *precision_notices(config, self.server.devices),
            *replaced_notice(config),
            *self.rows.tests.notices,
            *self.facts.shards.notices,
        ]


@dataclass(frozen=True)
class Opened:
    """An experiment whose rounds can be planned and charged; `notices` are the planner's."""

    config: ExperimentConfig
    context: RoundContext
    notices: tuple[str, ...] = ()

    def refuse_small_devices(self) -> None:
        """Raise InputError for a device that cannot hold the least that may be asked of it."""
        refuse_small_devices(self.context.method, self.context.costs.in_round(0), self.context.rank)

    def settled(self) -> "Opened":
        """With what the planner derives from the first channels."""
        settled = settled_planner(self.context)
        method = replace(self.context.method, planner=settled.planner)
        return replace(self, context=replace(self.context, method=method), notices=settled.notices)


class Opener:
    """Opens experiments; what two of them share is loaded once.

    `draws` rounds of each will be looked at.
    """

    def __init__(self, draws: int = 0) -> None:
        self._draws = draws
        self._known: dict[Hashable, Any] = {}

    def load(self, config: ExperimentConfig) -> Loaded:
        """Files and checks that need no method. Raises what a run of the experiment raises."""
        config = prepared(config)
        server = self._server(config)
        model = load_model(config, read=self._read)
        config = model.config
        rows = self._rows(config, model)
        key = ("facts", *_rows_key(config), config.clients.count, repr(config.data.partition))
        training = config.training.batch_size, config.training.local_steps
        facts = self._once((*key, *training), lambda: RememberedFacts(divided(config, rows)))
        return Loaded(server, model, rows, facts)

    def compose(self, loaded: Loaded) -> Opened:
        """The method on what was loaded; the planner's options are not derived yet."""
        config, shards = loaded.model.config, loaded.facts.shards
        side = compose_clients(
            config,
            loaded.model.base,
            loaded.server.devices,
            shards.batches,
            loaded.rows.tests.batches,
        )
        costs = cost_model(loaded.server, loaded.model, side, loaded.facts)
        work = costs.work
        key = "work", work.architecture, work.adapter, work.precision
        costs = replace(costs, work=self._once(key, lambda: work))
        context = server_side(loaded.server, loaded.model, side, costs, ENGINE)
        return Opened(config, context)

    def _once(self, key: Hashable, make: Callable[[], Made]) -> Made:
        if key not in self._known:
            self._known[key] = make()
        made: Made = self._known[key]
        return made

    def _server(self, config: ExperimentConfig) -> LoadedServer:
        cell, count, seed = config.cell, config.clients.count, config.seed
        key = "server", repr(config.clients), repr(cell), config.charge_as, seed, config.rounds
        server = self._once(key, lambda: load_server(config))
        channel = self._once(
            ("channel", repr(cell), count, seed),
            lambda: remembered(server.measured or self._drawn(config)),
        )
        return replace(server, measured=channel)

    def _drawn(self, config: ExperimentConfig) -> Channel:
        """A drawn channel; those that differ in band and powers alone share places and rays."""
        cell, count, seed = config.cell, config.clients.count, config.seed
        same = dict.fromkeys(("bandwidth_hz", "tx_power_dbm", "bs_tx_power_dbm"))
        key = "rays", repr(cell.model_copy(update=same)), count, seed
        rays: dict[Hashable, Any] = self._once(key, dict)
        # Of a cohort every round has other clients, which are drawn as they come.
        until = self._draws if config.cohort.size is None else 0
        return open_channel(cell, count, seed, rays, until)

    def _read(self, name: str, dtype: str, device: str, **options: Any) -> BaseModel:
        key = "model", name, dtype, *sorted(options.items())
        return self._once(key, lambda: load_unweighted(name, dtype, device, **options))

    def _rows(self, config: ExperimentConfig, model: LoadedModel) -> EncodedRows:
        limits = model.architecture.max_tokens, model.base.embeddings
        return self._once(
            ("rows", *_rows_key(config)),
            lambda: encoded_rows(config, model.base.tokenizer, *limits),
        )


def _rows_key(config: ExperimentConfig) -> tuple[Hashable, ...]:
    """What the tokenised rows depend on."""
    data = config.data.model_copy(update={"partition": None})
    return config.model, repr(data), config.seed


def remembered(channel: Channel) -> Channel:
    """The same channel; what was observed once is not drawn again.

    Some clients' draws do not depend on which others are drawn, so a round of which all clients
    were observed answers for any of them.
    """
    everyone = np.arange(channel.clients, dtype=np.int64).tobytes()
    seen: dict[tuple[int, bytes | None], Observation] = {}

    def observe(round_index: int, clients: Clients) -> Observation:
        wanted = None if clients is None else np.asarray(clients, dtype=np.int64).tobytes()
        key = round_index, wanted
        if key not in seen and (round_index, everyone) in seen:
            return seen[round_index, everyone]
        if key not in seen:
            seen[key] = channel.observe(round_index, clients)
        return seen[key]

    return Channel(channel.clients, observe, samples=channel.samples)
