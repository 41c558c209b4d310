"""lora_fair: fedlora with a server that corrects B, in the manner of LoRA-FAIR.

Bian et al., arXiv 2411.14961. What travels is fedlora's, and clients start from what the server
broadcasts (the paper's "average initialisation"). Ours: the correction in closed form, of the
Frobenius norm in place of the cosine, with a ridge relative to A's size.
"""

from dataclasses import asdict

from airtune.federated.bandwidth_planner import BandwidthPlanner
from airtune.federated.method import Exchange, Method
from airtune.methods.bench import Bench
from airtune.methods.lora_fair.options import LoraFairSection
from airtune.methods.lora_fair.recorded import Measured
from airtune.tuning.tuner import FullTuner
from airtune.update.codec import DenseCodec
from airtune.update.products import LoraFair, fair_residual
from airtune.update.quantise import whole_codec


def compose(bench: Bench, options: LoraFairSection) -> Method:
    """Divide the band, train all, send all, average and correct."""

    def measure(exchange: Exchange) -> dict[str, float | None]:
        if not exchange.updates:
            return asdict(Measured(None, None, None))
        found = fair_residual(exchange.start, exchange.updates, options.ridge)
        return asdict(Measured(found.before, found.after, found.correction))

    # The residual is that of this method's own merge: another one leaves something else.
    own = bench.config.aggregator is None
    return Method(
        "lora_fair",
        BandwidthPlanner(options.bandwidth, bench.config.seed),
        FullTuner(),
        whole_codec(options.uplink_dtype, bench.config.seed),
        LoraFair(options.ridge),
        DenseCodec(options.downlink_dtype),
        measure=measure if own else None,
    )


def corrected_mean(bench: Bench, options: LoraFairSection) -> LoraFair:
    """The aggregator alone."""
    return LoraFair(options.ridge)
