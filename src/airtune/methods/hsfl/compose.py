"""The composition of hsfl: cuts of the clients' own, halves that stay with them."""

from airtune.errors import InputError
from airtune.federated.method import Method
from airtune.federated.splitting.cut_planner import OWN, CutPlanner
from airtune.methods.bench import Bench
from airtune.methods.hsfl.options import HsflSection
from airtune.methods.split_parts import depth_of, known_adapter, own_losses, system_of
from airtune.tuning.split.tuner import SplitSettings, SplitTuner
from airtune.update.means import HalvesMean
from airtune.update.partial import BroadcastHalf, HalfCodec


def compose(bench: Bench, options: HsflSection) -> Method:
    """Plan the cuts, train both sides together, keep the client halves at the clients."""
    config, model = bench.config, bench.model
    planner = CutPlanner(
        "hsfl",
        options.cuts if options.split_point is None else "common",
        options.split_point,
        options.client_halves,
        options.aggregate_every,
    )
    depth, system = depth_of(config, model), system_of(model, options, options.labels_at)
    keeps = planner.keeps_halves
    if keeps and options.client_halves != OWN and config.cohort.size is not None:
        raise InputError(
            "cohort.size",
            config.cohort.size,
            "null with hsfl.aggregate_every above 1",
            "a client that comes in between has no half of the period",
        )
    settings = SplitSettings(options.server_side, options.labels_at, keeps)
    return Method(
        "hsfl",
        planner,
        SplitTuner(model, system.cut, settings, depth.trained_point),
        HalfCodec(depth, options.uplink_dtype, config.seed),
        HalvesMean(),
        BroadcastHalf(
            HalfCodec(depth, options.downlink_dtype), known_adapter(config, model) if keeps else {}
        ),
        split=system,
        measure=own_losses if keeps else None,
        keeps_halves=keeps,
    )
