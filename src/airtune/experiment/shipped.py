"""Every part that airtune ships, by the name that an experiment may give it.

A part is made on a bench: with the experiment, the adapted model and the parts beside it, so that
a pruned client and its codec cut the same slice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, cast, final

from pydantic import Field, create_model

from airtune.config.experiment import ExperimentConfig
from airtune.config.method_options import (
    HetloraSection,
    JcpbaSection,
    SflllmSection,
    SoftTsfaSection,
)
from airtune.config.section import Section
from airtune.errors import InputError
from airtune.experiment.calibration import calibration_batches
from airtune.experiment.devices import deal_devices
from airtune.experiment.split_composition import split_method
from airtune.methods.fedlora.compose import BandwidthPlanner
from airtune.methods.hetlora.compose import ranks_by_speed
from airtune.methods.jcpba.planner import JcpbaPlanner
from airtune.methods.sflllm.planner import SflllmPlanner
from airtune.methods.soft_tsfa.compose import soft_layout
from airtune.methods.soft_tsfa.planner import TsfaPlanner
from airtune.tuning.orthogonality import OrthogonalTuner
from airtune.tuning.partial import FirstRanksTuner, FrozenATuner
from airtune.tuning.pruning.importance import (
    ActivationImportance,
    Importance,
    RandomImportance,
    WeightImportance,
)
from airtune.tuning.pruning.tuner import PrunedTuner, Slicer
from airtune.tuning.tuner import FullTuner
from airtune.update.aggregate import Aggregator
from airtune.update.codec import DenseCodec
from airtune.update.means import FactorMean, HalvesMean, OverlapMean, SentMean, ZeroPaddedMean
from airtune.update.parts import FactorCodec, FirstRanksCodec, HalfCodec, SlicedCodec
from airtune.update.quantise import BLOCK, Int8Codec
from airtune.update.rank_sparse import RankSparseCodec
from airtune.update.svd import SvdCodec, SvdGauge
from airtune.update.top_k import TopKCodec


@final
@dataclass
class Bench:
    """What the parts of one method are made from; the slicer is the same for all of them."""

    config: ExperimentConfig
    model: Any
    _slicers: dict[str, Slicer] = field(default_factory=dict)

    def slicer(self, importance: str | None = None) -> Slicer:
        """The one slicer; InputError where two parts ask for different importances."""
        made = next(iter(self._slicers), None)
        name = importance or made or self.config.jcpba.importance
        if made is not None and name != made:
            raise InputError(
                "tuner.importance", name, f"{made}, as for the other parts",
                "set jcpba.importance instead",
            )  # fmt: skip
        if made is None:
            self._slicers[name] = Slicer(self.model, self._importance(name))
        return self._slicers[name]

    def _importance(self, name: str) -> Importance:
        rules: dict[str, Callable[[], Importance]] = {
            "weights": WeightImportance,
            "activations": lambda: ActivationImportance(calibration_batches(self.config)),
            "random": lambda: RandomImportance(self.config.seed),
        }
        return rules[name]()


@final
@dataclass(frozen=True)
class Shipped:
    """A part's options, and how it is made of them on a bench."""

    options: type[Section]
    make: Callable[[Bench, Any], Any]


class NoOptions(Section):
    """A part without options."""


class DenseOptions(Section):
    dtype: Literal["fp32", "fp16", "bf16"] = "fp32"


class NumberOptions(Section):
    dtype: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"


class Int8Options(Section):
    block: int = Field(BLOCK, ge=1)


class RankSparseOptions(NumberOptions):
    importance: Literal["change", "norm", "random"] = "change"
    choice: Literal["drawn", "largest"] = "largest"
    report: bool = False


class FactorOptions(DenseOptions):
    part: Literal[".lora_A.", ".lora_B."] = ".lora_B."


class PrunedOptions(Section):
    importance: Literal["weights", "activations", "random"] | None = None


class OrthogonalOptions(Section):
    strength: float = Field(0.03, ge=0)
    relative: bool = True


class GaugeOptions(Section):
    merge: Literal["factor-mean", "overlap-mean", "sent-mean"] = "factor-mean"


class BandwidthOptions(Section):
    bandwidth: Literal["minmax", "equal", "random"] = "minmax"
    ranks: tuple[int, ...] | None = Field(None, description="of each client; null: adapter.rank")


def _of(section: type[Section], *names: str) -> type[Section]:
    """These keys of a method's section, as they are there."""
    fields: Any = {name: (section.model_fields[name].annotation, section.model_fields[name])
                   for name in names}  # fmt: skip
    return create_model(f"{section.__name__}Planner", __base__=Section, **fields)


_JCPBA = ("solver", "pruning_budget", "pruning_rate_max")
_TSFA = (
    "solver", "sparsity", "latency_target_s", "v", "virtual_queue", "outage_latency_s",
    "target_share",
)  # fmt: skip
"""Options of the planners, as their methods' sections name them."""


def _given(options: Section, names: Sequence[str]) -> dict[str, Any]:
    """These options, from a part's own or from a whole section of its method."""
    return {name: getattr(options, name) for name in names}


def _tsfa(bench: Bench, options: Any) -> TsfaPlanner:
    return TsfaPlanner(soft_layout(bench.model, options.selection), **_given(options, _TSFA))


def _bandwidth(bench: Bench, options: BandwidthOptions) -> BandwidthPlanner:
    clients, largest = bench.config.clients.count, bench.config.adapter.rank
    ranks = options.ranks
    if ranks is not None and (
        len(ranks) != clients or not all(1 <= rank <= largest for rank in ranks)
    ):
        raise InputError(
            "planner.ranks", str(list(ranks)), f"{clients} ranks, one a client, from 1 to {largest}"
        )
    return BandwidthPlanner(options.bandwidth, bench.config.seed, ranks)


def _ranks(bench: Bench, options: Any) -> BandwidthPlanner:
    speeds = [device.training_flop_rate for device in deal_devices(bench.config)]
    ranks = ranks_by_speed(speeds, options.rank_min, bench.config.adapter.rank)
    return BandwidthPlanner(options.bandwidth, bench.config.seed, ranks)


def _gauge(bench: Bench, options: GaugeOptions) -> SvdGauge:
    merge: Aggregator = AGGREGATORS[options.merge].make(bench, NoOptions())
    return SvdGauge(merge)


PLANNERS: Mapping[str, Shipped] = {
    "bandwidth": Shipped(BandwidthOptions, _bandwidth),
    "ranks": Shipped(_of(HetloraSection, "bandwidth", "rank_min"), _ranks),
    "jcpba": Shipped(
        _of(JcpbaSection, *_JCPBA),
        lambda bench, options: JcpbaPlanner(**_given(options, _JCPBA)),
    ),
    "tsfa": Shipped(_of(SoftTsfaSection, *_TSFA, "selection"), _tsfa),
    "sflllm": Shipped(
        _of(SflllmSection, "solver", "split_point", "split_points"),
        lambda bench, options: SflllmPlanner(**options.model_dump(), seed=bench.config.seed),
    ),
}  # fmt: skip
TUNERS: Mapping[str, Shipped] = {
    "full": Shipped(NoOptions, lambda bench, options: FullTuner()),
    "pruned": Shipped(
        PrunedOptions, lambda bench, options: PrunedTuner(bench.slicer(options.importance))
    ),
    "orthogonal": Shipped(
        OrthogonalOptions,
        lambda bench, options: OrthogonalTuner(options.strength, options.relative),
    ),
    "frozen-a": Shipped(NoOptions, lambda bench, options: FrozenATuner()),
    "first-ranks": Shipped(NoOptions, lambda bench, options: FirstRanksTuner()),
    "split": Shipped(
        NoOptions, lambda bench, options: split_method(bench.config, bench.model).tuner
    ),
}
CODECS: Mapping[str, Shipped] = {
    "dense": Shipped(DenseOptions, lambda bench, options: DenseCodec(options.dtype)),
    "int8": Shipped(
        Int8Options, lambda bench, options: Int8Codec(options.block, bench.config.seed)
    ),
    "sliced": Shipped(
        NumberOptions,
        lambda bench, options: SlicedCodec(bench.slicer(), options.dtype, bench.config.seed),
    ),
    "rank-sparse": Shipped(
        RankSparseOptions,
        lambda bench, options: RankSparseCodec(**options.model_dump(), seed=bench.config.seed),
    ),
    "top-k": Shipped(
        NumberOptions, lambda bench, options: TopKCodec(options.dtype, bench.config.seed)
    ),
    "svd": Shipped(
        NumberOptions, lambda bench, options: SvdCodec(options.dtype, bench.config.seed)
    ),
    "factor": Shipped(
        FactorOptions, lambda bench, options: FactorCodec(options.part, options.dtype)
    ),
    "first-ranks": Shipped(DenseOptions, lambda bench, options: FirstRanksCodec(options.dtype)),
    "half": Shipped(
        DenseOptions,
        lambda bench, options: replace(
            cast(HalfCodec, split_method(bench.config, bench.model).codec), dtype=options.dtype
        ),
    ),
}
AGGREGATORS: Mapping[str, Shipped] = {
    "factor-mean": Shipped(NoOptions, lambda bench, options: FactorMean()),
    "overlap-mean": Shipped(NoOptions, lambda bench, options: OverlapMean()),
    "sent-mean": Shipped(NoOptions, lambda bench, options: SentMean()),
    "zero-padded": Shipped(NoOptions, lambda bench, options: ZeroPaddedMean()),
    "svd-gauge": Shipped(GaugeOptions, _gauge),
    "halves-mean": Shipped(NoOptions, lambda bench, options: HalvesMean()),
}


def shipped_parts() -> Mapping[str, Mapping[str, Shipped]]:
    """Kind of part -> name -> the part: what an experiment can name, and what the tests cross."""
    return {"planner": PLANNERS, "tuner": TUNERS, "codec": CODECS, "aggregator": AGGREGATORS}
