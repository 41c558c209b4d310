"""The composition of ferret, in the manner of Ferret (Shu et al., arXiv 2409.06277).

Clients train as in FedAvg, with every parameter (`adapter.kind: full`) or LoRA, and send inner
products of their change with directions from a seed. The broadcast is the whole adapter or model,
or where clients share directions the sums of coefficients that they lack.
"""

from dataclasses import asdict
from typing import Any

import numpy as np

from airtune.errors import InputError
from airtune.federated.bandwidth_planner import BandwidthPlanner
from airtune.federated.method import Exchange, Method
from airtune.methods.bench import Bench
from airtune.methods.ferret.options import CODEC_OPTIONS, FerretSection
from airtune.methods.ferret.recorded import Measured
from airtune.methods.options import given
from airtune.tuning.adapter import initial_state, trained_parameters
from airtune.tuning.tuner import FullTuner
from airtune.tuning.unweighted import UnweightedModel
from airtune.update.codec import DenseCodec, coordinates, shapes_of
from airtune.update.means import FactorMean
from airtune.update.seeded import SeededCodec
from airtune.update.seeded_downlink import SeededDownlink, SeededSum

_WHOLE = "or leave ferret.downlink at model"


def compose(bench: Bench, options: FerretSection) -> Method:
    """Divide the band, train all, send coefficients, average what is rebuilt."""
    codec = seeded_codec(bench, options)
    sums = options.downlink == "coefficients"

    def measure(exchange: Exchange) -> dict[str, float | None]:
        return asdict(measured(codec, exchange))

    own = bench.config.codec is None
    return Method(
        "ferret",
        BandwidthPlanner(options.bandwidth, bench.config.seed),
        FullTuner(),
        codec,
        SeededSum(codec) if sums else FactorMean(),
        sums_down(bench, codec) if sums else DenseCodec(options.downlink_dtype),
        measure=measure if own else None,
    )


def sums_down(bench: Bench, codec: SeededCodec) -> SeededDownlink:
    """The broadcast of sums; InputError where no sum says what the server does."""
    config = bench.config
    count = coordinates(shapes_of(trained_parameters(bench.model)))
    for key, value, allowed, words in (
        ("ferret.shared", codec.shared, True, "true"),
        ("codec", config.codec, None, "left out"),
        ("server.optimizer", config.server.optimizer, "none", "none"),
        ("adapter.start", config.adapter.start, None, "null"),
    ):
        if value != allowed:
            raise InputError(key, value, f"{words} with ferret.downlink: coefficients", _WHOLE)
    if codec.directions >= count:
        allowed = f"fewer than the {count} numbers trained, with ferret.downlink: coefficients"
        raise InputError("ferret.directions", codec.directions, allowed, _WHOLE)
    unknown = isinstance(bench.model, UnweightedModel)
    start = {} if unknown else initial_state(bench.model, config.seed)
    return SeededDownlink(codec, start)


def seeded_codec(bench: Bench, options: Any) -> SeededCodec:
    """The codec alone."""
    return SeededCodec(**given(options, CODEC_OPTIONS), seed=bench.config.seed)


def measured(codec: SeededCodec, exchange: Exchange) -> Measured:
    """Norms and expected errors, from the norms that every payload has."""
    norms = [exchange.reported[update.client] for update in exchange.updates]
    if not norms:
        return Measured(None, None)
    count = coordinates(shapes_of(exchange.start))
    errors = [codec.expected_error(each, count) for each in norms]
    known = [error for error in errors if error is not None]
    return Measured(
        float(np.mean([np.linalg.norm(each) for each in norms])),
        float(np.mean(known)) if known else None,
    )
