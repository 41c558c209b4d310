"""The composition of sampled_lora: independent draws, random ranks, unbiased shares."""

from airtune.errors import InputError
from airtune.federated.method import Method
from airtune.methods.bench import Bench
from airtune.methods.options import given
from airtune.methods.sampled_lora.estimates import measured
from airtune.methods.sampled_lora.options import PLANNER_OPTIONS, SampledLoraSection
from airtune.methods.sampled_lora.planner import SampledPlanner
from airtune.methods.whole_base import refuse_coarse_base
from airtune.tuning.sketch import SketchTuner
from airtune.tuning.tuner import FullTuner
from airtune.update.codec import DenseCodec
from airtune.update.means import FactorMean
from airtune.update.quantise import whole_codec
from airtune.update.sketch import SketchCodec, SketchMean


def compose(bench: Bench, options: SampledLoraSection) -> Method:
    """Draw with planned probabilities, train a sketch of the adapter, weigh by 1 / q."""
    config = bench.config
    planner = SampledPlanner(**given(options, PLANNER_OPTIONS), seed=config.seed)
    sketches = bool(planner.decides)
    least = options.least_rank
    if least is not None and least > config.adapter.rank:
        allowed = f"at most adapter.rank, {config.adapter.rank}"
        raise InputError("sampled_lora.least_rank", least, allowed)
    if sketches:
        refuse_coarse_base("random ranks (sampled_lora.least_rank)", config)
    return Method(
        "sampled_lora",
        planner,
        SketchTuner() if sketches else FullTuner(),
        SketchCodec(options.uplink_dtype, config.seed)
        if sketches
        else whole_codec(options.uplink_dtype, config.seed),
        SketchMean() if sketches else FactorMean(),
        DenseCodec(options.downlink_dtype),
        measure=measured,
    )
