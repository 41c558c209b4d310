"""Stage delays of a round: the straggler, and the stage that makes it slow.

A client receives the broadcast, computes, and uploads, one after another; a round lasts until its
last client is done. Left out: scheduling and retransmission delays, the server's own computing, and
decoding.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from airtune.errors import InfeasibleError, InputError
from airtune.quantities import FloatArray
from airtune.wireless.cell import CellSettings

STAGES = ("broadcast", "compute", "upload")
"""The stages in the order in which a client goes through them."""


TIE = 1e-6
"""Clients that finish within this share of the latency finish together."""
ROUNDING = 1e-12
"""Of the deadline: who ends later by less is in time. A plan that uses all of its time ends at the
deadline but for the rounding of its sums, to either side."""


@dataclass(frozen=True)
class StageDelays:
    """Delays of every client in every stage; arrays have the axis [client]."""

    broadcast_s: FloatArray
    compute_s: FloatArray
    upload_s: FloatArray

    @property
    def finish_s(self) -> FloatArray:
        """When each client is done, from the start of the round [client]."""
        return self.broadcast_s + self.compute_s + self.upload_s

    def by_stage(self) -> FloatArray:
        """The delays as one array [stage, client], in the order of STAGES."""
        return np.stack([self.broadcast_s, self.compute_s, self.upload_s])

    def until(self, deadline_s: float) -> "StageDelays":
        """What was spent in each stage by the deadline, at which a late client stops working."""
        ends = np.minimum(np.cumsum(self.by_stage(), axis=0), deadline_s)
        cut = np.diff(ends, axis=0, prepend=0.0)
        # A client in time spent exactly its delays, free of the rounding of sums and differences.
        return StageDelays(*np.where(missed(self.finish_s, deadline_s), cut, self.by_stage()))


@dataclass(frozen=True)
class RoundLatency:
    """How long a round lasts and why.

    `straggler` is the client that finishes last (of several together, the one that is furthest
    behind the median client in some stage), as an index; `stage` the stage in which it is
    furthest behind the median client. `late` [client] marks the updates that are discarded.
    """

    latency_s: float
    straggler: int
    stage: str
    late: NDArray[np.bool_]


def transfer_delay(bits: FloatArray, rate_bps: FloatArray) -> FloatArray:
    """bits / rate [s], elementwise: 0 where there are no bits, infinite at a rate of 0."""
    bits, rate_bps = _checked(bits, "bits"), _checked(rate_bps, "rate_bps")
    if bits.shape != rate_bps.shape:
        bits, rate_bps = np.broadcast_arrays(bits, rate_bps)
    delay = np.full(bits.shape, np.inf)
    with np.errstate(over="ignore"):
        np.divide(bits, rate_bps, out=delay, where=rate_bps > 0)
    return np.where(bits == 0, 0.0, delay)


@dataclass(frozen=True)
class TransferModel:
    """What a transfer takes besides its payload:

        delay = round_trip_s + (1 + overhead_share) payload_bits / rate   [s]

    Nothing is added where there are no bits, nor at an infinite rate, which stands for a link that
    is not charged. The round trip comes first; the sender radiates during the rest alone.

    Attributes:
        overhead_share: bits of protocol heads per payload bit, in [0, 1).
        round_trip_s: fixed time of each transfer, >= 0, s.
    """

    overhead_share: float = 0.0
    round_trip_s: float = 0.0

    @classmethod
    def of(cls, cell: CellSettings) -> "TransferModel":
        """That of a cell, whose keys have the same names."""
        return cls(cell.overhead_share, cell.round_trip_s)

    def air_bits(self, payload_bits: ArrayLike) -> FloatArray:
        """Bits on the air, heads included, elementwise."""
        return np.asarray(payload_bits, dtype=np.float64) * (1.0 + self.overhead_share)

    def air_bits_of(self, payload_bits: float) -> float:
        """`air_bits` of one payload."""
        return float(payload_bits) * (1.0 + self.overhead_share)

    def sent_bits(self, air_bits: ArrayLike) -> FloatArray:
        """Payload bits among so many on the air, elementwise; the inverse of `air_bits`."""
        return np.asarray(air_bits, dtype=np.float64) / (1.0 + self.overhead_share)

    def lead_s(self, payload_bits: ArrayLike) -> FloatArray:
        """Seconds of a transfer before its first bit, elementwise: 0 where there are no bits."""
        return np.where(np.asarray(payload_bits) > 0, self.round_trip_s, 0.0)

    def delay_s(self, payload_bits: ArrayLike, rate_bps: ArrayLike) -> FloatArray:
        """The class's formula [s], elementwise; infinite at a rate of 0."""
        charged = np.where(np.isinf(rate_bps), 0.0, self.lead_s(payload_bits))
        return charged + transfer_delay(self.air_bits(payload_bits), np.asarray(rate_bps))

    def sending_s(self, delay_s: ArrayLike) -> FloatArray:
        """Of so many seconds spent on a transfer, those in which its bits were sent."""
        return np.maximum(np.asarray(delay_s, dtype=np.float64) - self.round_trip_s, 0.0)


PAYLOAD_ALONE = TransferModel()
"""Without protocol heads and round trips."""


def multicast_delay(
    bits: float, rate_bps: FloatArray, transfer: TransferModel = PAYLOAD_ALONE
) -> FloatArray:
    """One broadcast to all, at the worst scheduled client's rate: bits / min(rate) [client].

    For planning problems; a round is charged by `federated.charging.charge`, which leaves out
    clients without a signal.
    """
    rates = np.asarray(rate_bps, dtype=np.float64)
    slowest = rates.min() if rates.size else np.inf
    delay_s = transfer.delay_s(np.asarray(bits), np.asarray(slowest))
    return np.broadcast_to(delay_s, rates.shape)


def compute_delay(flops: FloatArray, flop_rate: FloatArray) -> FloatArray:
    """Operations over sustained operations per second [s], elementwise."""
    return transfer_delay(flops, flop_rate)


def missed(finish_s: FloatArray, deadline_s: float) -> NDArray[np.bool_]:
    """Who ends after the deadline, by more than rounding, elementwise."""
    late: NDArray[np.bool_] = finish_s > deadline_s * (1.0 + ROUNDING)
    return late


def round_latency(delays: StageDelays, deadline_s: float | None = None) -> RoundLatency:
    """The end of the round: its last client, or the deadline where a client misses it.

    A late client's update is discarded and the time still charged. Raises InfeasibleError where a
    client would never finish and there is no deadline, InputError for a round without clients.
    """
    finish_s = delays.finish_s
    if finish_s.size == 0:
        raise InputError("cohort", "empty", "at least one client")
    limit_s = np.inf if deadline_s is None else deadline_s
    late = missed(finish_s, limit_s)
    straggler = straggler_of(delays.by_stage())
    latency_s = limit_s if late.any() else float(finish_s.max())
    if not np.isfinite(latency_s):
        raise InfeasibleError(
            f"The client at position {straggler} would never finish the round: give a deadline, "
            "or leave it out."
        )
    return RoundLatency(float(latency_s), straggler, slow_stage(delays, straggler), late)


def straggler_of(by_stage: FloatArray) -> int:
    """The client that finishes last [stage, client]; of a tie, the one furthest behind in a stage.

    Under an optimal division of the band all clients finish together, up to rounding. The round is
    then as long as it is because of the client that needs the others to wait for its slow stage.
    """
    finish_s = by_stage.sum(axis=0)
    last = finish_s >= finish_s.max() * (1.0 - TIE)
    return _first_of_largest(np.where(last, _behind(by_stage).max(axis=0), -np.inf), by_stage)


def _first_of_largest(values: FloatArray, by_stage: FloatArray) -> int:
    """The first index whose value is the largest up to rounding, of the size of a round."""
    size = by_stage.sum(axis=0).max()
    if not np.isfinite(size):
        return int(np.argmax(values))
    return int(np.argmax(values >= values.max() - TIE * size))


def _behind(by_stage: FloatArray) -> FloatArray:
    """Delays beyond those of the median client [stage, client]; alone, the delays themselves."""
    if by_stage.shape[1] == 1:
        return by_stage
    # Infinite medians cancel an infinite delay; such a stage delays all clients alike.
    usual = np.median(by_stage, axis=1, keepdims=True)
    return by_stage - np.where(np.isfinite(usual), usual, 0.0)


def slow_stage(delays: StageDelays, client: int) -> str:
    """The stage in which a client is furthest behind the median client; alone, its longest."""
    return STAGES[furthest_behind(delays.by_stage(), client)]


def furthest_behind(by_stage: FloatArray, client: int) -> int:
    """The stage [stage, client] in which a client is furthest behind the median client."""
    return _first_of_largest(_behind(by_stage)[:, client], by_stage)


def _checked(values: FloatArray, name: str) -> FloatArray:
    array = np.asarray(values, dtype=np.float64)
    if not (array >= 0).all():  # neither is NaN
        raise InputError(name, str(array.tolist())[:80], "numbers of at least 0")
    return array
