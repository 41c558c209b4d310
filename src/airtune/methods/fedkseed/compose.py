"""The composition of fedkseed, in the manner of FedKSeed (Qin et al., arXiv 2312.06353).

Clients take zeroth-order steps along K candidate directions, send what they found on each, and get
the sums of all rounds, which are the model.
"""

from dataclasses import asdict

import numpy as np
import torch

from airtune.config.experiment import ExperimentConfig
from airtune.errors import InputError
from airtune.federated.bandwidth_planner import BandwidthPlanner
from airtune.federated.method import Exchange, Method
from airtune.methods.bench import Bench
from airtune.methods.fedkseed.options import FedkseedSection
from airtune.methods.fedkseed.recorded import Measured
from airtune.tuning.adapter import initial_state
from airtune.tuning.directions import Directions, SeededModel
from airtune.tuning.unweighted import UnweightedModel
from airtune.tuning.zeroth_order import ZerothOrderTuner
from airtune.update.coefficients import CoefficientCodec, CoefficientDownlink, CoefficientSum


def compose(bench: Bench, options: FedkseedSection) -> Method:
    """Divide the band, measure slopes, sum them, send the sums down."""
    config = bench.config
    _refuse(config)
    cohort = config.cohort.size or config.clients.count
    directions = Directions(config.seed, options.seeds)
    known = isinstance(bench.model, UnweightedModel)
    model = SeededModel(directions, {} if known else initial_state(bench.model, config.seed))
    return Method(
        "fedkseed",
        BandwidthPlanner(options.bandwidth, config.seed),
        ZerothOrderTuner(directions, options.epsilon),
        CoefficientCodec(directions, config.training.local_steps),
        CoefficientSum(model),
        CoefficientDownlink(model, min(options.seeds, cohort * config.training.local_steps)),
        measure=lambda exchange: asdict(measured(exchange)),
    )


def _refuse(config: ExperimentConfig) -> None:
    for key, value, needed, why in (
        (
            "server.optimizer",
            config.server.optimizer,
            "none",
            "whose model is a sum of coefficients, and nothing else moves it",
        ),
        (
            "adapter.start",
            config.adapter.start,
            None,
            "whose clients draw the adapter that they start from",
        ),
    ):
        if value != needed:
            allowed = f"{'null' if needed is None else needed} with fedkseed, {why}"
            raise InputError(key, value, allowed, "leave it out, or take another method")


def measured(exchange: Exchange) -> Measured:
    """What the round's clients found."""
    found = [one.coefficients for one in exchange.updates if one.coefficients is not None]
    if not found:
        return Measured(None, None)
    moved = torch.stack(found).ne(0).any(dim=0)
    return Measured(
        float(moved.sum()),
        float(np.mean([float(numbers.norm()) for numbers in found])),
    )
