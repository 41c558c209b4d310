"""A proven lower bound on the window of any assignment: the Lagrange dual of subchannel allocation.

Let subchannels be shared in time (every assignment is a special case) and put a price on each
client's rate (`rate_price` in s per bit/s) and on each cap. Then for ANY prices >= 0, every rate
vector R that the link can carry satisfies

    sum_k rate_price_k R_k  <=  sum_i b_i max_k phi_ki  +  sum_k cap_price_k p_max_k
                                + total_price p_total            (a *cut* of the rate region)

with `phi_ki = max_p [rate_price_k log2(1 + p/n_ki) - (cap_price_k + total_price) p]`, which is
water-filling in closed form. A window x needs `R_k = D_k / (x + lead_k)`, so the root of
`sum_k rate_price_k D_k / (x + lead_k) = cut` is a lower bound. The method is that of Yu and Lui
(Dual methods for nonconvex spectrum optimization, IEEE Trans. Commun. 2006), with the min-max
deadline as the objective. Cuts do not depend on the payloads: one found for one demand bounds the
others too.
"""

from dataclasses import dataclass

import numpy as np

from airtune.allocation.subchannels.power import LN2, Demand, Uplink, WaterFilling
from airtune.quantities import FloatArray

_HOTTEST, _COOLING, _COLDEST = 3.0, 0.3, 5e-4
# The path of temperatures, as shares of a subchannel's worth: hot enough to start from any prices,
# cold enough that smoothing costs less than the distance from time shares to whole subchannels.
_STEPS_PER_TEMPERATURE = 8


@dataclass(frozen=True)
class PriceCut:
    """`sum_k rate_price_k R_k <= value` for all rates [bit/s] that the link can carry."""

    rate_price: FloatArray  # [client], s per bit/s
    power_price: FloatArray  # [client], s/W: the client's cap price and the total price
    value: float

    def window(self, demand: Demand) -> float:
        """No assignment has a shorter window than this.

        The root of a decreasing convex function, by Newton's iteration from the left, which never
        passes it: every iterate is a valid bound.
        """
        weight = np.where(demand.sends, self.rate_price * demand.payload_bits, 0.0)
        counts = weight > 0
        weight, lead = weight[counts], (demand.latest_start_s - demand.fixed_delay_s)[counts]
        if not len(weight) or not np.isfinite(self.value):
            return 0.0
        # The largest term alone reaches the cut here, so the root lies to the right.
        x = max(float(np.max(weight / self.value - lead)), 0.0)
        for _ in range(60):
            term = weight / (x + lead)
            step = (float(np.sum(term)) - self.value) / float(np.sum(term / (x + lead)))
            if not step > 1e-12 * x:
                break
            x += step
        return x * (1 - 1e-11)

    def slack(self, demand: Demand, window_s: float) -> float:
        """How far below the bound's value an assignment may be and still meet the window."""
        rate = demand.rates_within(np.asarray(window_s))
        return self.value * (1 + 1e-9) - float(np.sum(self.rate_price * rate))

    def regret(self, link: Uplink) -> FloatArray:
        """Worth that is wasted when a client gets a subchannel [client, subchannel], >= 0."""
        worth = link.bandwidth_hz * _worth(link, self.rate_price, self.power_price).value
        regret: FloatArray = np.max(worth, axis=0) - worth
        return regret


def cut_at(
    link: Uplink, rate_price: FloatArray, cap_price: FloatArray, total_price: float
) -> PriceCut:
    """The cut of these prices; valid for any prices >= 0."""
    with np.errstate(divide="ignore"):
        # Where signals are weak, depths are differences of nearly equal logarithms: round upward.
        rounding = 8 * np.finfo(np.float64).eps * np.abs(np.log(link.noise_to_gain))
    rounding[~np.isfinite(rounding)] = 0.0
    worth = _worth(link, rate_price, cap_price + total_price, rounding).value
    value = float(
        np.sum(link.bandwidth_hz * np.max(worth, axis=0))
        + np.sum(cap_price * link.power_max_w)
        + total_price * link.power_total_w
    )
    return PriceCut(rate_price, cap_price + total_price, value)


@dataclass(frozen=True)
class _Worth:
    """The best use of every subchannel by every client, all [client, subchannel]."""

    value: FloatArray  # phi per hertz: rate at its price less power at its price
    rate: FloatArray  # bit/s/Hz, the derivative of phi with respect to the rate price
    psd: FloatArray  # W/Hz, minus the derivative with respect to the power price


def _worth(
    link: Uplink, rate_price: FloatArray, power_price: FloatArray, rounding: FloatArray | float = 0
) -> _Worth:
    """`max_p rate_price log2(1 + p/n) - power_price p` by water-filling, without cancellation."""
    level = rate_price / (LN2 * power_price)
    with np.errstate(divide="ignore"):
        depth = np.log(level)[:, None] - np.log(link.noise_to_gain) + rounding
    depth = np.maximum(depth, 0.0)
    drop = -np.expm1(-depth)
    series = depth * depth * (0.5 - depth / 6.0)
    value = (rate_price / LN2)[:, None] * np.where(depth < 1e-4, series, depth - drop)
    return _Worth(value, depth / LN2, level[:, None] * drop)


def best_cut(link: Uplink, demand: Demand, window_s: float) -> PriceCut:
    """The cut that bounds the window best, up to a smoothing of about `_COLDEST`.

    Maximises the concave dual by Newton's iteration while a smoothing temperature falls. The
    answer is valid wherever the iteration stops. Every client that sends must be reachable.

    Args:
        window_s: the window of some assignment; it sets the scale, and a bound that meets it ends
            the search.
    """
    senders = np.flatnonzero(demand.sends)
    if len(senders) < link.clients:
        part = best_cut(link.select(senders), demand.select(senders), window_s)
        rate_price, power_price = np.zeros(link.clients), np.ones(link.clients)
        rate_price[senders], power_price[senders] = part.rate_price, part.power_price
        return PriceCut(rate_price, power_price, part.value)
    dual = _SmoothDual(link, demand, window_s)
    price = dual.start()
    best = energy_cut(link)
    temperature = _HOTTEST
    while temperature > _COLDEST and best.window(demand) < window_s * (1 - _COLDEST):
        for _ in range(_STEPS_PER_TEMPERATURE):
            step = dual.newton_step(price, temperature / link.subchannels)
            if step is None:
                break
            price = step
        best = max(best, cut_at(link, *dual.prices(price)), key=lambda cut: cut.window(demand))
        temperature *= _COOLING
    return best


def energy_cut(link: Uplink) -> PriceCut:
    """`sum_k ln2 n_k R_k <= p_total` with n_k the client's best noise to gain: no bit is cheaper.

    Follows from `ln(1 + x) <= x`; tight where signals are weak, whatever the widths.
    """
    cheapest = LN2 * np.min(link.noise_to_gain, axis=1)
    return PriceCut(cheapest, np.ones(link.clients), link.power_total_w)


def lone_window(link: Uplink, demand: Demand) -> float:
    """No window is shorter: the slowest client, if it had every subchannel to itself."""
    whole = WaterFilling.of_slots(
        np.broadcast_to(link.bandwidth_hz, link.noise_to_gain.shape), link.noise_to_gain
    )
    rate = whole.rate_at(np.minimum(link.power_max_w, link.power_total_w))
    return max(float(np.max(demand.windows(rate))), 0.0)


class _SmoothDual:
    """The dual function in units in which its prices and its value are of order one.

    Prices are stacked as `[rate price of each client, cap price of each client, total price]`,
    scaled by the rates, caps and window of a known plan. A temperature smooths the maximum over
    clients (an entropy on time shares) and keeps prices positive (a logarithmic barrier).
    """

    def __init__(self, link: Uplink, demand: Demand, window_s: float) -> None:
        self.link, self.window_s = link, window_s
        self.clients = link.clients
        self.width = link.bandwidth_hz / window_s
        self.lead = (demand.latest_start_s - demand.fixed_delay_s) / window_s
        rate = demand.rates_within(np.asarray(window_s))
        self.unit = window_s / np.concatenate([rate, link.power_max_w, [link.power_total_w]])

    def start(self) -> FloatArray:
        """Equal weights on all clients and caps."""
        k = self.clients
        return np.concatenate([np.full(k, 1 / k), np.full(k, 0.3 / k), [0.3]])

    def prices(self, scaled: FloatArray) -> tuple[FloatArray, FloatArray, float]:
        """Rate prices [s per bit/s], cap prices [s/W] and the total price [s/W]."""
        price = scaled * self.unit
        return price[: self.clients], price[self.clients : -1], float(price[-1])

    def newton_step(self, scaled: FloatArray, temperature: float) -> FloatArray | None:
        """The next prices, or None where a step gains less than the smoothing hides."""
        gradient, hessian = self._derivatives(scaled, temperature)
        try:
            step = np.linalg.solve(hessian, -gradient)
        except np.linalg.LinAlgError:
            return None
        rise = float(gradient @ step)
        if not rise > 0.1 * temperature * self.link.subchannels:
            return None
        value = self._value(scaled, temperature)
        length = min(1.0, 0.95 / float(np.max(-step / scaled, initial=0.95)))
        while self._value(scaled + length * step, temperature) < value + 0.1 * length * rise:
            length *= 0.5
            if length < 1e-4:
                return None
        return scaled + length * step

    def _demand_term(self, weight: FloatArray) -> tuple[float, FloatArray, FloatArray]:
        """`min_x x + sum_k weight_k (1 + lead_k) / (x + lead_k)`, its gradient and Hessian."""
        weight = np.maximum(weight, 0.0)
        x = 1.0
        for _ in range(50):
            pull = weight * (1 + self.lead) / (x + self.lead) ** 2
            # At the minimum the pulls sum to 1; Newton on their sum to the power -1/2, which is
            # nearly a straight line.
            root = 1.0 / np.sqrt(np.sum(pull))
            step = float((1.0 - root) / (root**3 * np.sum(pull / (x + self.lead))))
            x = max(x + step, 0.1 * x)
            if abs(step) < 1e-13 * x:
                break
        ratio = (1 + self.lead) / (x + self.lead)
        bend = ratio / (x + self.lead)
        sharpness = 2 * np.sum(weight * bend / (x + self.lead))
        return float(x + weight @ ratio), ratio, -np.outer(bend, bend) / sharpness

    def _value(self, scaled: FloatArray, temperature: float) -> float:
        rate_price, cap_price, total_price = self.prices(scaled)
        use = self.width * _worth(self.link, rate_price, cap_price + total_price).value
        top = np.max(use, axis=0)
        smooth = top + temperature * np.log(np.sum(np.exp((use - top) / temperature), axis=0))
        barrier = temperature * np.sum(np.log(scaled))
        paid = np.sum(scaled[self.clients :])
        return self._demand_term(scaled[: self.clients])[0] + float(barrier - np.sum(smooth) - paid)

    def _derivatives(self, scaled: FloatArray, temperature: float) -> tuple[FloatArray, FloatArray]:
        """Gradient and Hessian of `_value`."""
        k = self.clients
        slope, curvature = self._use_derivatives(scaled, temperature)
        table = self._per_client()
        _, ratio, bend = self._demand_term(scaled[:k])
        gradient = temperature / scaled - table.T @ slope
        gradient[:k] += ratio
        gradient[k:] -= 1.0
        hessian = -(table.T @ curvature @ table) - np.diag(temperature / scaled**2)
        hessian[:k, :k] += bend
        return gradient, hessian

    def _use_derivatives(
        self, scaled: FloatArray, temperature: float
    ) -> tuple[FloatArray, FloatArray]:
        """Of the smoothed use of all subchannels, by [rate price, power price] of each client."""
        k = self.clients
        rate_price, cap_price, total_price = self.prices(scaled)
        power_price = cap_price + total_price
        worth = _worth(self.link, rate_price, power_price)
        use = self.width * worth.value
        share = np.exp((use - np.max(use, axis=0)) / temperature)
        share /= np.sum(share, axis=0)
        each = self.width * np.stack([worth.rate, -worth.psd])  # [price, client, subchannel]
        mean = share * each
        flat = mean.reshape(2 * k, -1)
        second = np.einsum("aki,bki->abk", mean, each) / temperature
        wet = np.sum(share * self.width * (worth.rate > 0), axis=1) / LN2
        second[0, 0] += wet / rate_price
        second[1, 1] += wet * rate_price / power_price**2
        second[0, 1] -= wet / power_price
        second[1, 0] -= wet / power_price
        curvature = -(flat @ flat.T) / temperature
        blocks = curvature.reshape(2, k, 2, k)
        blocks[:, np.arange(k), :, np.arange(k)] += second.transpose(2, 0, 1)
        return np.sum(flat, axis=1), curvature

    def _per_client(self) -> FloatArray:
        """From scaled prices to each client's two prices [2 client, 2 client + 1]."""
        k = self.clients
        table = np.diag(self.unit[:-1])
        total = np.concatenate([np.zeros(k), np.full(k, self.unit[-1])])
        return np.column_stack([table, total])
