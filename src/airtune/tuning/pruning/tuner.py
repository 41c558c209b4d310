"""JCPBA's client: fine-tunes LoRA on a copy of the model that is really smaller.

In the manner of Pang et al., arXiv 2602.01024: less computing and less upload at once. Which units
stay follows from the pruning rate, the base and the broadcast adapter, so no mask travels.

The modules of the smaller model are new objects, so attributes that change (widths, heads) change
on them only; embeddings, norms, the LM head and every matrix that is kept whole are the same
tensors. The residual width stays, and so does `head_dim`, hence rotary tables, query and key norms
over one head, and the model's config, which still describes the whole model.
"""

import copy
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MethodType
from typing import Any, final

import torch
from torch import Tensor

from airtune.errors import DivergedError, InputError
from airtune.round_plan import ClientPlan, Decision
from airtune.tuning.adapter import (
    AdapterState,
    base_layer,
    block_matrix,
    read_state,
    stores_transposed,
)
from airtune.tuning.local import LocalResult, train_locally
from airtune.tuning.pruning.importance import Importance, fingerprint
from airtune.tuning.pruning.slice import (
    BlockScores,
    Cut,
    Cuts,
    KeptBlock,
    Slice,
    adapter_cuts,
    choose_slice,
    gather,
    masks,
    matrix_cut,
    scatter,
    take,
    whole_slice,
)
from airtune.tuning.stack import train_stacked
from airtune.tuning.tuner import Tuner, TuningContext, TuningJob
from airtune.workload.architecture import Architecture, architecture_of, require_prunable
from airtune.workload.block import Linear, Role
from airtune.workload.model_work import ModelWork
from airtune.workload.step import Step

_ATTENTION_ROLES = (Role.QUERY, Role.FUSED_QKV)


def sliced_model(model: Any, part: Slice) -> Any:
    """A PEFT model of the kept units only, with sliced LoRA factors under the same names.

    `model` is left as it was; training the answer does not touch it, adapter included.
    Raises InputError for a model whose attention is not that of its architecture.
    """
    twin = _detached_twin(model)
    for index, kept in enumerate(part.blocks):
        for linear in part.architecture.structure.linears:
            matrix = block_matrix(twin, part.architecture, index, linear)
            cut = matrix_cut(linear, kept, part.architecture.widths)
            _cut_matrix(matrix, cut)
            if linear.role in _ATTENTION_ROLES:
                _resize_attention(twin, part, index, linear, kept)
    for module in twin.modules():
        _own_trainables(module)
    return twin


def low_rank_model(model: Any, rank: int) -> Any:
    """A PEFT model with the first `rank` ranks of every LoRA factor, under the same names.

    Scales (alpha / rank) stay those of the whole adapter; `model` is left as it was.
    """
    twin = _detached_twin(model)
    for matrix in twin.modules():
        for factor in getattr(matrix, "lora_A", {}).values():
            _replace(factor, "weight", lambda a: a[:rank])
            factor.out_features = factor.weight.shape[0]
        for factor in getattr(matrix, "lora_B", {}).values():
            _replace(factor, "weight", lambda b: b[:, :rank])
            factor.in_features = factor.weight.shape[1]
    for module in twin.modules():
        _own_trainables(module)
    return twin


def _detached_twin(model: Any) -> Any:
    """The same model as another tree of modules."""
    seen: dict[int, Any] = {}
    twin = _twin(model, seen)
    for module in seen.values():
        _rebind_methods(module, seen)
    return twin


def _twin(module: Any, seen: dict[int, Any]) -> Any:
    """A new tree of modules over the same tensors; a shared module stays shared."""
    if id(module) not in seen:
        twin = copy.copy(module)
        # Tables of parameters, children, buffers, hooks and LoRA scales are the twin's own.
        tables = {name: copy.copy(x) for name, x in vars(module).items() if isinstance(x, dict)}
        vars(twin).update(tables)
        seen[id(module)] = twin
        for name, child in module._modules.items():
            if child is not None:
                twin._modules[name] = _twin(child, seen)
    return seen[id(module)]


def _rebind_methods(twin: Any, seen: dict[int, Any]) -> None:
    """Methods kept as attributes (PEFT keeps some) would hold on to, and run, the whole model."""
    for name, value in vars(twin).items():
        if isinstance(value, MethodType) and id(value.__self__) in seen:
            vars(twin)[name] = MethodType(value.__func__, seen[id(value.__self__)])


def _cut_matrix(matrix: Any, cut: Cut) -> None:
    layer = base_layer(matrix)
    transposed = stores_transposed(layer)
    in_storage = Cut(cut.columns, cut.rows) if transposed else cut
    _replace(layer, "weight", lambda weight: take(weight, in_storage))
    if layer.bias is not None:
        _replace(layer, "bias", lambda bias: take(bias, Cut(cut.rows)))
    outputs, inputs = layer.weight.shape[::-1] if transposed else layer.weight.shape
    if transposed:
        layer.nf, layer.nx = outputs, inputs
    for owner in {id(layer): layer, id(matrix): matrix}.values():
        if hasattr(owner, "in_features"):
            owner.in_features, owner.out_features = inputs, outputs
    if matrix is not layer:
        for factor in matrix.lora_A.values():
            _replace(factor, "weight", lambda a: take(a, Cut(columns=cut.columns)))
            factor.in_features = inputs
        for factor in matrix.lora_B.values():
            _replace(factor, "weight", lambda b: take(b, Cut(rows=cut.rows)))
            factor.out_features = outputs


def _replace(layer: Any, name: str, change: Callable[[Tensor], Tensor]) -> None:
    """Put the changed tensor in the parameter's place; an unchanged one stays the same object."""
    old = layer._parameters[name]
    new = change(old.detach())
    if new.shape != old.shape:
        layer._parameters[name] = torch.nn.Parameter(new, requires_grad=old.requires_grad)


def _resize_attention(twin: Any, part: Slice, index: int, linear: Linear, kept: KeptBlock) -> None:
    """Set what attention modules keep about widths and read in their forward pass."""
    widths = part.architecture.widths
    path = f"{part.architecture.structure.block_path}.{index}.{linear.name}"
    attention = twin.get_base_model().get_submodule(path.rpartition(".")[0])
    if attention.head_dim != widths.head_dim:
        raise InputError(
            "config.head_dim", widths.head_dim, f"{attention.head_dim}, as in the model itself"
        )
    heads, key_value_heads = len(kept.query_heads), len(kept.key_value_heads)
    if linear.role is Role.FUSED_QKV and hasattr(attention, "config"):
        # Phi-3 finds the keys in its fused answer by the config's number of heads.
        attention.config = copy.copy(attention.config)
        attention.config.num_attention_heads = heads
    sizes = {
        "num_heads": heads,
        "num_key_value_heads": key_value_heads,
        "num_key_value_groups": heads // key_value_heads,
        "split_size": heads * widths.head_dim,
    }
    for name, size in sizes.items():
        if hasattr(attention, name):
            setattr(attention, name, size)


def _own_trainables(module: Any) -> None:
    """Trainable tensors get storage of their own, or the whole model would be trained along."""
    for name, parameter in module._parameters.items():
        if parameter is not None and parameter.requires_grad:
            module._parameters[name] = torch.nn.Parameter(parameter.detach().clone())


@final
@dataclass(frozen=True, eq=False)
class Slicer:
    """Derives the slice from the broadcast adapter and a rate; client and server each have one.

    Raises InputError for a model of whose blocks no unit can be removed. The scores of the latest
    adapter are kept, so a round computes them once for all its clients. `fixed` takes the place of
    tensors that differ between clients, so that all ends rank alike.
    """

    model: Any
    importance: Importance
    fixed: Mapping[str, Tensor] = field(default_factory=dict)
    _latest: dict[str, tuple[BlockScores, ...]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        require_prunable(self.architecture)

    @cached_property
    def architecture(self) -> Architecture:
        """The whole model's architecture."""
        config = self.model.get_base_model().config.to_dict()
        return require_prunable(architecture_of(config))

    def slice(self, broadcast: Mapping[str, Tensor], pruning_rate: float) -> Slice:
        """The units that a client with this rate keeps in the round of this broadcast.

        Rate 0 keeps everything, so it needs no importance.
        """
        if pruning_rate == 0:
            return whole_slice(self.architecture)
        return choose_slice(self.architecture, self.scores(broadcast), pruning_rate)

    def scores(self, broadcast: Mapping[str, Tensor]) -> tuple[BlockScores, ...]:
        """Importance of every unit with this adapter."""
        state = {**broadcast, **self.fixed}
        key = fingerprint(state)
        if key not in self._latest:
            scores = self.importance.scores(self.model, self.architecture, state)
            for block in scores:
                if not bool(block.attention.isfinite().all() and block.neurons.isfinite().all()):
                    raise DivergedError(
                        "the importance of the units to prune is not finite: lower "
                        "training.learning_rate."
                    )
            self._latest.clear()
            self._latest[key] = scores
        return self._latest[key]

    def kept(self, broadcast: Mapping[str, Tensor], pruning_rate: float) -> dict[str, Tensor]:
        """True where an adapter coordinate is trained and sent, in whole shapes."""
        cuts = adapter_cuts(self.slice(broadcast, pruning_rate), broadcast)
        return masks({name: tuple(x.shape) for name, x in broadcast.items()}, cuts)


@final
@dataclass(frozen=True)
class PrunedTuner(Tuner):
    """Trains the planned slice; coordinates outside it come back exactly as they started."""

    honours = frozenset({Decision.PRUNING})
    on_factors = True
    slicer: Slicer

    def flops(self, plan: ClientPlan, steps: Sequence[Step], work: ModelWork) -> float:
        rate = plan.pruning_rate
        trained = sum(work.step_flops(step, rate) for step in steps)
        # A client that prunes ranks the whole model's units first, once a round.
        ranking = self.slicer.importance.flops(work) if rate else 0.0
        return trained + ranking

    def affine_flops(
        self, plan: ClientPlan, steps: Sequence[Step], work: ModelWork
    ) -> tuple[float, float]:
        lines = [work.affine_flops(step) for step in steps]
        return sum(fixed for fixed, _ in lines), sum(prunable for _, prunable in lines)

    def memory_bytes(self, plan: ClientPlan, step: Step, work: ModelWork) -> int:
        training = work.step_bytes(step, plan.pruning_rate)
        ranking = self.slicer.importance.memory_bytes(work) if plan.pruning_rate else 0
        return max(training, ranking)

    def tune(self, start: AdapterState, plan: ClientPlan, context: TuningContext) -> LocalResult:
        """Train as planned; the result's state has the start's names and shapes."""
        part = self.slicer.slice(start, plan.pruning_rate)
        cuts = adapter_cuts(part, start)
        model = sliced_model(context.model, part)
        return train_part(model, start, cuts, plan, context)

    def stackable(self, plan: ClientPlan, context: TuningContext) -> Hashable | None:
        return plan.pruning_rate

    def tune_stack(self, jobs: Sequence[TuningJob]) -> list[LocalResult]:
        """Clients with the same slice share one sliced model.

        Clients of one rate have the same slice where they received the same adapter.
        """
        parts = [self.slicer.slice(job.start, job.plan.pruning_rate) for job in jobs]
        if any(part != parts[0] for part in parts):
            return [self.tune(job.start, job.plan, job.context) for job in jobs]
        model = sliced_model(jobs[0].context.model, parts[0])
        names = list(read_state(model))
        cuts = adapter_cuts(parts[0], jobs[0].start)
        ordered = [{name: job.start[name] for name in names} for job in jobs]
        results = train_stacked(
            model,
            [gather(job.start, cuts) for job in jobs],
            [job.context.batches for job in jobs],
            jobs[0].context.training,
            [
                _cut_moments(job.context.carried, start, cuts)
                for job, start in zip(jobs, ordered, strict=True)
            ],
        )
        return [
            _whole_result(result, job.start, job.context.carried, start, cuts)
            for result, job, start in zip(results, jobs, ordered, strict=True)
        ]


def train_part(
    model: Any, start: AdapterState, cuts: Cuts, plan: ClientPlan, context: TuningContext
) -> LocalResult:
    """Train the part of the adapter that `cuts` keep, on a model of that part; the result has whole
    shapes, and what was cut away comes back as it started."""
    # Moments are numbered in the model's order, which need not be that of `start`.
    in_order = {name: start[name] for name in read_state(model)}
    result = train_locally(
        model,
        gather(start, cuts),
        context.batches,
        context.training,
        dropout_seed=(context.seed, context.round_index, plan.client),
        carried=_cut_moments(context.carried, in_order, cuts),
    )
    return _whole_result(result, start, context.carried, in_order, cuts)


def _whole_result(
    result: LocalResult,
    start: AdapterState,
    carried: Mapping[str, Tensor],
    in_order: AdapterState,
    cuts: Cuts,
) -> LocalResult:
    """A slice's result in whole shapes."""
    return replace(
        result,
        state=scatter(start, cuts, result.state),
        carried=_whole_moments(carried, result.carried, in_order, cuts),
    )


def _cut_moments(
    carried: Mapping[str, Tensor], start: AdapterState, cuts: Cuts
) -> dict[str, Tensor]:
    """The kept part of optimiser moments, named `<index of the adapter tensor>.<entry>`."""
    names = list(start)
    return {
        key: value if value.dim() == 0 else take(value, cuts[names[_index(key)]])
        for key, value in carried.items()
    }


def _whole_moments(
    before: Mapping[str, Tensor], after: Mapping[str, Tensor], start: AdapterState, cuts: Cuts
) -> dict[str, Tensor]:
    """Moments in whole shapes: a coordinate outside the slice keeps what it had, at first 0.

    Adam's step count is one for a whole tensor, so a coordinate that sat out counts those steps.
    """
    names = list(start)
    merged: dict[str, Tensor] = {}
    for key, value in after.items():
        name = names[_index(key)]
        old = before.get(key, torch.zeros_like(start[name]))
        merged[key] = value if value.dim() == 0 else scatter({name: old}, cuts, {name: value})[name]
    return merged


def _index(key: str) -> int:
    return int(key.partition(".")[0])
