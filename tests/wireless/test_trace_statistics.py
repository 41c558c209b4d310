"""Statistics of traces against plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airtune.wireless.trace import Trace
from airtune.wireless.trace_statistics import autocorrelation, quantile_bps, trace_summary

RATES = st.lists(st.sampled_from([0.0, 1e6, 2e6, 5e6, 9e6]), min_size=1, max_size=12)


@given(RATES, st.lists(st.integers(1, 9), min_size=12, max_size=12), st.integers(0, 20))
def test_quantiles_are_counted_second_by_second(
    rates: list[float], seconds: list[int], twentieth: int
) -> None:
    seconds = seconds[: len(rates)]
    trace = Trace("x", np.array(rates), np.append(0.0, np.cumsum(seconds)))
    every = sorted(rate for rate, time in zip(rates, seconds, strict=True) for _ in range(time))
    needed = -(-twentieth * len(every) // 20)
    assert quantile_bps(trace, twentieth / 20) == every[max(needed, 1) - 1]
    found = trace_summary(trace)
    assert found["mean_bps"] == pytest.approx(sum(every) / len(every))
    assert found["idle_share"] == pytest.approx(every.count(0.0) / len(every))
    assert [rate for _, rate in found["cdf"]] == sorted(rate for _, rate in found["cdf"])
    assert found["cdf"][-1][1] == max(rates) == found["most_bps"]


@given(RATES)
def test_autocorrelation_is_the_sum_of_products(rates: list[float]) -> None:
    values = np.array(rates)
    found = autocorrelation(values)
    if len(set(rates)) < 2:
        assert len(found) == 0
        return
    centred = values - values.mean()
    expected = [
        sum(centred[i] * centred[i + lag] for i in range(len(rates) - lag)) / sum(centred**2)
        for lag in range(len(rates) // 2 + 1)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_coherence_is_where_it_falls_below_1_over_e() -> None:
    """A telegraph wave of 8 rows up, 8 down: 1 - lag/4 at first."""
    wave = Trace("x", np.tile(np.repeat([1e6, 3e6], 8), 200))
    found = trace_summary(wave)
    assert found["coherence_rows"] == 3.0
    assert found["autocorrelation"] == pytest.approx(0.75, abs=0.01)
    assert found["duration_s"] is None
    timed = Trace("x", wave.rate_bps, np.arange(3201.0) * 0.5)
    assert trace_summary(timed)["coherence_s"] == 1.5
    flat = trace_summary(Trace("x", np.full(5, 2e6)))
    assert flat["coherence_rows"] is None
    assert flat["autocorrelation"] is None
