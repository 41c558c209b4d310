"""Power control: water-filling against plain loops, min-max power against a convex solver."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airtune.allocation.subchannels.power import (
    UNUSED,
    Demand,
    Uplink,
    WaterFilling,
    control_power,
    least_window,
)
from airtune.errors import InputError
from airtune.quantities import FloatArray


def random_case(seed: int, clients: int, subchannels: int) -> tuple[Uplink, Demand, np.ndarray]:
    rng = np.random.default_rng(seed)
    noise = 10 ** rng.uniform(-12, -7, (clients, 1)) / rng.exponential(1, (clients, subchannels))
    caps = rng.uniform(0.01, 0.2, clients)
    link = Uplink(
        rng.uniform(0.2, 1, subchannels) * 1e6, noise, caps, rng.uniform(0.3, 1.2) * caps.sum()
    )
    demand = Demand(10 ** rng.uniform(5, 7, clients), rng.uniform(0, 2, clients))
    others = rng.integers(0, clients, subchannels - clients)
    owner = rng.permutation(np.concatenate([np.arange(clients), others]))
    return link, demand, owner


def plain_least_power(width: FloatArray, noise: FloatArray, rate_bps: float) -> float:
    """Bisection on the water level, by loops: the slow twin of WaterFilling."""
    low, high = min(noise), min(noise) * 2.0

    def carried(level: float) -> float:
        pairs = zip(width, noise, strict=True)
        return float(sum(b * math.log2(level / n) for b, n in pairs if level > n))

    while carried(high) < rate_bps:
        high *= 2
    for _ in range(200):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if carried(middle) < rate_bps else (low, middle)
    return float(sum(b * max(high - n, 0.0) for b, n in zip(width, noise, strict=True)))


@pytest.mark.parametrize("seed", range(10))
def test_water_filling_is_the_least_power(seed: int) -> None:
    rng = np.random.default_rng(seed)
    slots = int(rng.integers(1, 9))
    width, noise = rng.uniform(1e5, 1e6, slots), 10 ** rng.uniform(-10, -8, slots)
    rate = float(width.sum() * rng.uniform(0.05, 6))
    filling = WaterFilling.of_slots(width[None], noise[None])
    power, slope = filling.power_for(np.array([rate]))
    assert power[0] == pytest.approx(plain_least_power(width, noise, rate), rel=1e-9)
    nearby = filling.power_for(np.array([rate * (1 + 1e-6)]))[0] - power
    assert slope[0] == pytest.approx(nearby[0] / (rate * 1e-6), rel=1e-4)


@given(
    noise_exponent=st.lists(st.floats(-40, 10), min_size=1, max_size=6),
    efficiency=st.floats(-20, 2).map(lambda exponent: 10.0**exponent),
)
def test_rate_and_power_are_inverse(noise_exponent: list[float], efficiency: float) -> None:
    noise = 10.0 ** np.array(noise_exponent)
    width = np.linspace(1e5, 3e5, len(noise))
    filling = WaterFilling.of_slots(width[None], noise[None])
    rate = np.array([efficiency * 1e5])
    power, _ = filling.power_for(rate)
    assert filling.rate_at(power)[0] == pytest.approx(rate[0], rel=1e-9)


def test_weak_signals_keep_their_precision() -> None:
    """At a signal-to-noise ratio of 1e-16 the rate is p / (n ln 2), whatever the width."""
    filling = WaterFilling.of_slots(np.array([[2e5, 2e5]]), np.array([[3e4, 7e9]]))
    rate = filling.rate_at(np.array([1e-7]))
    assert rate[0] == pytest.approx(1e-7 / 3e4 / math.log(2), rel=1e-12)
    assert filling.power_for(rate)[0][0] == pytest.approx(1e-7, rel=1e-12)


def test_unused_slots_and_deaf_clients() -> None:
    noise = np.array([[1e-9, np.inf, 4e-9], [np.inf, np.inf, np.inf]])
    filling = WaterFilling.of_slots(np.full((2, 3), 1e5), noise)
    assert filling.rate_at(np.ones(2))[1] == 0
    power, _ = filling.power_for(np.array([1e5, 1.0]))
    assert power[0] == pytest.approx(plain_least_power(np.full(2, 1e5), noise[0, [0, 2]], 1e5))
    assert power[1] == np.inf
    assert filling.power_for(np.array([1e5, 0.0]))[0][1] == 0


def convex_deadline(link: Uplink, demand: Demand, owner: np.ndarray) -> float:
    """The same problem as a convex program: cvxpy with Clarabel, in units that suit it."""
    import cvxpy

    unit_s = float(demand.fixed_delay_s.max()) + 1e-6 * float(demand.payload_bits.max())

    power = cvxpy.Variable(link.subchannels, nonneg=True)
    deadline = cvxpy.Variable()
    constraints = [cvxpy.sum(power) <= link.power_total_w]
    for k in range(link.clients):
        mine = np.flatnonzero(owner == k)
        width = link.bandwidth_hz[mine]
        snr = cvxpy.multiply(power[mine], 1 / (width * link.noise_to_gain[k, mine]))
        rate = cvxpy.sum(cvxpy.multiply(width / 1e6, cvxpy.log1p(snr))) / math.log(2)
        time = deadline - demand.fixed_delay_s[k] / unit_s
        constraints += [
            rate >= demand.payload_bits[k] / unit_s / 1e6 * cvxpy.inv_pos(time),
            cvxpy.sum(power[mine]) <= link.power_max_w[k],
        ]
    program = cvxpy.Problem(cvxpy.Minimize(deadline), constraints)
    program.solve(solver=cvxpy.CLARABEL)
    return float(deadline.value) * unit_s


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize(("shift_s", "scale"), [(0.0, 1.0), (30.0, 1.0), (0.0, 1e-3)])
def test_power_control_equals_a_convex_solver(seed: int, shift_s: float, scale: float) -> None:
    link, demand, owner = random_case(seed, clients=1 + seed % 5, subchannels=6 + seed % 7)
    demand = Demand(demand.payload_bits * scale, (demand.fixed_delay_s * scale) + shift_s)
    found = control_power(link, owner, demand)
    expected = convex_deadline(link, demand, owner)
    assert found.deadline_s == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_answer_keeps_every_cap_and_its_deadline(seed: int) -> None:
    link, demand, owner = random_case(seed, clients=1 + seed % 7, subchannels=7 + seed)
    answer = control_power(link, owner, demand)
    slowest = 0.0
    for k in range(link.clients):
        rate = power = 0.0
        for i in np.flatnonzero(owner == k):
            psd = answer.psd_w_per_hz[i]
            rate += link.bandwidth_hz[i] * math.log2(1 + psd / link.noise_to_gain[k, i])
            power += psd * link.bandwidth_hz[i]
        assert power <= link.power_max_w[k] * (1 + 1e-9)
        assert power == pytest.approx(answer.power_w[k])
        slowest = max(slowest, demand.fixed_delay_s[k] + demand.payload_bits[k] / rate)
    assert answer.power_w.sum() <= link.power_total_w * (1 + 1e-9)
    assert slowest == pytest.approx(answer.deadline_s, rel=1e-9)
    # A cap binds: the total, or the cap of a client that ends last.
    full = np.max(answer.power_w / link.power_max_w) > 1 - 1e-6
    assert full or answer.power_w.sum() > link.power_total_w * (1 - 1e-6)


def test_many_assignments_at_once_equal_one_by_one() -> None:
    link, demand, owner = random_case(3, clients=3, subchannels=6)
    other = owner[::-1].copy()
    width = np.zeros((2, 3, 6))
    noise = np.full((2, 3, 6), np.inf)
    for row, owners in enumerate((owner, other)):
        for i, k in enumerate(owners):
            width[row, k, i], noise[row, k, i] = link.bandwidth_hz[i], link.noise_to_gain[k, i]
    both = least_window(WaterFilling.of_slots(width, noise), link, demand)
    single = [
        least_window(WaterFilling.of_owners(link, owners), link, demand)
        for owners in (owner, other)
    ]
    assert both == pytest.approx(np.array(single), rel=1e-11)


def test_transmission_far_shorter_than_the_fixed_delay() -> None:
    """The window is 1e-12 of the deadline, below what a deadline in floats could resolve."""
    link, demand, owner = random_case(5, clients=4, subchannels=8)
    quick = Demand(demand.payload_bits * 1e-9, np.array([1e3, 1e3, 1e3, 1e3]))
    answer = control_power(link, owner, quick)
    assert answer.deadline_s == pytest.approx(1e3, rel=1e-6)
    assert answer.power_w.sum() <= link.power_total_w * (1 + 1e-9)
    early = control_power(link, owner, Demand(quick.payload_bits, np.zeros(4)))
    assert answer.rate_bps == pytest.approx(early.rate_bps, rel=1e-9)


def test_nothing_to_send_needs_no_power() -> None:
    link, _, owner = random_case(1, clients=3, subchannels=5)
    answer = control_power(link, owner, Demand(np.zeros(3), np.array([1.0, 4.0, 2.0])))
    assert answer.deadline_s == 4.0
    assert not answer.psd_w_per_hz.any()
    only_one = control_power(link, owner, Demand(np.array([1e5, 0, 0]), np.array([1.0, 90.0, 2.0])))
    assert only_one.deadline_s == 90.0
    assert only_one.power_w[1] == only_one.power_w[2] == 0


@pytest.mark.parametrize("missing", ["subchannel", "signal", "own power", "total power"])
def test_impossible_is_an_infinite_deadline(missing: str) -> None:
    link, demand, _ = random_case(2, clients=2, subchannels=4)
    owner = np.array([0, 0, 1, UNUSED])
    noise, caps, total = link.noise_to_gain.copy(), link.power_max_w.copy(), link.power_total_w
    if missing == "subchannel":
        owner[2] = UNUSED
    elif missing == "signal":
        noise[1] = np.inf
    elif missing == "own power":
        caps[1] = 0.0
    else:
        total = 0.0
    answer = control_power(Uplink(link.bandwidth_hz, noise, caps, total), owner, demand)
    assert answer.deadline_s == np.inf
    assert not answer.psd_w_per_hz.any()


@pytest.mark.parametrize("noise_exponent", [-45, 10])
def test_extreme_gains(noise_exponent: int) -> None:
    link, demand, owner = random_case(8, clients=3, subchannels=9)
    noise = link.noise_to_gain / 1e-9 * 10.0**noise_exponent
    extreme = Uplink(link.bandwidth_hz, noise, link.power_max_w, link.power_total_w)
    answer = control_power(extreme, owner, demand)
    assert np.isfinite(answer.deadline_s)
    assert answer.power_w.sum() <= link.power_total_w * (1 + 1e-9)
    slowest = np.max(demand.fixed_delay_s + demand.payload_bits / answer.rate_bps)
    assert slowest == pytest.approx(answer.deadline_s, rel=1e-9)


def test_time_and_bits_scale_together() -> None:
    link, demand, owner = random_case(4, clients=4, subchannels=9)
    once = control_power(link, owner, demand)
    scaled = Demand(demand.payload_bits * 7, demand.fixed_delay_s * 7)
    answer = control_power(link, owner, scaled)
    assert answer.deadline_s == pytest.approx(7 * once.deadline_s, rel=1e-11)
    assert answer.psd_w_per_hz == pytest.approx(once.psd_w_per_hz, rel=1e-8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"bandwidth_hz": np.array([1e5, 0.0])}, "bandwidth_hz[1] is 0.0"),
        ({"bandwidth_hz": np.array([1e5, np.nan])}, "bandwidth_hz[1] is nan"),
        ({"noise_to_gain": np.array([[1e-9, -1.0]])}, "noise_to_gain[0][1] is -1.0"),
        ({"noise_to_gain": np.array([[1e-9, np.nan]])}, "noise_to_gain[0][1] is nan"),
        ({"noise_to_gain": np.array([[1e-9]])}, "1 clients x 2 subchannels"),
        ({"power_max_w": np.array([-0.1])}, "power_max_w[0] is -0.1"),
        ({"power_total_w": np.inf}, "power_total_w is inf"),
    ],
)
def test_refusals(change: dict[str, object], words: str) -> None:
    good: dict[str, object] = {
        "bandwidth_hz": np.array([1e5, 1e5]),
        "noise_to_gain": np.array([[1e-9, 1e-9]]),
        "power_max_w": np.array([0.1]),
        "power_total_w": 1.0,
    }
    with pytest.raises(InputError) as caught:
        Uplink(**(good | change))  # type: ignore[arg-type]
    assert words in str(caught.value)


def test_demand_refuses_negative_payload() -> None:
    with pytest.raises(InputError, match=r"payload_bits\[1\] is -1"):
        Demand(np.array([1.0, -1.0]), np.zeros(2))
