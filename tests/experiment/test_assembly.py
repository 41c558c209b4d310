"""Parts put in place of a method's own reach the parts that hold them."""

from dataclasses import replace
from typing import Any

import pytest

from airtune.errors import InputError
from airtune.experiment.reading import read_config
from airtune.experiment.world import World, build_world
from airtune.federated.round import run_round
from airtune.tuning.orthogonality import OrthogonalTuner, mean_cosine
from airtune.tuning.tuner import FullTuner
from airtune.update.codec import DenseCodec
from airtune.update.error_feedback import FeedbackTuner
from airtune.update.means import OverlapMean
from airtune.update.svd import SvdGauge
from tests.cli.conftest import quick

FEEDBACK = ("soft_tsfa.error_feedback=true", "soft_tsfa.merge=mean", "soft_tsfa.orthogonalise=none")


def world_of(*changes: str) -> World:
    narrow = ("method=soft_tsfa", "adapter.rank=4", "cell.bandwidth_hz=2e5")
    sizes = ("data.score_rows=0", "training.local_steps=2")
    return build_world(read_config(None, quick(*narrow, *sizes, *changes)[1::2]))


def residuals(world: World) -> list[float]:
    """Norm of what each client carries over to round 2 to send it again."""
    outcome = run_round(world.context, world.start())
    return [
        float(
            sum(x.square().sum() for name, x in kept.items() if name.startswith("residual/")) ** 0.5
        )
        for kept in outcome.state.carried.values()
    ]


def test_error_feedback_adds_only_what_the_codec_that_runs_left_out() -> None:
    """Everything travels in fp32, so nothing is left but the rounding of `start + change - start`,
    at most 2^-24 of each of some 1e4 numbers below 2."""
    dense = world_of("codec=dense", "planner=bandwidth", *FEEDBACK)
    method = dense.context.method
    assert isinstance(method.tuner, FeedbackTuner)
    assert method.tuner.codec is method.codec
    whole = residuals(dense)
    assert len(whole) == 3
    assert max(whole) < 2**-23 * 1e4**0.5
    coarse = residuals(world_of("codec={use: dense, dtype: bf16}", "planner=bandwidth", *FEEDBACK))
    assert min(coarse) > 1e-4


def test_a_tuner_stays_within_error_feedback() -> None:
    tuner = world_of("tuner=full", *FEEDBACK).context.method.tuner
    assert isinstance(tuner, FeedbackTuner)
    assert isinstance(tuner.tuner, FullTuner)


def test_an_aggregator_stays_within_the_gauge() -> None:
    world = world_of("aggregator=overlap-mean")
    merge = world.context.method.aggregator
    assert isinstance(merge, SvdGauge)
    assert isinstance(merge.merge, OverlapMean)
    assert SvdGauge(OverlapMean()).replaced_by(merge) is merge
    merged = run_round(world.context, world.start()).state.adapter
    assert mean_cosine(merged).lora_b < 1e-6
    free = world_of("aggregator=overlap-mean", "soft_tsfa.orthogonalise=none")
    assert isinstance(free.context.method.aggregator, OverlapMean)


@pytest.mark.parametrize("feedback", [False, True])
def test_a_tuner_that_would_drop_the_penalty_is_refused(feedback: bool) -> None:
    changes = ("soft_tsfa.penalty=0.1", *(FEEDBACK if feedback else ()))
    with pytest.raises(InputError, match=r"tuner is FullTuner.*orthogonality penalty \(0\.1\)"):
        world_of("tuner=full", *changes)
    assert OrthogonalTuner(0.1).with_codec(DenseCodec()) == OrthogonalTuner(0.1)


def test_what_other_slices_removed_is_not_known() -> None:
    world = build_world(read_config(None, quick("method=jcpba", "cell.bandwidth_hz=2e5")[1::2]))
    seen: list[Any] = []
    measure = world.context.method.measure
    assert measure is not None
    context = replace(world.context, method=replace(world.context.method, measure=seen.append))  # type: ignore[arg-type]
    run_round(context, world.start())
    (exchange,) = seen
    whole = measure(exchange)
    assert whole["pruned_energy"]
    for kept in (None, "flipped"):
        updates = [
            replace(u, kept=None if kept is None else {n: ~m for n, m in (u.kept or {}).items()})
            for u in exchange.updates
        ]
        other = measure(replace(exchange, updates=updates))
        assert other == {**whole, "pruned_energy": None}
