"""The composition: the method's own planner and codec, airtune's tuner and mean."""

from airtune.federated.method import Method
from airtune.methods.bench import Bench
from airtune.tuning.tuner import FullTuner
from airtune.update.codec import DenseCodec
from airtune.update.means import FactorMean
from airtune_nibble.codec import NibbleCodec
from airtune_nibble.options import NibbleSection
from airtune_nibble.planner import EqualAirtime


def compose(bench: Bench, options: NibbleSection) -> Method:
    """The method on this bench (the experiment, the adapted model and the devices)."""
    return Method(
        name="nibble",
        planner=EqualAirtime(),
        tuner=FullTuner(),
        codec=NibbleCodec(options.bits),
        aggregator=FactorMean(),
        downlink=DenseCodec(options.downlink_dtype),
    )
