"""The channel of a run: every round's truth, and the planner's estimate of it."""

from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

from airtune.errors import InputError
from airtune.quantities import db_to_linear
from airtune.seeds import generator
from airtune.user_parts import name_and_options
from airtune.wireless import propagation, tr38901
from airtune.wireless.attenuation import (
    BlockFading,
    Clients,
    NoFading,
    doppler_hz,
    jakes_correlation,
)
from airtune.wireless.cell import SCENARIOS, CellSettings
from airtune.wireless.channel_model import ChannelModel, ModelledCell, UserCell
from airtune.wireless.mobility import RandomWaypoint
from airtune.wireless.replay import Recording, read_recording, write_recording
from airtune.wireless.state import ChannelState, Observation
from airtune.wireless.traced_cell import TracedCell

__all__ = [
    "Channel",
    "ChannelModel",
    "ChannelState",
    "ModelledCell",
    "Observation",
    "open_channel",
]

Truth = Callable[[int, Clients], ChannelState]
"""The channel of a round, drawn at least for some clients (None: all)."""


class Channel:
    """The links of one cell, round by round.

    `observe(t)` depends on the settings, the seed and t alone, not on earlier calls, so a
    resumed run has the same channel.
    """

    def __init__(
        self,
        clients: int,
        observe: Callable[[int, Clients], Observation],
        recording: Recording | None = None,
        samples: int | None = None,
    ) -> None:
        """Made by `open_channel`; `observe` maps a round, and the clients whose channel is needed,
        to the truth and the estimate. `recording` is the source of both, if it is a file; `samples`
        rounds show all that a recording or trace holds (None: drawn)."""
        self.clients, self.samples = clients, samples
        self._observe = observe
        self._recording = recording

    def observe(self, round_index: int, clients: Clients = None) -> Observation:
        """The truth of a round, and the planner's estimate.

        Where sampling small-scale fading is expensive (TR 38.901), it is drawn for `clients`
        [number] alone, and the gain of the others is NaN; None draws all. The draw of a client does
        not depend on which others are drawn. Raises InputError where a recording or trace does not
        hold the round.
        """
        if round_index < 0:
            raise InputError("round", round_index, "a whole number >= 0")
        return self._observe(round_index, clients)

    def require_rounds(self, count: int) -> None:
        """Raise InputError where a recording holds fewer than the rounds 0 to `count` - 1."""
        if self._recording is not None:
            self._recording.require_rounds(count)

    def export(self, path: Path | str, rounds: Iterable[int]) -> None:
        """Write rounds to `path` (.csv or .npz), for `cell.replay` and for other programs."""
        chosen = sorted(set(rounds))
        write_recording(Path(path), chosen, [self.observe(index) for index in chosen])


def open_channel(
    settings: CellSettings,
    clients: int,
    seed: int,
    kept: propagation.Kept | None = None,
    until: int = 0,
) -> Channel:
    """The channel that the settings describe: a recording, a measured trace, a user's model, or a
    drawn cell.

    Adding clients at the end changes no other client's channel. The first use of TR 38.901 imports
    Sionna, which takes one to two seconds.

    Args:
        settings: the checked `cell` section.
        clients: number of clients, at least 1.
        seed: the run's seed.
        kept: where places and rays are kept, for further channels of the same clients, cell and
            seed whose band or powers are others; None keeps nothing.
        until: all rounds before this one will be observed, so what they share is drawn together.

    Raises:
        InputError: unreadable files, too few clients in them, and the like; names the field.
    """
    if clients < 1:
        raise InputError("clients.count", clients, "at least 1")
    if settings.replay is not None:
        recording = read_recording(Path(settings.replay), clients)
        last = max(recording.observations)
        return Channel(clients, lambda index, _: recording.observe(index), recording, last + 1)
    if settings.trace is not None:
        traced = TracedCell(settings, clients, seed)
        seen = _PlannerView(traced.state, settings, seed).observe
        return Channel(clients, seen, samples=traced.samples)
    if settings.channel is not None:
        truth: Truth = UserCell(settings, clients, seed).state
    else:
        truth = DrawnCell(settings, clients, seed, kept, until).state
    return Channel(clients, _PlannerView(truth, settings, seed).observe)


def channel_source(settings: CellSettings) -> str:
    """Where the channels of a cell come from, for a run's records: the model and its version."""
    if settings.replay is not None:
        return "a recording"
    if settings.trace is not None:
        return "measured throughput"
    if settings.channel is not None:
        return f"the channel model {name_and_options(settings.channel, 'cell.channel')[0]}"
    if settings.path_loss not in SCENARIOS:
        return f"{settings.path_loss} path loss"
    computed_by = f"sionna-no-rt {version('sionna-no-rt')}"
    return f"3GPP TR 38.901 V{tr38901.SPECIFICATION} {settings.path_loss}, by {computed_by}"


class DrawnCell:
    """Truth by path loss, shadowing and fading over a random-waypoint walk."""

    def __init__(
        self,
        settings: CellSettings,
        clients: int,
        seed: int,
        kept: propagation.Kept | None = None,
        until: int = 0,
    ) -> None:
        self._settings, self._clients, self._kept = settings, clients, kept
        self._until = until
        self._budget = settings.link_budget()
        step_m = settings.speed_m_s * settings.round_interval_s
        ring = settings.radius_m, settings.min_distance_m
        stationary = settings.walk_start == "stationary"
        self._walk = RandomWaypoint(seed, clients, *ring, step_m, stationary=stationary)
        self._place, self._fading = self._propagation(seed)

    def state(self, round_index: int, clients: Clients = None) -> ChannelState:
        """The channel in a round, with the fading of `clients` (None: all); else NaN.

        `gain = 10^((G - PL - X) / 10) |h|^2` with the antenna gains G, path loss PL and
        shadowing X in dB and the fading gain |h|^2.
        """
        cell, position = self._settings, self._walk.position(round_index)
        attenuation = self._place.at(position)
        fading_gain = self._fading.power_gain(round_index, clients)
        antennas_db = cell.antenna_gain_dbi + cell.bs_antenna_gain_dbi
        link_db = antennas_db - attenuation.path_loss_db - attenuation.shadowing_db
        return ChannelState(
            round_index=round_index,
            position_m=position,
            speed_m_s=np.full(self._clients, float(cell.speed_m_s)),
            line_of_sight=attenuation.line_of_sight,
            path_loss_db=attenuation.path_loss_db,
            shadowing_db=attenuation.shadowing_db,
            fading_gain=fading_gain,
            gain=db_to_linear(link_db) * fading_gain,
            spectral_efficiency=np.full(self._clients, np.nan),
            budget=self._budget,
        )

    def _propagation(self, seed: int) -> tuple[propagation.LargeScale, propagation.SmallScale]:
        cell = self._settings
        if cell.path_loss not in SCENARIOS:
            return propagation.DistanceAttenuation(cell, seed), self._block_fading(seed)
        scenario = tr38901.Scenario(
            cell.path_loss, cell.carrier_hz, cell.base_station_height_m, cell.client_height_m
        )
        place = propagation.ScenarioAttenuation(scenario, cell, seed, self._kept)
        if cell.small_scale != "3gpp":
            return place, self._block_fading(seed)
        rays = propagation.RayFading(
            scenario, self._walk, place, cell, seed, self._kept, self._until
        )
        return place, rays

    def _block_fading(self, seed: int) -> propagation.SmallScale:
        cell = self._settings
        if cell.small_scale == "none":
            return NoFading(self._clients)
        correlation = cell.fading_correlation
        if correlation is None:
            doppler = doppler_hz(cell.speed_m_s, cell.carrier_hz)
            correlation = jakes_correlation(doppler, cell.round_interval_s)
        rician_k = float(db_to_linear(cell.rician_k_db)) if cell.small_scale == "rician" else 0.0
        return BlockFading(seed, self._clients, correlation, rician_k)


class _PlannerView:
    """The planner's estimate: the truth of some rounds ago, with a log-normal error.

    `gain_known(t) = gain(t - delay) 10^(e / 10)`, e normal with standard deviation `csi_error_db`,
    independent for each client and round. In the first rounds the oldest truth there is, round 0.
    """

    def __init__(self, truth: Truth, settings: CellSettings, seed: int) -> None:
        self._delay, self._seed = int(settings.csi_delay_rounds), seed
        self._error_db = settings.csi_error_db
        self._draw = truth
        self._known = lru_cache(maxsize=min(self._delay, 1000) + 2)(self._state)

    def _state(self, round_index: int, wanted: bytes | None) -> ChannelState:
        clients = None if wanted is None else np.frombuffer(wanted, dtype=np.int64)
        return self._draw(round_index, clients)

    def observe(self, round_index: int, clients: Clients) -> Observation:
        wanted = None if clients is None else np.asarray(clients, dtype=np.int64).tobytes()
        truth = self._known(round_index, wanted)
        earlier = max(round_index - self._delay, 0)
        estimate = self._known(earlier, wanted) if self._delay else truth
        if self._error_db:
            draws = generator(self._seed, "csi error", round_index).standard_normal(len(truth))
            estimate = estimate.scaled(db_to_linear(self._error_db * draws))
        return Observation(truth, estimate)
