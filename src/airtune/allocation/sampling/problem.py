"""Independent sampling of clients under a bandwidth that is kept on average.

Client n takes part in a round with probability q_n, independently of the others, trains and sends
k_n of r LoRA ranks, and its update counts a_n / q_n. The number of rounds to a target grows with
the mean square of such an estimate of the full update, `a0 + sum_n v_n(k_n) / q_n`, so the time is

    min  tau (a0 + sum_n v_n(k_n) / q_n)    s.t.  sum_n q_n b_n(tau, k_n) <= B,  0 < q_n <= 1

with tau the round's deadline and b_n(tau, k) = r_n^-1(bits_n(k) / (tau - fixed_n(k))) the bandwidth
with which client n keeps it. In the manner of Geng et al., arXiv 2505.23555, whose bound has its
own constants; `v_n(k) = a_n^2 G_n^2 r / k` and the solution are ours.

For fixed tau and ranks, `q_n = min(1, sqrt(v_n / (mu b_n)))` with one price mu on bandwidth. For
fixed ranks the logarithm of the time is convex in log tau: with x_n = log q_n it is
`log tau + log(a0 + sum v_n e^-x_n)` under `sum e^(x_n + log b_n) <= B`, and log b_n is convex in
log tau, for the elasticity of a Shannon rate falls with the bandwidth (that of a fixed efficiency
is 1), and -log(tau - f) is convex in log tau.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from airtune.allocation.bandwidth import (
    airtime_s,
    client_name,
    require_band,
    require_each,
)
from airtune.allocation.solve import Check
from airtune.errors import InputError
from airtune.quantities import FloatArray
from airtune.wireless.cqi import CqiLinks
from airtune.wireless.rate import Links


@dataclass(frozen=True)
class SamplingProblem:
    """Arrays have the axes [client, option], an option being a number of ranks.

    Args:
        links: rates [client].
        bandwidth_hz: what the clients of a round may take together on average, > 0.
        payload_bits: of an update, > 0.
        fixed_delay_s: before the upload starts, >= 0.
        variance: v of each option, >= 0; 0 for a client that counts nothing.
        floor: a0, >= 0.
        names: of the clients, for messages.
        ranks: of each option, for those who read the answer.

    Raises:
        InputError: a value outside these ranges, named by client.
    """

    links: Links
    bandwidth_hz: float
    payload_bits: FloatArray
    fixed_delay_s: FloatArray
    variance: FloatArray
    floor: float = 0.0
    names: Sequence[str] = ()
    ranks: Sequence[int] = (1,)

    def __post_init__(self) -> None:
        require_band(self.bandwidth_hz)
        if not 0.0 <= self.floor < np.inf:
            raise InputError("floor", self.floor, "a number of at least 0")
        for name, least in (("payload_bits", 0), ("fixed_delay_s", -1), ("variance", -1)):
            values = np.asarray(getattr(self, name), dtype=np.float64)
            values = values[:, None] if values.ndim == 1 else values
            good = np.isfinite(values) & (values > least) & (values >= 0)
            allowed = "a positive number" if least == 0 else "a number of at least 0"
            require_each(name, values.min(axis=1), good.all(axis=1), self.names, allowed)
            object.__setattr__(self, name, values)
        if self.floor + float(self.variance.sum()) == 0.0:
            raise InputError("variance", "0 for every client", "above 0 for at least one client")

    def __len__(self) -> int:
        return len(self.links)

    @property
    def options(self) -> int:
        """How many numbers of ranks a client may train."""
        return int(self.payload_bits.shape[1])

    def name(self, client: int) -> str:
        """What messages call a client."""
        return client_name(self.names, client)

    @property
    def is_smooth(self) -> bool:
        """Whether rates are concave in the bandwidth; a table of rates is not."""
        return not isinstance(self.links, CqiLinks)

    @cached_property
    def _whole_band_bps(self) -> FloatArray:
        return self.links.rate(np.full(len(self), self.bandwidth_hz))[:, None]

    def alone_s(self) -> FloatArray:
        """When each option would end with the whole band [client, option]."""
        return self.fixed_delay_s + airtime_s(self.payload_bits, self._whole_band_bps)

    def needs(self, deadline_s: float) -> tuple[FloatArray, FloatArray]:
        """b and -db/dtau of each option [client, option]; inf where the band does not suffice."""
        time_s = deadline_s - self.fixed_delay_s
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            rate = np.where(time_s > 0, self.payload_bits / time_s, np.inf)
            # The last option that just keeps the deadline with the whole band, but for rounding.
            possible = rate <= self._whole_band_bps * (1.0 + 1e-9)
            sent = np.where(possible, np.minimum(rate, self._whole_band_bps * (1.0 - 1e-15)), 0.0)
            band, fall = np.empty_like(sent), np.empty_like(sent)
            for option in range(self.options):
                column = self.links.bandwidth_for(sent[:, option])
                band[:, option] = np.minimum(column, self.bandwidth_hz)
                slope = self.links.slope(band[:, option])
                fall[:, option] = sent[:, option] / (time_s[:, option] * slope)
        return np.where(possible, band, np.inf), np.where(possible, fall, np.inf)

    def of_options(self, option: np.ndarray) -> "SamplingProblem":
        """The same with one option a client."""
        rows = np.arange(len(self))
        return SamplingProblem(
            self.links,
            self.bandwidth_hz,
            self.payload_bits[rows, option],
            self.fixed_delay_s[rows, option],
            self.variance[rows, option],
            self.floor,
            self.names,
        )


@dataclass(frozen=True)
class SamplingPlan:
    """Arrays have the axis [client].

    Attributes:
        inclusion: probability of taking part.
        option: index of the number of ranks.
        bandwidth_hz: of each client in a round in which it takes part.
        deadline_s: tau.
        price: of bandwidth, in variance per hertz; 0 where all take part.
    """

    inclusion: FloatArray
    option: np.ndarray
    bandwidth_hz: FloatArray
    deadline_s: float
    price: float

    @property
    def expected_band_hz(self) -> float:
        """`sum q b`."""
        return float((self.inclusion * self.bandwidth_hz).sum())


def expected_time(problem: SamplingProblem, plan: SamplingPlan) -> float:
    """`tau (a0 + sum v / q)`; a client that counts nothing may have q = 0."""
    chosen = problem.variance[np.arange(len(problem)), plan.option]
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = np.where(chosen > 0, chosen / plan.inclusion, 0.0)
    return plan.deadline_s * (problem.floor + float(parts.sum()))


def check_sampling(problem: SamplingProblem, plan: SamplingPlan) -> Check:
    """Recompute from the rates alone that probabilities, band and deadline are kept."""
    rows = np.arange(len(problem))
    bits = problem.payload_bits[rows, plan.option]
    rate = problem.links.rate(plan.bandwidth_hz)
    ends = problem.fixed_delay_s[rows, plan.option] + airtime_s(bits, rate)
    ends = np.where(plan.inclusion > 0, ends, 0.0)
    return Check(
        {
            "probability": float(np.max(plan.inclusion)) - 1.0,
            "probability of each client": float(np.max(-plan.inclusion)),
            "expected bandwidth": plan.expected_band_hz / problem.bandwidth_hz - 1.0,
            "bandwidth of each client": float(np.max(plan.bandwidth_hz)) / problem.bandwidth_hz
            - 1.0,
            "deadline": float(np.max(ends)) / plan.deadline_s - 1.0,
        },
        tolerance=1e-8,
    )
