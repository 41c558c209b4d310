"""A split round on a clock, against the formula by hand."""

import numpy as np
import pytest

from airtune.cost.timeline import SERVER, STAGES, WAIT, StepDelays, split_timeline


def steps(scale: float = 1.0, labels_at_client: bool = False) -> StepDelays:
    """Two steps of three clients, with different slowest clients in every phase."""
    draws = np.random.default_rng(3)
    values = {
        name: scale * draws.uniform(0.1, 2.0, size=(2, 3))
        for name in (
            "forward_s",
            "activations_s",
            "hidden_s",
            "head_s",
            "hidden_gradient_s",
            "gradient_s",
            "backward_s",
        )
    }
    if not labels_at_client:
        for name in ("hidden_s", "head_s", "hidden_gradient_s"):
            values[name] = np.zeros((2, 3))
    server = {
        name: scale * draws.uniform(0.1, 1.0, size=2)
        for name in ("server_forward_s", "server_backward_s")
    }
    return StepDelays(**values, **server)


BROADCAST, ADAPTER = np.array([0.5, 0.5, 0.5]), np.array([1.0, 4.0, 2.0])


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e5])
@pytest.mark.parametrize("labels_at_client", [False, True])
def test_the_formula(labels_at_client: bool, scale: float) -> None:
    given = steps(scale, labels_at_client)
    timeline = split_timeline(scale * BROADCAST, given, scale * ADAPTER)
    common = scale * 0.5
    for i in range(2):
        first = max(given.forward_s[i, k] + given.activations_s[i, k] for k in range(3))
        middle = max(
            given.hidden_s[i, k] + given.head_s[i, k] + given.hidden_gradient_s[i, k]
            for k in range(3)
        )
        last = max(given.gradient_s[i, k] + given.backward_s[i, k] for k in range(3))
        common += first + given.server_forward_s[i] + middle + given.server_backward_s[i] + last
    assert timeline.finish_s == pytest.approx(common + scale * ADAPTER, rel=1e-12)
    assert timeline.of("forward") == pytest.approx(given.forward_s.sum(axis=0))
    server = given.server_forward_s.sum() + given.server_backward_s.sum()
    assert timeline.of(SERVER) == pytest.approx(np.full(3, server))
    assert timeline.own_stages().sum(axis=0) + timeline.of(SERVER) + timeline.of(
        WAIT
    ) == pytest.approx(timeline.finish_s)
    assert timeline.own_stages().shape == (len(STAGES), 3)


def test_everybody_stops_at_the_deadline() -> None:
    timeline = split_timeline(BROADCAST, steps(), ADAPTER)
    first, second, _ = np.sort(timeline.finish_s)
    cut = timeline.until(0.5 * (first + second))
    in_time = int(np.argmin(timeline.finish_s))
    for k in range(3):
        if k == in_time:
            assert np.array_equal(cut.seconds[:, k], timeline.seconds[:, k])
        else:
            assert cut.finish_s[k] == pytest.approx(0.5 * (first + second))
            assert cut.of("adapter")[k] < timeline.of("adapter")[k]
    early = timeline.until(0.7)
    assert early.finish_s == pytest.approx(np.full(3, 0.7))
    assert early.of("adapter") == pytest.approx(np.zeros(3))


def test_a_client_without_signal_never_ends_and_nothing_is_nan() -> None:
    given = steps()
    given.activations_s[0, 1] = np.inf
    timeline = split_timeline(BROADCAST, given, ADAPTER)
    assert np.isinf(timeline.finish_s).all()
    assert not np.isnan(timeline.seconds).any()
    assert timeline.until(9.0).finish_s == pytest.approx(np.full(3, 9.0))
