"""Stage delays, the straggler and deadlines, against a client-by-client re-derivation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from airtune.cost.latency import (
    PAYLOAD_ALONE,
    STAGES,
    StageDelays,
    TransferModel,
    compute_delay,
    missed,
    multicast_delay,
    round_latency,
    transfer_delay,
)
from airtune.errors import InfeasibleError, InputError
from airtune.wireless.cell import CellSettings

delays = st.integers(1, 6).flatmap(
    lambda clients: arrays.arrays(
        np.float64, (3, clients), elements=st.floats(0, 1e6, allow_subnormal=False)
    )
)


def _delays(*rows: list[float]) -> StageDelays:
    return StageDelays(*(np.array(row, dtype=np.float64) for row in rows))


def test_a_round_by_hand() -> None:
    cohort = _delays([1.0, 1.0, 1.0], [2.0, 5.0, 2.0], [3.0, 1.0, 7.0])
    result = round_latency(cohort)
    assert (result.latency_s, result.straggler, result.stage) == (10.0, 2, "upload")
    assert not result.late.any()
    result = round_latency(cohort, deadline_s=6.5)
    assert result.latency_s == 6.5
    assert result.late.tolist() == [False, True, True]
    # A client that finishes at the deadline is in time.
    assert round_latency(cohort, deadline_s=10.0).late.sum() == 0
    assert round_latency(cohort, deadline_s=60.0).latency_s == 10.0


def test_the_slow_stage_is_where_the_straggler_is_behind_the_others() -> None:
    """Upload is everybody's longest stage, but computing is what makes client 1 late."""
    cohort = _delays([1.0] * 3, [2.0, 9.0, 2.0], [20.0, 21.0, 20.0])
    assert round_latency(cohort).stage == "compute"
    assert round_latency(_delays([1.0], [2.0], [20.0])).stage == "upload"


def test_delays_of_transfers() -> None:
    bits, rates = np.array([8.0, 0.0, 0.0, 5.0]), np.array([2.0, 2.0, 0.0, 0.0])
    assert transfer_delay(bits, rates).tolist() == [4.0, 0.0, 0.0, np.inf]
    assert compute_delay(np.array(6e9), np.array([1e9, 2e9])).tolist() == [6.0, 3.0]
    assert multicast_delay(12.0, np.array([6.0, 3.0, 4.0])).tolist() == [4.0] * 3
    assert multicast_delay(12.0, np.array([6.0, 0.0])).tolist() == [np.inf] * 2
    assert multicast_delay(12.0, np.array([])).size == 0


def test_heads_and_a_round_trip_by_hand() -> None:
    """Ethernet frames of 1514 bytes that carry 1448 of payload, and 50 ms before the first bit."""
    transfer = TransferModel.of(CellSettings(overhead_share=66 / 1448, round_trip_s=0.05))
    bits, rates = np.array([1448e3, 0.0, 1448e3, 1448e3]), np.array([1514e3, 7.0, 0.0, np.inf])
    # Without bits there is no transfer; an infinite rate stands for a link that is not charged.
    assert transfer.delay_s(bits, rates) == pytest.approx([1.05, 0.0, np.inf, 0.0], rel=1e-12)
    assert transfer.air_bits(bits) == pytest.approx([1514e3, 0.0, 1514e3, 1514e3], rel=1e-12)
    assert transfer.sent_bits(transfer.air_bits(bits)) == pytest.approx(bits, rel=1e-12)
    assert transfer.lead_s(bits).tolist() == [0.05, 0.0, 0.05, 0.05]
    # Cut 30 ms after its start nothing was sent yet; at 1.05 s all of it, which took one second.
    assert transfer.sending_s([0.03, 1.05]) == pytest.approx([0.0, 1.0], rel=1e-12)
    assert multicast_delay(1448e3, np.array([1514e3, 9e9]), transfer) == pytest.approx([1.05] * 2)


@given(
    bits=st.integers(0, 10**12),
    rate_bps=st.floats(0, 1e12, allow_subnormal=False),
    share=st.floats(0, 0.999),
)
def test_heads_are_a_longer_payload_and_the_default_changes_no_bit(
    bits: int, rate_bps: float, share: float
) -> None:
    plain = transfer_delay(np.array(float(bits)), np.array(rate_bps))
    assert PAYLOAD_ALONE.delay_s(bits, rate_bps) == plain
    assert PAYLOAD_ALONE.sending_s(plain) == plain
    assert PAYLOAD_ALONE.air_bits(bits) == PAYLOAD_ALONE.sent_bits(bits) == bits
    longer = transfer_delay(np.array(bits * (1.0 + share)), np.array(rate_bps))
    assert TransferModel(overhead_share=share).delay_s(bits, rate_bps) == longer


@pytest.mark.parametrize("bad", [-1.0, np.nan])
def test_impossible_numbers_are_refused(bad: float) -> None:
    with pytest.raises(InputError, match="rate_bps"):
        transfer_delay(np.array([1.0]), np.array([bad]))
    with pytest.raises(InputError, match="bits"):
        transfer_delay(np.array([bad]), np.array([1.0]))


@given(stages=delays, deadline=st.floats(1e-3, 1e7))
def test_against_each_client_by_itself(stages: np.ndarray, deadline: float) -> None:
    cohort = StageDelays(*stages)
    result = round_latency(cohort, deadline)
    finish = [sum(float(x) for x in client) for client in stages.T]
    assert result.late.tolist() == [bool(f > deadline) for f in cohort.finish_s]
    assert cohort.finish_s == pytest.approx(finish)
    expected = deadline if result.late.any() else max(cohort.finish_s)
    assert result.latency_s == expected
    assert cohort.finish_s[result.straggler] == max(cohort.finish_s)
    assert result.stage in STAGES
    spent = cohort.until(deadline)
    for client, row in enumerate(stages.T):
        left = deadline
        for stage, whole in enumerate(row):
            part = min(float(whole), left)
            assert spent.by_stage()[stage, client] == pytest.approx(part, abs=1e-9 * deadline)
            left -= part
    assert np.all(spent.finish_s <= deadline * (1 + 1e-12))


def test_a_deadline_that_nobody_misses_changes_no_bit() -> None:
    cohort = _delays([0.1, 0.1], [0.2, 0.3], [0.3, 50.0])
    spent = cohort.until(9.0).by_stage()
    assert spent[:, 0].tolist() == [0.1, 0.2, 0.3]
    assert spent[:, 1].sum() == pytest.approx(9.0)


@given(stages=delays, factor=st.floats(1e-3, 1e3), data=st.data())
def test_scaling_and_permuting(stages: np.ndarray, factor: float, data: st.DataObject) -> None:
    result = round_latency(StageDelays(*stages))
    scaled = round_latency(StageDelays(*(stages * factor)))
    assert scaled.latency_s == pytest.approx(result.latency_s * factor)
    order = data.draw(st.permutations(range(stages.shape[1])))
    permuted = round_latency(StageDelays(*stages[:, order]))
    assert permuted.latency_s == result.latency_s


def test_endless_clients_need_a_deadline() -> None:
    cohort = _delays([1.0, 1.0], [1.0, 1.0], [1.0, np.inf])
    with pytest.raises(InfeasibleError, match="position 1 would never finish"):
        round_latency(cohort)
    result = round_latency(cohort, deadline_s=9.0)
    assert (result.latency_s, result.straggler, result.stage) == (9.0, 1, "upload")
    assert cohort.until(9.0).upload_s.tolist() == [1.0, 7.0]


def test_a_round_without_clients_is_refused() -> None:
    with pytest.raises(InputError, match="at least one client"):
        round_latency(_delays([], [], []))


def test_of_clients_that_finish_together_the_one_furthest_behind_is_named() -> None:
    """An optimal split: everybody ends at 10 s, because client 2 computes for 9 of them."""
    computing = np.array([1.0, 2.0, 9.0, 1.5])
    noise = 1.0 + np.array([0.0, 1e-12, -1e-12, 2e-12])
    delays = StageDelays(np.full(4, 0.1), computing, (9.9 - computing) * noise)
    latency = round_latency(delays)
    assert (latency.straggler, latency.stage) == (2, "compute")
    moved = StageDelays(np.full(4, 0.1), computing, 9.9 - computing + np.array([0.1, 0, 0, 0]))
    assert round_latency(moved).straggler == 0


def test_rounding_makes_nobody_late() -> None:
    """A plan that uses all of its time ends at the deadline, a last bit to either side."""
    broadcast, compute = np.array([0.1, 0.1, 0.1]), np.array([0.2, 0.2, 0.2])
    upload = np.array([0.3, np.nextafter(0.3, 1.0), 0.3 + 1e-9])
    cohort = StageDelays(broadcast, compute, upload)
    # 0.1 + 0.2 + 0.3 is a bit more than 0.6 in binary.
    assert float(cohort.finish_s[0]) > 0.6
    assert missed(cohort.finish_s, 0.6).tolist() == [False, False, True]
    assert not missed(cohort.finish_s, np.inf).any()
    result = round_latency(cohort, deadline_s=0.6)
    assert result.late.tolist() == [False, False, True]
    assert result.latency_s == 0.6
    spent = cohort.until(0.6)
    assert spent.upload_s.tolist()[:2] == upload.tolist()[:2]
    assert spent.finish_s[2] == pytest.approx(0.6, rel=1e-15)
