"""A client that trains a random choice of ranks: which ones, and how.

Both ends draw the choice from the plan's `sketch`, so that no index travels. The other ranks are
not trained, and not left out either: their product is merged into the client's base for the round,
so that it starts from the server's model to the bit of rounding and computes with an adapter of its
rank. (FSLoRA, arXiv 2501.19389, runs the sketched adapter alone, its product times r / k.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import final

import torch
from torch import Tensor

from airtune.round_plan import ClientPlan, Decision
from airtune.seeds import generator
from airtune.tuning.adapter import AdapterState, factor_pairs
from airtune.tuning.base_change import change_name, changed_base
from airtune.tuning.local import LocalResult
from airtune.tuning.pruning.slice import Cut
from airtune.tuning.pruning.tuner import low_rank_model, train_part
from airtune.tuning.tuner import FullTuner, Tuner, TuningContext
from airtune.workload.adapter_shape import Trained, adapter_tensors
from airtune.workload.architecture import Decoder
from airtune.workload.model_work import ModelWork
from airtune.workload.step import Step


def sketched_ranks(shapes: Mapping[str, Sequence[int]], plan: ClientPlan) -> dict[str, Tensor]:
    """The ranks that a client with this plan trains, ascending, by the name of the factor A.

    `plan.rank` of them, or all of a matrix with fewer; each matrix draws its own.
    """
    draws = generator(plan.sketch or 0, "ranks of a sketch")
    chosen: dict[str, Tensor] = {}
    for pair in factor_pairs(shapes):
        whole = shapes[pair.lora_a][0]
        kept = min(plan.rank, whole)
        ranks = torch.arange(kept)
        if plan.sketch is not None and kept < whole:
            ranks = torch.from_numpy(draws.permutation(whole)[:kept]).sort().values
        chosen[pair.lora_a] = ranks
    return chosen


def sketch_mask(shapes: Mapping[str, tuple[int, ...]], plan: ClientPlan) -> dict[str, Tensor]:
    """True in the coordinates of the chosen ranks."""
    ranks = sketched_ranks(shapes, plan)
    mask = {name: torch.zeros(shape, dtype=torch.bool) for name, shape in shapes.items()}
    for pair in factor_pairs(shapes):
        mask[pair.lora_a][ranks[pair.lora_a]] = True
        mask[pair.lora_b][:, ranks[pair.lora_a]] = True
    return mask


@final
@dataclass(frozen=True)
class SketchTuner(Tuner):
    """Trains the ranks of the plan's sketch; the others come back as they were.

    Clients of all ranks train like `FullTuner`. Others cannot be stacked, since each has a base of
    its own. Merging the other ranks costs `2 (r - k) in out` a matrix, which is charged.
    """

    honours = frozenset({Decision.RANK, Decision.SKETCH})
    on_factors = True

    def flops(self, plan: ClientPlan, steps: Sequence[Step], work: ModelWork) -> float:
        merged = _merging_flops(work.architecture, work.adapter, plan.rank)
        return sum(work.step_flops(step, rank=plan.rank) for step in steps) + merged

    def memory_bytes(self, plan: ClientPlan, step: Step, work: ModelWork) -> int:
        """Of an adapter of its rank, beside one copy of the whole adapter."""
        partial = _merging_flops(work.architecture, work.adapter, plan.rank) > 0
        return work.step_bytes(step, rank=plan.rank) + (work.adapter_bytes() if partial else 0)

    def tune(self, start: AdapterState, plan: ClientPlan, context: TuningContext) -> LocalResult:
        shapes = {name: tuple(tensor.shape) for name, tensor in start.items()}
        ranks = sketched_ranks(shapes, plan)
        rest = _unchosen_products(start, ranks)
        if not rest:
            return FullTuner().tune(start, plan, context)
        cuts: dict[str, Cut] = {}
        for pair in factor_pairs(start):
            kept = ranks[pair.lora_a]
            cuts[pair.lora_a], cuts[pair.lora_b] = Cut(rows=kept), Cut(columns=kept)
        with changed_base(context.model, rest):
            model = low_rank_model(context.model, plan.rank)
            return train_part(model, start, cuts, plan, context)


def _unchosen_products(start: AdapterState, ranks: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`B A` over the ranks that are not trained, by the name of the base's change."""
    products: dict[str, Tensor] = {}
    for pair in factor_pairs(start):
        a, b = start[pair.lora_a], start[pair.lora_b]
        others = torch.ones(len(a), dtype=torch.bool)
        others[ranks[pair.lora_a]] = False
        if others.any():
            products[change_name(pair)] = b[:, others] @ a[others]
    return products


@lru_cache(maxsize=256)
def _merging_flops(architecture: Decoder, adapter: Trained, rank: int) -> float:
    """`sum 2 (r - k) in out` over the matrices that have more ranks than are trained."""
    shapes = adapter_tensors(architecture, adapter)
    total = 0.0
    for pair in factor_pairs(shapes):
        (whole, width), out = shapes[pair.lora_a], shapes[pair.lora_b][0]
        total += 2.0 * max(whole - rank, 0) * width * out
    return total
