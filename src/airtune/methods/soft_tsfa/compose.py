"""soft_tsfa: near-orthogonal LoRA factors, sent rank by rank as TSFA plans it.

In the manner of SOFT with TSFA (Kim and Choi, arXiv 2505.00333): near-orthogonal factors make the
norms of the ranks their singular values, so that the ranks to send are chosen without an SVD on the
client; each round's plan decides how many travel. Sent are the kept ranks' changes since the
broadcast; what is not sent did not change. The paper keeps factors orthogonal by a penalty on the
clients; by default the server does it when it has merged, which is exact and costs no loss.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from airtune.errors import InputError
from airtune.federated.method import Exchange, Method
from airtune.methods.bench import Bench
from airtune.methods.options import given
from airtune.methods.soft_tsfa.layout import RankLayout
from airtune.methods.soft_tsfa.measure import soft_terms
from airtune.methods.soft_tsfa.options import PLANNER_OPTIONS, SoftTsfaSection
from airtune.methods.soft_tsfa.planner import TsfaPlanner
from airtune.methods.soft_tsfa.recorded import Measured
from airtune.tuning.adapter import factor_pairs, read_state
from airtune.tuning.orthogonality import OrthogonalTuner, mean_cosine, orthonormal_state
from airtune.tuning.tuner import FullTuner, Tuner
from airtune.update.codec import Codec, DenseCodec, shapes_of
from airtune.update.error_feedback import FeedbackTuner
from airtune.update.means import FactorMean, SentMean
from airtune.update.quantise import whole_codec
from airtune.update.rank_sparse import RankSparseCodec, matrix_ranks, rank_payload
from airtune.update.server import Aggregator
from airtune.update.svd import SvdCodec, SvdGauge
from airtune.update.top_k import TopKCodec


@dataclass(frozen=True)
class SoftOptions:
    """How clients train and what they send; the planner's own options are `TsfaPlanner`'s.

    `merge`: see `SentMean`; whole updates have the plain mean. `orthogonalise`: see
    `update.svd`. `truncated_share` is what a rank search measured, for the rank term.

    `sparsifier`: `importance` is SOFT's; the others are what it is compared with: ranks at
    `random`, the largest coordinates in as many bits (`top-k`), a truncated SVD of each factor's
    change (`svd`), everything (`dense`). Only `importance` reports energies, so the others are
    planned with the assumed spectrum.
    """

    penalty: float = 0.0
    penalty_form: str = "relative"
    sparsifier: str = "importance"
    importance: str = "change"
    choice: str = "drawn"
    error_feedback: bool = False
    merge: str = "sent"
    orthogonalise: str = "svd"
    truncated_share: float | None = None
    uplink_dtype: str = "fp32"
    downlink_dtype: str = "fp32"


def compose(bench: Bench, options: SoftTsfaSection) -> Method:
    """Plan ranks and band, train near-orthogonal factors, send ranks, average."""
    config = bench.config
    if config.charge_as and options.selection == "global":
        raise InputError(
            "soft_tsfa.selection",
            "global",
            "per-layer together with charge_as",
            "counts by matrix of one model mean nothing for another",
        )
    if (
        config.aggregator is None
        and options.orthogonalise != "none"
        and config.server.optimizer != "none"
    ):
        raise InputError(
            "server.optimizer",
            config.server.optimizer,
            "none with soft_tsfa.orthogonalise=svd",
            "its moments belong to factors that are replaced; set soft_tsfa.orthogonalise=none",
        )
    planned = planner(bench, options)
    if options.sparsifier == "dense":
        planned = replace(planned, solver="dense")
    names = [field.name for field in fields(SoftOptions)]
    return soft_tsfa(planned, SoftOptions(**given(options, names)), config.seed)


def planner(bench: Bench, options: Any) -> TsfaPlanner:
    """The planner, from its own options or from the whole section."""
    layout = soft_layout(bench.model, options.selection)
    return TsfaPlanner(layout, **given(options, PLANNER_OPTIONS))


def soft_layout(model: Any, selection: str) -> RankLayout:
    """The ranks of the adapter that this model carries.

    Raises InputError where matrices differ in rank or scale: a rank's energy is weighed by one.
    """
    shapes = shapes_of(read_state(model))
    ranks = matrix_ranks(shapes)
    scales = {
        module.scaling[model.active_adapter]
        for module in model.modules()
        if isinstance(getattr(module, "scaling", None), dict)
    }
    for key, values in (("rank_pattern", set(ranks)), ("alpha_pattern", scales)):
        if len(values) > 1:
            raise InputError(
                f"adapter.{key}",
                "not the same for all matrices",
                "empty with soft_tsfa",
                "choose another method, or start from another adapter",
            )
    return RankLayout(tuple(ranks), tuple(rank_payload(shapes)), selection)


def soft_tsfa(planner: TsfaPlanner, options: SoftOptions, seed: int) -> Method:
    """The composition: plan ranks and band, train near-orthogonal factors, send ranks, average."""
    if options.sparsifier != "importance" and planner.layout.selection == "global":
        raise InputError(
            "soft_tsfa.selection",
            "global",
            "per-layer with this sparsifier",
            f"{options.sparsifier} knows no importance by matrix",
        )
    if options.error_feedback and options.merge != "mean":
        raise InputError(
            "soft_tsfa.merge",
            options.merge,
            "mean together with error_feedback",
            "the other merge would count twice what was left out",
        )
    if options.error_feedback and options.orthogonalise == "svd":
        raise InputError(
            "soft_tsfa.orthogonalise",
            "svd",
            "none together with error_feedback",
            "what a client left out belongs to factors that the server has replaced",
        )
    codec = _codec(options, seed)
    relative = options.penalty_form == "relative"
    tuner: Tuner = OrthogonalTuner(options.penalty, relative) if options.penalty else FullTuner()
    return Method(
        "soft_tsfa",
        planner,
        FeedbackTuner(tuner, codec) if options.error_feedback else tuner,
        codec,
        _merge(options),
        DenseCodec(options.downlink_dtype),
        start=orthonormal_state,
        measure=partial(measure_soft, planner.layout, options.truncated_share),
    )


def _merge(options: SoftOptions) -> Aggregator:
    whole = options.sparsifier in ("dense", "svd")
    mean: Aggregator = FactorMean() if whole or options.merge == "mean" else SentMean()
    return SvdGauge(mean) if options.orthogonalise == "svd" else mean


def _codec(options: SoftOptions, seed: int) -> Codec:
    dtype = options.uplink_dtype
    random = RankSparseCodec("random", dtype, seed=seed)
    if options.sparsifier == "dense":
        return whole_codec(dtype, seed)
    if options.sparsifier == "top-k":
        return TopKCodec(dtype, seed, within=random)
    if options.sparsifier == "svd":
        return SvdCodec(dtype, seed)
    if options.sparsifier == "random":
        return random
    return RankSparseCodec(
        options.importance, options.uplink_dtype, report=True, seed=seed, choice=options.choice
    )


def measure_soft(
    layout: RankLayout, truncated_share: float | None, exchange: Exchange
) -> dict[str, float | None]:
    """How orthogonal the factors are, and the terms of the bound; in a record's `measured`.

    The terms need reports, so without them (another sparsifier) only the covariance is known; the
    rank term also needs a rank search.
    """
    cosine = mean_cosine(exchange.merged)
    said = len(exchange.reported) == len(exchange.updates) > 0
    shares = [
        dropped_share(layout, exchange.reported[update.client], update.sent) if said else 0.0
        for update in exchange.updates
    ]
    terms = soft_terms(exchange.start, exchange.updates, shares, truncated_share)
    measured = Measured(
        cosine_a=cosine.lora_a,
        cosine_b=cosine.lora_b,
        covariance_energy=terms.covariance,
        update_energy=terms.update if said else None,
        rank_energy=terms.rank if said else None,
        dropped_energy=terms.sparsification if said else None,
    )
    return asdict(measured)


def dropped_share(
    layout: RankLayout, reported: Sequence[float], sent: Mapping[str, Tensor] | None
) -> float:
    """Share of its energy that a client did not send: that of the ranks outside its mask."""
    if sent is None:
        return 0.0
    table = layout.table(reported)
    arrived = np.array([sent[pair.lora_a][:, 0].numpy() for pair in factor_pairs(sent)])
    lost, total = table[~arrived].sum(), table.sum()
    return float(lost / total) if total > 0 else 0.0
