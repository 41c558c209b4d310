"""Latency and energy of a round, weighed against each other: the problem, its plans, their check.

Client n receives the broadcast and waits (`f_n`), computes at a share `s_n` of its full speed, and
sends `S_n` bits on `b_n` hertz with a share `phi_n` of its full transmit power:

    t_n = f_n + c_n / s_n + S_n / r_n(b_n, phi_n),    r_n(b, phi) = b log2(1 + phi cn0_n / b)
    E_n = (idle_n + (full_n - idle_n) s_n^3) c_n / s_n + phi_n W_n S_n / r_n

    min  lam_t tau + lam_e sum_n E_n
    s.t. t_n <= tau,  sum_n b_n <= B,  0 < s_n <= 1,  0 <= phi_n <= 1,
         tau <= deadline,  sum_n E_n <= budget,  E_n <= budget_n

`c_n` is the computing delay at full speed, `cn0_n` the carrier-to-noise-density ratio and `W_n`
what the amplifier consumes at full power. In the manner of Gao et al., arXiv 2211.00481 (weighted
latency and energy, computing and radio resources); idle power, the budgets and the solver are ours.
The cubic law of computing power is the literature's convention for dynamic voltage and frequency
scaling: phones scale in steps, and accelerators are not cubic. Below the speed
`(idle / (2 (full - idle)))^(1/3)` computing slower costs more energy, not less.

A client with a fixed spectral efficiency (a measured trace) sends at full power, since what its
rate would be at another one was not measured.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from airtune.allocation.bandwidth import airtime_s, client_name, require_band, require_each
from airtune.allocation.solve import Check
from airtune.errors import InputError
from airtune.quantities import FloatArray
from airtune.wireless.rate import LN2, FixedEfficiencyLinks, MixedLinks, ShannonLinks

EnergyLinks = ShannonLinks | FixedEfficiencyLinks | MixedLinks
_EACH = (
    "fixed_delay_s",
    "compute_s",
    "payload_bits",
    "idle_power_w",
    "full_power_w",
    "sending_power_w",
)


LONGEST_S = 1e9
"""A client's own delays, 31 years: beside longer ones, what it sends is lost in their rounding."""
_SLOWEST = 1e-6
# Without idle power the least energy is that of no speed at all.


@dataclass(frozen=True)
class EnergyProblem:
    """The module's problem; arrays have the axis [client].

    Args:
        links: rates at full transmit power.
        bandwidth_hz: the whole band, > 0.
        fixed_delay_s: before a client computes, and the upload's round trip, 0 to LONGEST_S.
        compute_s: computing at full speed, 0 to LONGEST_S.
        payload_bits: the update, >= 0.
        idle_power_w: of a device that computes infinitely slowly, >= 0.
        full_power_w: of a device that computes at full speed, >= idle_power_w.
        sending_power_w: consumed while sending at full transmit power, >= 0.
        energy_weight: lam_e, seconds per joule where time_weight is 1, >= 0.
        time_weight: lam_t, >= 0; 0 asks for the least energy and needs a deadline.
        deadline_s: on the round; inf: none.
        budget_j: on the energy of all clients together; inf: none.
        client_budget_j: on each client's energy [client]; inf: none.
        tx_power_w: radiated at full transmit power [client], for answers alone; NaN: not known.
        names: of the clients, for messages.

    Raises:
        InputError: a value outside these ranges, named by client.
    """

    links: EnergyLinks
    bandwidth_hz: float
    fixed_delay_s: FloatArray
    compute_s: FloatArray
    payload_bits: FloatArray
    idle_power_w: FloatArray
    full_power_w: FloatArray
    sending_power_w: FloatArray
    energy_weight: float = 0.0
    time_weight: float = 1.0
    deadline_s: float = np.inf
    budget_j: float = np.inf
    client_budget_j: FloatArray = field(default_factory=lambda: np.array(np.inf))
    tx_power_w: FloatArray = field(default_factory=lambda: np.array(np.nan))
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        require_band(self.bandwidth_hz)
        for name in _EACH:
            values = self._each(name)
            require_each(name, values, np.isfinite(values) & (values >= 0), self.names)
        for name in ("fixed_delay_s", "compute_s"):
            values, most = getattr(self, name), f"at most {LONGEST_S:g} s"
            require_each(name, values, values <= LONGEST_S, self.names, most)
        budgets = self._each("client_budget_j")
        require_each("client_budget_j", budgets, budgets > 0, self.names, "a number above 0")
        self._each("tx_power_w")
        power, idle = self.full_power_w, self.idle_power_w
        need = f"at least the idle power, {idle[np.argmax(power < idle)]:g} W"
        require_each("full_power_w", power, power >= idle, self.names, need)
        for name, value, good, allowed in (
            ("energy_weight", self.energy_weight, 0 <= self.energy_weight < np.inf, ">= 0"),
            ("time_weight", self.time_weight, 0 <= self.time_weight < np.inf, ">= 0"),
            ("deadline_s", self.deadline_s, self.deadline_s > 0, "above 0"),
            ("budget_j", self.budget_j, self.budget_j > 0, "above 0"),
        ):
            if not good:
                raise InputError(name, value, f"a number {allowed}")
        if self.time_weight == 0 and not (self.energy_weight > 0 and self.deadline_s < np.inf):
            raise InputError(
                "deadline_s", "none", "given where only energy counts", "give a deadline"
            )

    def __len__(self) -> int:
        return len(self.links)

    def name(self, client: int) -> str:
        """What messages call a client."""
        return client_name(self.names, client)

    @property
    def cn0_hz(self) -> FloatArray:
        """Carrier-to-noise-density ratio at full power [client], Hz; 0 for a fixed efficiency."""
        if isinstance(self.links, MixedLinks):
            return self.links.shannon.effective_hz
        if isinstance(self.links, ShannonLinks):
            return self.links.effective_hz
        return np.zeros(len(self))

    @property
    def efficiency(self) -> FloatArray:
        """Fixed spectral efficiency [client], bit/s/Hz; 0 where the rate is Shannon's."""
        if isinstance(self.links, MixedLinks):
            return self.links.fixed.spectral_efficiency_bps_hz
        if isinstance(self.links, FixedEfficiencyLinks):
            return self.links.spectral_efficiency_bps_hz
        return np.zeros(len(self))

    def cost(self, latency_s: float, energy_j: FloatArray) -> float:
        """`lam_t tau + lam_e sum E`."""
        return self.time_weight * latency_s + self.energy_weight * float(np.sum(energy_j))

    def _each(self, name: str) -> FloatArray:
        given = np.asarray(getattr(self, name), dtype=np.float64)
        values = np.broadcast_to(given, (len(self),))
        object.__setattr__(self, name, values)
        return values


@dataclass(frozen=True)
class EnergyPlan:
    """Bandwidth, shares of full CPU speed and of full transmit power [client]; what follows."""

    bandwidth_hz: FloatArray
    speed: FloatArray
    power_share: FloatArray
    latency_s: float
    energy_j: FloatArray


def computing_power_w(
    idle_power_w: FloatArray, full_power_w: FloatArray, speed: FloatArray
) -> FloatArray:
    """`idle + (full - idle) s^3` [W], elementwise."""
    return idle_power_w + (full_power_w - idle_power_w) * speed**3


def frugal_speed(idle_power_w: FloatArray, full_power_w: FloatArray) -> FloatArray:
    """The speed of least computing energy, `(idle / (2 (full - idle)))^(1/3)`, at most 1.

    Slower than this costs more energy, since the device idles for longer.

    >>> float(frugal_speed(np.array(1.0), np.array(4.0)).round(4))
    0.5503
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        speed = np.cbrt(idle_power_w / (2.0 * (full_power_w - idle_power_w)))
    return np.where(full_power_w > idle_power_w, np.minimum(speed, 1.0), 1.0)


def upload_rate_bps(
    problem: EnergyProblem, bandwidth_hz: FloatArray, power_share: FloatArray
) -> FloatArray:
    """`b log2(1 + phi cn0 / b)` [client]; of a fixed efficiency `eta b`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        snr = np.where(bandwidth_hz > 0, power_share * problem.cn0_hz / bandwidth_hz, 0.0)
    return bandwidth_hz * (np.log1p(snr) / LN2 + problem.efficiency)


def plan_of(
    problem: EnergyProblem, bandwidth_hz: FloatArray, speed: FloatArray, power_share: FloatArray
) -> EnergyPlan:
    """The plan of these decisions, its latency and energies computed from them."""
    compute_s = problem.compute_s / speed
    upload_s = airtime_s(problem.payload_bits, upload_rate_bps(problem, bandwidth_hz, power_share))
    power_w = computing_power_w(problem.idle_power_w, problem.full_power_w, speed)
    return EnergyPlan(
        bandwidth_hz,
        speed,
        power_share,
        float((problem.fixed_delay_s + compute_s + upload_s).max()),
        power_w * compute_s + power_share * problem.sending_power_w * upload_s,
    )


def check_energy(problem: EnergyProblem, plan: EnergyPlan) -> Check:
    """Recompute from the decisions alone that the plan keeps every limit and what it states."""
    again = plan_of(problem, plan.bandwidth_hz, plan.speed, plan.power_share)
    late = again.latency_s - plan.latency_s
    wrong = np.abs(again.energy_j - plan.energy_j).sum() / max(again.energy_j.sum(), 1e-300)
    negative = float(np.max(-plan.bandwidth_hz, initial=0.0))
    least = float(min(plan.speed.min(), plan.power_share.min()))
    return Check(
        {
            "bandwidth": float(plan.bandwidth_hz.sum()) / problem.bandwidth_hz - 1.0,
            "bandwidth of each client": negative / problem.bandwidth_hz,
            "speed": float(np.max(plan.speed)) - 1.0 if least >= 0 else np.inf,
            "transmit power": float(np.max(plan.power_share)) - 1.0 if least >= 0 else np.inf,
            "latency": late / plan.latency_s if late > 0 else 0.0,
            "energy": float(wrong),
            "deadline": again.latency_s / problem.deadline_s - 1.0,
            "energy budget": float(again.energy_j.sum()) / problem.budget_j - 1.0,
            "energy budget of each client": float(
                np.max(again.energy_j / problem.client_budget_j) - 1.0
            ),
        }
    )


def least_energies(problem: EnergyProblem) -> FloatArray:
    """The least energy of every client at any latency [client], J; sending may only approach it.

    Computing at the speed of least energy, and `W S ln 2 / cn0` for sending: the limit of much time
    and bandwidth; of a fixed efficiency, sending over the whole band.
    """
    idle, full = problem.idle_power_w, problem.full_power_w
    speed = np.maximum(frugal_speed(idle, full), _SLOWEST)
    computing = computing_power_w(idle, full, speed) * (problem.compute_s / speed)
    with np.errstate(divide="ignore"):
        per_bit = np.where(
            problem.efficiency > 0,
            1.0 / (problem.efficiency * problem.bandwidth_hz),
            LN2 / problem.cn0_hz,
        )
    sending = np.where(problem.payload_bits > 0, problem.payload_bits * per_bit, 0.0)
    return computing + problem.sending_power_w * sending
