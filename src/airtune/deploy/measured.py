"""The channel of a deployment whose rates are measured instead of modelled (`deploy.rates`).

A client's spectral efficiency is its goodput over the bandwidth that it had. It starts from a probe
when the client joins, over the whole band; after each round in which the client answered

    eta_n(t + 1) = (1 - w) eta_n(t) + w r_n(t) / b_n(t),        w = 1/2        [bit/s/Hz]

with the goodput r_n of its upload and its planned share b_n of the band. Clients pace their uploads
to the planned rate with a little headroom, so that an allocation is real on a shared link and a
link that got better is noticed. A client that does not answer keeps its value, and its age grows.
What every round is planned with stands in `rates.jsonl`, so that a run goes on to the same plans.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np

from airtune.errors import AirtuneError
from airtune.files import write_text_atomic
from airtune.quantities import FloatArray
from airtune.wireless.cell import CellSettings
from airtune.wireless.channel import Channel
from airtune.wireless.state import ChannelState, Observation

WEIGHT = 0.5
HEADROOM = 1.05
"""Over the planned rate, so that a better link can be measured."""
FILE = "rates.jsonl"
LEAST = 1e-6
"""An efficiency is never exactly 0: the client would not be tried again [bit/s/Hz]."""


@dataclass(frozen=True)
class Measured:
    """What a round is planned with, each [client]: efficiencies of both directions [bit/s/Hz], and
    the rounds since each was measured."""

    uplink: FloatArray
    downlink: FloatArray
    age: FloatArray


@final
@dataclass
class MeasuredCell:
    """The channel from measurements; `rows` [round] are those known so far."""

    settings: CellSettings
    path: Path
    rows: list[Measured] = field(default_factory=list)

    @classmethod
    def begin(
        cls,
        settings: CellSettings,
        path: Path,
        uplink_bps: Sequence[float],
        downlink_bps: Sequence[float],
    ) -> "MeasuredCell":
        """From the goodput of each client over the whole band."""
        width = settings.bandwidth_hz
        first = Measured(
            np.maximum(np.array(uplink_bps) / width, LEAST),
            np.maximum(np.array(downlink_bps) / width, LEAST),
            np.zeros(len(uplink_bps)),
        )
        return cls(settings, path, [first])

    @classmethod
    def read(cls, settings: CellSettings, path: Path, rounds: int) -> "MeasuredCell":
        """As a run left it that has so many rounds; AirtuneError where that is lost."""
        found = cls(settings, path)
        try:
            for line in path.read_text().splitlines()[: rounds + 1]:
                row = json.loads(line)
                found.rows.append(
                    Measured(
                        *(np.array(row[name], float) for name in ("uplink", "downlink", "age"))
                    )
                )
        except (OSError, ValueError, KeyError, TypeError):
            raise AirtuneError(f"{path} is damaged or missing: restore it.") from None
        if len(found.rows) != rounds + 1:
            raise AirtuneError(f"{path} ends before round {rounds + 1}: restore it.")
        return found

    def channel(self) -> Channel:
        """The links of every round; those of rounds to come are the newest that are known."""
        return Channel(len(self.rows[0].uplink), self._observe)

    def after_round(
        self, round_index: int, bandwidth_hz: Mapping[int, float], rate_bps: Mapping[int, float]
    ) -> None:
        """Note the goodput of a round's uploads, and write what the next round is planned with."""
        now = self.rows[round_index]
        uplink, age = now.uplink.copy(), now.age + 1
        for client, rate in rate_bps.items():
            if bandwidth_hz.get(client, 0.0) > 0:
                fresh = max(rate / bandwidth_hz[client], LEAST)
                uplink[client] = (1 - WEIGHT) * uplink[client] + WEIGHT * fresh
                age[client] = 0
        self.rows[round_index + 1 :] = [Measured(uplink, now.downlink, age)]
        self.write()

    def write(self) -> None:
        """Replace the file by what is known."""
        lines = [json.dumps(_plain(number, row)) for number, row in enumerate(self.rows)]
        write_text_atomic(self.path, "".join(f"{line}\n" for line in lines))

    def _observe(self, round_index: int, _: object) -> Observation:
        row = self.rows[min(round_index, len(self.rows) - 1)]
        unknown = np.full(len(row.uplink), np.nan)
        state = ChannelState(
            round_index=round_index,
            position_m=np.full((len(row.uplink), 2), np.nan),
            speed_m_s=unknown,
            line_of_sight=None,
            path_loss_db=unknown,
            shadowing_db=unknown,
            fading_gain=unknown,
            gain=unknown,
            spectral_efficiency=row.uplink,
            budget=self.settings.link_budget(),
            downlink_efficiency=row.downlink,
        )
        return Observation(state, state)


def _plain(number: int, row: Measured) -> dict[str, Any]:
    return {
        "round": number + 1,
        "uplink": row.uplink.tolist(),
        "downlink": row.downlink.tolist(),
        "age": row.age.astype(int).tolist(),
    }
