"""The composition of fedsl: one cut, thinned messages, pruned client halves, rare averaging."""

from dataclasses import replace
from typing import cast

from airtune.errors import InputError
from airtune.federated.method import Method
from airtune.federated.splitting.cut_planner import AVERAGED, CutPlanner
from airtune.methods.bench import Bench
from airtune.methods.fedsl.options import FedslSection
from airtune.methods.fedsl.planner import FedslPlanner
from airtune.methods.split_parts import KeptHalves, known_adapter
from airtune.tuning.pruning.fixed import FixedSlices
from airtune.tuning.split.tuner import SplitTuner
from airtune.update.halves import HalfCodec


def compose(bench: Bench, options: FedslSection) -> Method:
    """Plan cut and thinning, train both sides together, average the halves every few rounds."""
    target_s, deadline_s = options.latency_target_s, bench.config.deadline_s
    if target_s is not None and deadline_s is not None and target_s > deadline_s:
        raise InputError(
            "fedsl.latency_target_s",
            target_s,
            f"at most deadline_s, {deadline_s:g}",
            "clients that are planned for the target would miss the deadline",
        )
    halves = KeptHalves("fedsl", "common", options.split_point, AVERAGED, options.aggregate_every)
    method = halves.compose(bench, options)
    planner = FedslPlanner(
        cast(CutPlanner, method.planner),
        options.latency_target_s,
        options.cut_dropout,
        options.least_kept_share,
        options.pruning_rate,
    )
    method = replace(method, planner=planner)
    if options.pruning_rate == 0.0:
        return method
    slices = FixedSlices(bench.model, known_adapter(bench.config, bench.model))
    assert method.split is not None
    return replace(
        method,
        tuner=replace(cast(SplitTuner, method.tuner), slices=slices),
        codec=replace(cast(HalfCodec, method.codec), slices=slices),
        split=replace(method.split, pruning_rate=options.pruning_rate),
    )
