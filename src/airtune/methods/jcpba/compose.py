"""The composition of jcpba, and the parts that it shares a slicer with."""

from collections.abc import Callable
from functools import partial
from typing import Any

from airtune.errors import InputError
from airtune.federated.method import Method
from airtune.methods.bench import Bench
from airtune.methods.jcpba.calibration import calibration_batches
from airtune.methods.jcpba.measure import measure_pruning
from airtune.methods.jcpba.options import PLANNER_OPTIONS, JcpbaSection
from airtune.methods.jcpba.planner import JcpbaPlanner
from airtune.methods.options import given
from airtune.tuning.personal import personal_start
from airtune.tuning.pruning.importance import (
    ActivationImportance,
    Importance,
    RandomImportance,
    WeightImportance,
)
from airtune.tuning.pruning.tuner import PrunedTuner, Slicer
from airtune.update.codec import DenseCodec
from airtune.update.means import OverlapMean
from airtune.update.partial import SlicedCodec


def compose(bench: Bench, options: JcpbaSection) -> Method:
    """Prune and divide the band, train slices, send slices, average what each client kept."""
    codec = SlicedCodec(slicer(bench), options.uplink_dtype, bench.config.seed)
    return jcpba(planner(bench, options), slicer(bench), codec, options.downlink_dtype)


def jcpba(
    planner: JcpbaPlanner, slicer: Slicer, codec: SlicedCodec, downlink_dtype: str = "fp32"
) -> Method:
    """The composition with any slicer."""
    return Method(
        "jcpba",
        planner,
        PrunedTuner(slicer),
        codec,
        OverlapMean(),
        DenseCodec(downlink_dtype),
        measure=partial(measure_pruning, slicer, Slicer(slicer.model, WeightImportance())),
    )


def planner(bench: Bench, options: Any) -> JcpbaPlanner:
    """The planner, from its own options or from the whole section."""
    return JcpbaPlanner(**given(options, PLANNER_OPTIONS))


def pruned_tuner(bench: Bench, options: Any) -> PrunedTuner:
    """Training on slices of the bench's slicer."""
    return PrunedTuner(slicer(bench, options.importance))


def sliced_codec(bench: Bench, options: Any) -> SlicedCodec:
    """Sends the slices of the bench's slicer."""
    return SlicedCodec(slicer(bench), options.dtype, bench.config.seed)


def slicer(bench: Bench, importance: str | None = None) -> Slicer:
    """The one slicer of a bench; InputError where two parts need different importances."""
    asked = importance or bench.config.section(JcpbaSection).importance
    name = bench.shared("importance", lambda: asked)
    if importance and name != importance:
        raise InputError(
            "tuner.importance",
            importance,
            f"{name}, as for the other parts",
            "set jcpba.importance instead",
        )
    personal = bench.config.adapter.personal
    fixed = personal_start(bench.model, bench.config.seed, personal)
    return bench.shared("slicer", lambda: Slicer(bench.model, _importance(bench, name), fixed))


def _importance(bench: Bench, name: str) -> Importance:
    rules: dict[str, Callable[[], Importance]] = {
        "weights": WeightImportance,
        "activations": lambda: ActivationImportance(calibration_batches(bench.config)),
        "random": lambda: RandomImportance(bench.config.seed),
    }
    return rules[name]()
