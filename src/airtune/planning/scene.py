"""What every method derives its numbers from: a model, a cell with devices, one local step.

Keys, defaults and draws are those of `airtune run`, so a problem and an experiment with the same
sections and seed see the same devices, powers and channels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import BaseModel

from airtune.cost.device import DeviceProfile, rates_notice
from airtune.cost.latency import TransferModel, multicast_delay
from airtune.errors import InputError
from airtune.quantities import (
    FloatArray,
    dbm_to_watts,
    format_quantity,
    linear_to_db,
    watts_to_dbm,
)
from airtune.wireless.cell import CellSettings
from airtune.wireless.channel import open_channel
from airtune.wireless.state import ChannelState
from airtune.workload.adapter_shape import AdapterShape
from airtune.workload.architecture import Decoder
from airtune.workload.precision import Precision
from airtune.workload.step import Step
from airtune.workload.transformer import Workload, workload

RANK = 8
"""Default of an experiment."""
SMALLER = "use a smaller batch, fewer tokens, a smaller model or dtype, or larger devices"
"""What helps where memory does not suffice."""


@dataclass(frozen=True)
class CellProblem:
    """A problem in explicit numbers.

    Attributes:
        numbers: what the method's reader takes, and `airtune plan --write-problem` writes.
        origin: sentences about the source of the numbers.
        notices: sentences that a user should read before trusting them.
    """

    numbers: dict[str, Any]
    origin: tuple[str, ...]
    notices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scene:
    """A cell full of devices that fine-tune a model; arrays have the axis [client].

    `rank` is None where `adapter.rank` is absent. `local_steps` optimiser steps of the shape `step`
    make a round. `examples` weighs the clients; None: all alike. `round_index` None: the mean of
    the small-scale fading.
    """

    method: str
    model: str
    architecture: Decoder
    rank: int | None
    targets: str | tuple[str, ...]
    step: Step
    local_steps: int
    precision: Precision
    uplink_dtype: str
    cell: CellSettings
    devices: tuple[DeviceProfile, ...]
    examples: FloatArray | None
    round_index: int | None
    seed: int

    @property
    def adapter(self) -> AdapterShape:
        """The adapter that every client trains."""
        return AdapterShape(RANK if self.rank is None else self.rank, self.targets)

    @property
    def names(self) -> list[str]:
        """A number, as in the records, and a device, such as `3 (pixel-9)`."""
        return [f"{client} ({device.name})" for client, device in enumerate(self.devices)]

    @property
    def flop_rate(self) -> FloatArray:
        """Sustained training rates, FLOP/s."""
        return np.array([device.training_flop_rate for device in self.devices])

    @property
    def tx_power_dbm(self) -> FloatArray:
        """The cell's limit or the device's own power, whichever is less."""
        limit = self.cell.tx_power_dbm
        return np.array([min(device.tx_power_dbm, limit) for device in self.devices])

    @cached_property
    def state(self) -> ChannelState:
        """The channel as estimated; the first use may import Sionna."""
        channel = open_channel(self.cell, len(self.devices), self.seed)
        if self.round_index is None:
            state = channel.observe(0).estimate.without_fading()
        else:
            state = channel.observe(self.round_index).estimate
        return state

    def noise(self) -> dict[str, float | str]:
        """The top-level keys of noise density and rate model; none with measured efficiencies.

        The density contains the noise figure and the interference margin, and the implementation
        margin m: `b log2(1 + p g / (m N0 b))` is Shannon's rate at the noise m N0, and a table is
        read at the ratio `p g / (m N0 b)` as well.
        """
        if self.state.is_measured:
            return {}
        budget = self.state.budget
        noise_w_hz = budget.uplink_noise_psd * budget.margin
        model = {} if budget.rate_model == "shannon" else {"rate_model": budget.rate_model}
        return {"noise_psd_dbm_hz": _decibels(watts_to_dbm(noise_w_hz)), **model}

    def links(self) -> list[dict[str, float]]:
        """The keys of each client's uplink."""
        if self.state.is_measured:
            efficiency = self.state.spectral_efficiency.tolist()
            return [{"spectral_efficiency_bps_hz": value} for value in efficiency]
        pairs = zip(self.tx_power_dbm, self.gain_db(), strict=True)
        return [{"tx_power_dbm": float(power), "gain_db": gain} for power, gain in pairs]

    def gain_db(self) -> list[float]:
        """Gains of the whole link; -inf for a client without signal."""
        return [_decibels(value) for value in linear_to_db(self.state.gain)]

    def downlink_rate_bps(self) -> FloatArray:
        """Rates over the whole downlink band."""
        band = np.full(len(self.devices), self.cell.bandwidth_hz)
        return self.state.downlink().rate(band)

    def equal_share_rates_bps(self) -> tuple[FloatArray, FloatArray]:
        """Rates up and down at equal shares of the band, and of the downlink's power as well.

        Raises InputError for a client without a signal.
        """
        count = len(self.devices)
        power_w = dbm_to_watts(self.tx_power_dbm)
        up_bps = self.state.uplink(power_w).rate(np.full(count, self.cell.bandwidth_hz / count))
        for name, rate in zip(self.names, up_bps, strict=True):
            if not rate > 0:
                raise InputError(
                    f"client {name}", "without a signal", "one that can send", "move it"
                )
        return up_bps, self.downlink_rate_bps() / count

    @property
    def transfer(self) -> TransferModel:
        """Protocol heads and round trip of every transfer."""
        return TransferModel.of(self.cell)

    def air_bits(self, bits: float) -> float:
        """Bits on the air of such a payload; a whole number stays one without protocol heads."""
        return bits if self.cell.overhead_share == 0 else float(self.transfer.air_bits(bits))

    def broadcast_s(self, bits: float) -> float:
        """One multicast over the whole downlink band, at the worst rate among those it reaches.

        A client without signal does not delay the others: the solver names it.
        """
        rates = self.downlink_rate_bps()
        reached = rates[rates > 0]
        return float(multicast_delay(bits, reached, self.transfer)[0]) if len(reached) else 0.0

    def weights(self) -> list[dict[str, float]]:
        """The key of each client's weight, the examples that it holds; none where all are alike."""
        if self.examples is None:
            return [{} for _ in self.devices]
        return [{"weight": value} for value in self.examples.tolist()]

    def whole_step(self) -> Workload:
        """The work of one unpruned step, or InputError for a device that cannot hold it."""
        work = workload(self.architecture, self.adapter, self.step, precision=self.precision)
        self.require_memory(work.memory_bytes, "for a step", SMALLER)
        return work

    def require_memory(self, needed_bytes: float, what: str, remedy: str) -> None:
        """Refuse, by name, the first client whose device cannot hold so much."""
        for name, device in zip(self.names, self.devices, strict=True):
            if needed_bytes > device.usable_memory_bytes:
                raise InputError(
                    f"memory of client {name}",
                    f"{format_quantity(device.usable_memory_bytes, 'byte')} usable",
                    f"at least {format_quantity(needed_bytes, 'byte')}, what {self.model} needs "
                    f"{what}",
                    remedy,
                )

    def transfer_origin(self, beginning: str) -> tuple[str, ...]:
        """Sentences on what the cell adds to payloads; `beginning` is that of the round trip's.

        None with the defaults.
        """
        share, trip_s = self.cell.overhead_share, self.cell.round_trip_s
        heads = f"Bits are those on the air, {100 * share:.4g} % above the payload."
        trip = f"{beginning} round trip of {trip_s:g} s."
        return (heads,) * (share > 0) + (trip,) * (trip_s > 0)

    def origin(self, adapter: str) -> str:
        """One sentence on where the numbers of a problem come from."""
        mean = self.round_index is None and self.cell.is_drawn
        when = "the mean of the fading" if mean else f"round {self.round_index or 0}"
        targets = self.targets if isinstance(self.targets, str) else ", ".join(self.targets)
        steps = f"{self.local_steps} step{'s' * (self.local_steps > 1)}"
        return (
            f"From {self.model}, LoRA of {adapter} on {targets}, {steps} of "
            f"{self.step.batch_size} x {self.step.tokens} tokens; the channel is that of {when}, "
            f"seed {self.seed}.{self._rates()}"
        )

    def _rates(self) -> str:
        """What rates are planned with where the base is not fp32."""
        dtype = self.precision.dtype
        told = rates_notice(self.devices, dtype) if dtype != "fp32" else ""
        return told and f" {told}"


def given(mapping: Mapping[str, Any], section: type[BaseModel]) -> dict[str, Any]:
    """The keys of this section that the problem has, with their values as they stand there."""
    keys = section.model_fields
    return {key: mapping[key] for key in keys if mapping.get(key) is not None}


def of_one_band(
    scene: Scene,
    mapping: Mapping[str, Any],
    section: type[BaseModel],
    *columns: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """A problem whose clients share one band, with the keys of `section` that it has, and the
    clients' columns."""
    return {
        "method": scene.method,
        "bandwidth_hz": scene.cell.bandwidth_hz,
        **scene.noise(),
        **given(mapping, section),
        "clients": per_client(scene, *columns),
    }


def per_client(scene: Scene, *columns: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One mapping per client: its name, then the keys of each column."""
    rows: list[dict[str, Any]] = [{"name": name} for name in scene.names]
    for column in columns:
        for row, keys in zip(rows, column, strict=True):
            row.update(keys)
    return rows


def _decibels(value: Any) -> float:
    """Rounded to 1e-9 dB, so that -169 does not come back from watts as -169.00000000000003."""
    return round(float(value), 9)
