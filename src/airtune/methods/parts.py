"""The parts that belong to no single method, by the name that an experiment may give them.

A part is made on a bench: with the experiment, the adapted model and the parts beside it, so that
a pruned client and its codec cut the same slice. Parts of one method are in its `MethodSpec`.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import Field

from airtune.errors import InputError
from airtune.federated.bandwidth_planner import BandwidthPlanner
from airtune.methods.bench import Bench
from airtune.methods.options import NoOptions, NumberOptions
from airtune.methods.registry import specs_of
from airtune.methods.spec import PartSpec
from airtune.section import Section
from airtune.tuning.orthogonality import OrthogonalTuner
from airtune.tuning.partial import FirstRanksTuner, FrozenATuner
from airtune.tuning.tuner import FullTuner
from airtune.update.means import FactorMean, OverlapMean, SentMean, ZeroPaddedMean
from airtune.update.partial import FactorCodec, FirstRanksCodec
from airtune.update.products import FlexLora
from airtune.update.quantise import BLOCK, Int8Codec, whole_codec
from airtune.update.rank_sparse import RankSparseCodec
from airtune.update.server import Aggregator
from airtune.update.svd import SvdCodec, SvdGauge
from airtune.update.top_k import TopKCodec


class Int8Options(Section):
    block: int = Field(BLOCK, ge=1, description="numbers that share one scale")


class RankSparseOptions(NumberOptions):
    importance: Literal["change", "norm", "random"] = Field(
        "change", description="of a rank: of its change in this round | its norm | random"
    )
    choice: Literal["drawn", "largest"] = Field(
        "largest", description="ranks sent: drawn at random by their energy | the largest"
    )
    report: bool = Field(False, description="the energies of the ranks travel with the update")


class FactorOptions(NumberOptions):
    part: Literal[".lora_A.", ".lora_B."] = Field(".lora_B.", description="the factor that travels")


class OrthogonalOptions(Section):
    strength: float = Field(0.03, ge=0, description="of the orthogonality penalty")
    relative: bool = Field(True, description="inner products over the vectors' norms")


class GaugeOptions(Section):
    merge: Literal["factor-mean", "overlap-mean", "sent-mean"] = Field(
        "factor-mean", description="the mean whose factors are made orthogonal"
    )


class BandwidthOptions(Section):
    bandwidth: Literal["minmax", "equal", "random"] = Field(
        "minmax", description="least round latency | equal | random"
    )
    ranks: tuple[int, ...] | None = Field(None, description="of each client; null: adapter.rank")


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


def _gauge(bench: Bench, options: GaugeOptions) -> SvdGauge:
    merge: Aggregator = AGGREGATORS[options.merge].make(bench, NoOptions())
    return SvdGauge(merge)


PLANNERS: Mapping[str, PartSpec] = {"bandwidth": PartSpec(BandwidthOptions, _bandwidth)}
TUNERS: Mapping[str, PartSpec] = {
    "full": PartSpec(NoOptions, lambda bench, options: FullTuner()),
    "orthogonal": PartSpec(
        OrthogonalOptions,
        lambda bench, options: OrthogonalTuner(options.strength, options.relative),
    ),
    "frozen-a": PartSpec(NoOptions, lambda bench, options: FrozenATuner()),
    "first-ranks": PartSpec(NoOptions, lambda bench, options: FirstRanksTuner()),
}
CODECS: Mapping[str, PartSpec] = {
    "dense": PartSpec(
        NumberOptions, lambda bench, options: whole_codec(options.dtype, bench.config.seed)
    ),
    "int8": PartSpec(
        Int8Options, lambda bench, options: Int8Codec(options.block, bench.config.seed)
    ),
    "rank-sparse": PartSpec(
        RankSparseOptions,
        lambda bench, options: RankSparseCodec(**options.model_dump(), seed=bench.config.seed),
    ),
    "top-k": PartSpec(
        NumberOptions, lambda bench, options: TopKCodec(options.dtype, bench.config.seed)
    ),
    "svd": PartSpec(
        NumberOptions, lambda bench, options: SvdCodec(options.dtype, bench.config.seed)
    ),
    "factor": PartSpec(
        FactorOptions,
        lambda bench, options: FactorCodec(options.part, options.dtype, seed=bench.config.seed),
    ),
    "first-ranks": PartSpec(
        NumberOptions,
        lambda bench, options: FirstRanksCodec(options.dtype, bench.config.seed),
    ),
}
AGGREGATORS: Mapping[str, PartSpec] = {
    "factor-mean": PartSpec(NoOptions, lambda bench, options: FactorMean()),
    "overlap-mean": PartSpec(NoOptions, lambda bench, options: OverlapMean()),
    "sent-mean": PartSpec(NoOptions, lambda bench, options: SentMean()),
    "zero-padded": PartSpec(NoOptions, lambda bench, options: ZeroPaddedMean()),
    "flex-lora": PartSpec(
        NoOptions, lambda bench, options: FlexLora(), ("Bai et al., arXiv 2402.11505",)
    ),
    "svd-gauge": PartSpec(GaugeOptions, _gauge),
}


def known_parts(methods: Iterable[str] = ()) -> Mapping[str, Mapping[str, PartSpec]]:
    """Kind of part -> name -> the part: what an experiment can name, and what the tests cross.

    Parts of installed methods count where the method is among `methods`.
    """
    kinds: dict[str, dict[str, Any]] = {
        "planner": dict(PLANNERS),
        "tuner": dict(TUNERS),
        "codec": dict(CODECS),
        "aggregator": dict(AGGREGATORS),
    }
    for spec in specs_of(methods):
        for kind, parts in spec.parts.items():
            kinds[kind] |= parts
    return kinds
