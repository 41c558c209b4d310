"""Processor sharing of the uplink against slow plain simulations that know no events."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from airtune.errors import InfeasibleError
from airtune.federated.pacing.rules import Kind, Pacing
from airtune.federated.pacing.uplink import Rate, Sending, next_end
from tests.federated.test_pacing import steps, world
from tests.federated.test_round import BITS

BAND_HZ = 300.0


def linear(efficiency: list[float]) -> Rate:
    return lambda client, share_hz: efficiency[client] * share_hz


def shannon(cn0_hz: list[float]) -> Rate:
    return lambda client, share_hz: share_hz * math.log2(1.0 + cn0_hz[client] / share_hz)


def all_ends(sending: dict[int, Sending], rate: Rate) -> dict[int, float]:
    """End of every upload, event by event."""
    now_s, left, ends = 0.0, dict(sending), dict[int, float]()
    while left:
        now_s, over, state = next_end(now_s, left, rate, BAND_HZ)
        ends |= dict.fromkeys(over, now_s)
        left = {client: one for client, one in state.items() if client not in over}
    return ends


def plain_ends(sending: dict[int, Sending], rate: Rate, step_s: float) -> dict[int, float]:
    """The same in equal steps of time, with whoever has bits and is ready sharing the band."""
    left = {client: one.left_bits for client, one in sending.items()}
    ends: dict[int, float] = {}
    tick = 0
    while len(ends) < len(left):
        now_s = tick * step_s
        active = [n for n in left if n not in ends and sending[n].ready_s <= now_s]
        for client in active:
            left[client] -= rate(client, BAND_HZ / len(active)) * step_s
            if left[client] <= 0:
                ends[client] = now_s + step_s
        tick += 1
    return ends


@pytest.mark.parametrize("make", [linear, shannon])
@pytest.mark.parametrize("seed", range(6))
def test_against_equal_steps_of_time(make: Callable[[list[float]], Rate], seed: int) -> None:
    draws = np.random.default_rng(seed)
    count = int(draws.integers(2, 7))
    rate = make([float(x) for x in draws.uniform(0.5, 4.0, count) * (1 if make is linear else 200)])
    sending = {
        client: Sending(float(draws.uniform(0, 3)), float(draws.uniform(100, 900)))
        for client in range(count)
    }
    exact, plain = all_ends(sending, rate), plain_ends(sending, rate, 5e-4)
    assert exact == pytest.approx(plain, abs=5e-3)


def test_two_that_overlap_by_hand() -> None:
    """A alone for 1 s (300 bit), then both at half: B needs 150 bit, 1 s; then A alone again."""
    sending = {0: Sending(0.0, 600.0), 1: Sending(1.0, 150.0)}
    time_s, over, state = next_end(0.0, sending, linear([1.0, 1.0]), BAND_HZ)
    assert (time_s, set(over)) == (2.0, {1})
    assert state[0].left_bits == pytest.approx(150.0)
    assert state[0].band_hz_s == pytest.approx(300.0 + 150.0)
    time_s, over, _ = next_end(time_s, {0: state[0]}, linear([1.0, 1.0]), BAND_HZ)
    assert (time_s, set(over)) == (2.5, {0})


def test_uploads_that_end_together_end_at_one_moment() -> None:
    sending = {client: Sending(0.0, 100.0) for client in range(3)}
    time_s, over, _ = next_end(0.0, sending, linear([2.0] * 3), BAND_HZ)
    assert (time_s, set(over)) == (0.5, {0, 1, 2})


@pytest.mark.parametrize("seed", range(4))
def test_the_band_is_never_idle_while_something_is_to_send(seed: int) -> None:
    """Equal efficiencies: the last upload ends when all bits have passed, whatever the shares."""
    draws = np.random.default_rng(seed)
    sending = {n: Sending(0.0, float(draws.uniform(50, 500))) for n in range(5)}
    whole = sum(one.left_bits for one in sending.values())
    assert max(all_ends(sending, linear([1.5] * 5)).values()) == pytest.approx(
        whole / (1.5 * BAND_HZ)
    )


def test_a_stop_on_the_way_changes_nothing() -> None:
    sending = {0: Sending(0.0, 600.0), 1: Sending(1.0, 150.0)}
    rate = shannon([500.0, 900.0])
    whole = next_end(0.0, sending, rate, BAND_HZ)
    time_s, over, state = next_end(0.0, sending, rate, BAND_HZ, until_s=0.75)
    assert (time_s, over) == (0.75, frozenset())
    assert next_end(time_s, state, rate, BAND_HZ)[0] == pytest.approx(whole[0], rel=1e-12)


def test_uploads_that_would_never_end_are_an_error() -> None:
    with pytest.raises(InfeasibleError, match=r"Clients \[0\] have no uplink at 300 Hz"):
        next_end(0.0, {0: Sending(0.0, 1.0)}, linear([0.0]), BAND_HZ)


def test_a_whole_run_against_equal_steps_of_time() -> None:
    """Three clients at different speeds; every task begins when the last one has arrived."""
    efficiency, speeds = (1.0, 2.0, 4.0), (10.0, 1.7, 40.0)
    pacing = Pacing(Kind.ASYNCHRONOUS, processor_sharing=True)
    _, records = steps(world(pacing, efficiency, speeds), 12)
    found = [(record.clients[0].client, record.virtual_time_s) for record in records]
    step_s, now_s = 2e-3, 0.0
    # Each task: broadcast (one after another on the downlink), computing, sending.
    receives = {0: BITS / 600.0, 1: BITS / 600.0, 2: BITS / 600.0}
    ready = {n: receives[n] + 10.0 / speeds[n] for n in range(3)}
    left, free_s = dict.fromkeys(range(3), float(BITS)), BITS / 600.0
    plain: list[tuple[int, float]] = []
    while len(plain) < len(found):
        active = [n for n in range(3) if ready[n] <= now_s]
        for client in active:
            left[client] -= efficiency[client] * BAND_HZ / len(active) * step_s
        now_s += step_s
        for client in active:
            if left[client] <= 0:
                plain.append((client, now_s))
                free_s = max(free_s, now_s) + BITS / (2.0 * efficiency[client] * BAND_HZ)
                ready[client] = free_s + 10.0 / speeds[client]
                left[client] = float(BITS)
    assert [client for client, _ in plain] == [client for client, _ in found]
    assert [t for _, t in plain] == pytest.approx([t for _, t in found], abs=0.05)
    for record in records:
        entry = record.clients[0]
        sent = entry.rate_bps * entry.upload_s
        assert sent == pytest.approx(BITS)
        assert entry.bandwidth_hz * efficiency[entry.client] == pytest.approx(entry.rate_bps)
        spent_j = 2.0 * entry.compute_s + entry.tx_power_w / 0.35 * entry.upload_s
        assert entry.energy_j == pytest.approx(spent_j)
