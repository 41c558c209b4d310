"""The proof of a plan's distance from the optimum: the Lagrangian dual function.

With a price mu on bandwidth, values of time omega_n, weights of energy `lam_n >= lam >= lam_e`
(their excesses are the multipliers of the clients' and of the whole budget) and
`sum omega_n >= lam_t` (its excess is the deadline's), every plan that keeps all limits costs at
least

    sum_n min(lam_n E_n + mu b_n + omega_n (c_n / s_n + t_n)) + sum_n omega_n f_n - mu B
      - sum_n (lam_n - lam) budget_n - (lam - lam_e) budget - (sum_n omega_n - lam_t) deadline,

where each client's minimum has the closed form of `curves.py`, and is accepted only where the
conditions of a minimum hold, computed anew. The bound holds whatever the multipliers are; it meets
the optimum at the right ones, up to the square of their error.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from airtune.allocation.energy.curves import Clients, Uploading, psi
from airtune.allocation.energy.problem import EnergyProblem
from airtune.quantities import FloatArray

_TINY = 1e-60
# In place of a weight or a value of 0, which has no minimum but a limit.
_STATIONARY = 1e-8
# Of a client's cost: the most that a logarithm's derivative may be; the minimum errs by its square.


@dataclass(frozen=True)
class Multipliers:
    """The module's mu [cost/Hz], omega [client], lam_n [client] and lam."""

    price: float
    time: FloatArray
    weight: FloatArray
    whole_weight: float


def dual_value(problem: EnergyProblem, chosen: Multipliers) -> float:
    """The module's bound; -inf for multipliers that prove nothing."""
    value, weight = chosen.time, chosen.weight
    late = float(value.sum()) - problem.time_weight
    dearer = chosen.whole_weight - problem.energy_weight
    rounding = 1e-12 * max(problem.time_weight, float(value.sum()))
    if late < -rounding or dearer < 0 or (weight < chosen.whole_weight).any():
        return -np.inf
    # Without a deadline the sum is lam_t, but for rounding.
    late = max(late, 0.0) if late > rounding or problem.deadline_s < np.inf else 0.0
    limits = (late, problem.deadline_s), (dearer, problem.budget_j)
    paid = sum(price * limit for price, limit in limits if price > 0)
    own = weight - chosen.whole_weight
    charged = own > 0
    paid += float((own[charged] * problem.client_budget_j[charged]).sum())
    clients = Clients.of(problem)
    least = _computing(clients, value, weight) + _sending(clients, chosen)
    fixed = float((value * problem.fixed_delay_s).sum())
    return float(least.sum()) + fixed - chosen.price * problem.bandwidth_hz - paid


def _computing(clients: Clients, value: FloatArray, weight: FloatArray) -> FloatArray:
    """Least `lam_n` times the energy of computing, plus omega times its time [client]."""
    # Where neither counts, any time is as good as full speed.
    free = (value == 0) & (weight == 0)
    time_s, _ = clients.compute(np.where(free, np.inf, value / np.maximum(weight, _TINY)))
    return weight * clients.computing_j(time_s) + value * time_s


def _sending(clients: Clients, chosen: Multipliers) -> FloatArray:
    """The same of sending, with what its bandwidth costs [client]; 0 without a payload."""
    least = np.zeros(len(clients.nats))
    index = np.flatnonzero(clients.nats > 0)
    if not len(index):
        return least
    clients = clients.select(index)
    value, weight = chosen.time[index], chosen.weight[index]
    scale = np.maximum(weight, _TINY)
    log_price = np.log(np.maximum(chosen.price / scale, _TINY))
    log_value = np.log(np.maximum(value / scale, _TINY))
    sent = clients.upload(log_price, log_value)
    energy_j = clients.sending_w * sent.power_share * sent.time_s
    cost = weight * energy_j + chosen.price * sent.bandwidth_hz + value * sent.time_s
    least[index] = np.where(_least(clients, sent, log_price, log_value), cost, -np.inf)
    return least


def _least(
    clients: Clients, sent: Uploading, log_price: FloatArray, log_value: FloatArray
) -> NDArray[np.bool_]:
    """Whether each upload has the least cost at its price and value of time [client].

    The cost is convex in bandwidth and time, so it does where its derivatives in both are 0; at
    full power the one along the limit is, and the one towards more time and less power is >= 0.
    """
    paid, waited = np.exp(log_price) * sent.bandwidth_hz, np.exp(log_value) * sent.time_s
    fixed, full = clients.efficiency > 0, sent.power_share >= 1.0
    u = clients.nats / (sent.bandwidth_hz * sent.time_s)
    snr = np.expm1(u)
    sending = clients.sending_w * sent.time_s
    with np.errstate(divide="ignore", invalid="ignore"):
        # -dE/d(ln b) = -dE/d(ln t) = G a psi(u) / u, whatever the power.
        saved = clients.sending_w / clients.cn0_hz * clients.nats * psi(u, snr) / u
        limit = (sending + waited) * (1.0 - snr / ((1.0 + snr) * u))
    by_band = paid - np.where(fixed, sending + waited, np.where(full, limit, saved))
    by_time = np.where(fixed, 0.0, waited - saved)
    off = np.maximum(np.abs(by_band), np.where(full, -by_time, np.abs(by_time)))
    carried = fixed | (sent.power_share * clients.cn0_hz >= snr * sent.bandwidth_hz * (1.0 - 1e-9))
    good: NDArray[np.bool_] = carried & (off <= _STATIONARY * (paid + waited + sending))
    return good
