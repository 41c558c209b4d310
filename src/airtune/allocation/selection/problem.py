"""Which clients take part: the problem, its plans, their check.

    most weight:     max sum_{n in A} w_n   s.t.  sum_{n in A} b_n(tau) <= B   at a deadline tau,
    least deadline:  min tau                s.t.  the same, and sum_{n in A} w_n >= share,

with `b_n(tau) = r_n^-1(S_n / (tau - f_n))`, the least bandwidth with which client n is in time:
f_n are its delays before the upload, its computing included, S_n its payload. In the manner of
FedCS (Nishio and Yonetani, arXiv 1804.08333), which takes clients greedily, one upload after
another; the band divided among all at once, the search and the bound are ours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from airtune.allocation.bandwidth import Uploads, require_each
from airtune.allocation.solve import Check
from airtune.errors import InputError
from airtune.quantities import FloatArray
from airtune.wireless.rate import Links

BoolArray = NDArray[np.bool_]
ROUNDING = 1e-12
"""Relative: sums of weights and of bandwidths are compared up to this."""


@dataclass(frozen=True)
class SelectionProblem:
    """The module's problem: exactly one of `deadline_s` and `weight_share` is given.

    Args:
        links: rates [client].
        bandwidth_hz: the whole band, > 0.
        fixed_delay_s: before a client's upload, its computing included [client], >= 0.
        payload_bits: its update [client], >= 0.
        weight: what a client counts [client], >= 0; divided by its sum.
        deadline_s: on the round.
        weight_share: of all clients' weight that has to take part, in (0, 1].
        names: of the clients, for messages.

    Raises:
        InputError: a value outside these ranges, named by client.
    """

    links: Links
    bandwidth_hz: float
    fixed_delay_s: FloatArray
    payload_bits: FloatArray
    weight: FloatArray
    deadline_s: float | None = None
    weight_share: float | None = None
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        uploads = self.uploads
        weight = np.broadcast_to(np.asarray(self.weight, dtype=np.float64), (len(self.links),))
        require_each("weight", weight, np.isfinite(weight) & (weight >= 0), self.names)
        if not weight.max() > 0:
            raise InputError("weight", "0 for every client", "above 0 for at least one client")
        # Of the largest first, since a sum may overflow.
        relative = weight / weight.max()
        object.__setattr__(self, "weight", relative / relative.sum())
        object.__setattr__(self, "fixed_delay_s", uploads.fixed_delay_s)
        object.__setattr__(self, "payload_bits", uploads.payload_bits)
        if (self.deadline_s is None) == (self.weight_share is None):
            given = "both given" if self.deadline_s is not None else "left out"
            raise InputError(
                "deadline_s and weight_share",
                given,
                "one of the two",
                "give deadline_s for the most weight within it, or weight_share for the least "
                "deadline",
            )
        if self.deadline_s is not None and not 0 < self.deadline_s < math.inf:
            raise InputError("deadline_s", self.deadline_s, "a finite number above 0")
        if self.weight_share is not None and not 0 < self.weight_share <= 1:
            raise InputError("weight_share", self.weight_share, "a number above 0 and of at most 1")

    def __len__(self) -> int:
        return len(self.links)

    @property
    def uploads(self) -> Uploads:
        """Links, payloads and delays, checked."""
        return Uploads(
            self.links, self.payload_bits, self.fixed_delay_s, self.bandwidth_hz, self.names
        )

    @cached_property
    def alone_s(self) -> FloatArray:
        """When each client ends with the whole band [client]; inf without a signal."""
        return self.uploads.finish_s(np.full(len(self), self.bandwidth_hz))

    def part(self, chosen: BoolArray) -> Uploads:
        """The uploads of some of the clients."""
        return Uploads(
            self.links.select(chosen),
            self.payload_bits[chosen],
            self.fixed_delay_s[chosen],
            self.bandwidth_hz,
            [self.names[int(index)] for index in np.flatnonzero(chosen)] if len(self.names) else (),
        )

    def need_hz(self, deadline_s: float) -> FloatArray:
        """The least bandwidth of each client for a deadline [client]; inf beyond the whole band."""
        in_time = self.alone_s <= deadline_s
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            rate = self.payload_bits / (deadline_s - self.fixed_delay_s)
            rate = np.where(in_time & (self.payload_bits > 0), rate, 0.0)
            # Near its limit a rate hardly grows with the bandwidth: the whole band was enough.
            need = np.minimum(self.links.bandwidth_for(rate), self.bandwidth_hz)
        return np.where(in_time, need, np.inf)


@dataclass(frozen=True)
class SelectionPlan:
    """Who takes part [client], each one's bandwidth (0 for others), and when the last one ends.

    `weight_share` is that of who takes part, of all clients' weight.
    """

    chosen: BoolArray
    bandwidth_hz: FloatArray
    latency_s: float
    weight_share: float


def check_selection(problem: SelectionProblem, plan: SelectionPlan) -> Check:
    """Recompute from the rates alone that who takes part is in time and within the band."""
    share, chosen = plan.bandwidth_hz, plan.chosen
    finish = problem.uploads.finish_s(share)[chosen]
    last = float(finish.max()) if len(finish) else math.inf
    weight = float(problem.weight[chosen].sum())
    negative = float(np.max(-share, initial=0.0))
    unused = float(np.abs(share[~chosen]).sum())
    return Check(
        {
            "bandwidth": float(share.sum()) / problem.bandwidth_hz - 1.0,
            "bandwidth of each client": negative / problem.bandwidth_hz,
            "bandwidth of who stays out": unused / problem.bandwidth_hz,
            "deadline": last / (problem.deadline_s or math.inf) - 1.0 if last > 0 else 0.0,
            "latency": last / plan.latency_s - 1.0 if plan.latency_s > 0 else last,
            "weight": plan.weight_share / weight - 1.0 if weight > 0 else plan.weight_share,
            "weight that takes part": (problem.weight_share or 0.0) / max(weight, 1e-300) - 1.0,
        }
    )
