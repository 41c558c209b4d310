"""How much a unit matters: from weights alone, weighted with activations, or at random.

Weights are those in force, W + s B A with s = alpha / rank and the broadcast adapter, in fp64, so
that client and server rank units alike without sending a mask.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from airtune.seeds import generator
from airtune.tuning.adapter import AdapterState, adapter_loaded, block_matrix, effective_weight
from airtune.tuning.local import TokenBatch
from airtune.tuning.pruning.slice import BlockScores, UnitLayout
from airtune.workload.architecture import Architecture
from airtune.workload.block import Linear, Role, Widths
from airtune.workload.model_work import ModelWork


def fingerprint(state: AdapterState) -> str:
    """A digest of names and exact values, whatever the order of the tensors."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(state):
        digest.update(f"{name}{tuple(state[name].shape)}".encode())
        digest.update(state[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


class Importance(ABC):
    """A rule that scores every unit of every block; the higher, the later it is removed."""

    def flops(self, work: ModelWork) -> float:
        """What a client computes for the scores of the charged model, once a round [FLOP]."""
        return 0.0

    def memory_bytes(self, work: ModelWork) -> int:
        """Peak memory of that; 0 where it runs through the model one matrix at a time."""
        return 0

    @abstractmethod
    def scores(
        self, model: Any, architecture: Architecture, state: AdapterState
    ) -> tuple[BlockScores, ...]:
        """One `BlockScores` for each block, of the adapted model with this adapter."""


@final
@dataclass(frozen=True)
class WeightImportance(Importance):
    """Squared norm of everything that a unit would take with it.

    Group importance in the manner of LLM-Pruner (Ma et al., arXiv 2305.11627, section 3.2) with
    the squared Frobenius norm: for an attention unit its rows of W_q, W_k, W_v and columns of W_o,
    for a neuron its rows of W_gate, W_up and its column of W_down. Biases and norms are left out;
    where KV heads stay, so do their (equal) shares.
    """

    def flops(self, work: ModelWork) -> float:
        return work.product_flops()

    def scores(
        self, model: Any, architecture: Architecture, state: AdapterState
    ) -> tuple[BlockScores, ...]:
        with adapter_loaded(model, state), torch.no_grad():
            return tuple(
                _weight_scores(model, architecture, index)
                for index in range(architecture.block_count)
            )


def _weight_scores(model: Any, architecture: Architecture, index: int) -> BlockScores:
    widths = architecture.widths
    layout = UnitLayout.of(widths)
    query_heads = torch.zeros(widths.heads, dtype=torch.float64)
    key_value_heads = torch.zeros(widths.kv_heads, dtype=torch.float64)
    neurons = torch.zeros(widths.neurons, dtype=torch.float64)
    for linear in architecture.structure.linears:
        weight = effective_weight(block_matrix(model, architecture, index, linear))
        role = linear.role
        if role in (Role.OUTPUT, Role.DOWN):
            energy = weight.square().sum(dim=0)
        else:
            energy = weight.square().sum(dim=1)
        if role in (Role.GATE, Role.UP, Role.DOWN):
            neurons += energy
        elif role in (Role.QUERY, Role.OUTPUT):
            query_heads += _per_head(energy, widths)
        elif role in (Role.KEY, Role.VALUE):
            key_value_heads += _per_head(energy, widths)
        elif role is Role.FUSED_GATE_UP:
            neurons += energy.reshape(2, -1).sum(dim=0)
        elif role is Role.FUSED_QKV:
            sizes = [widths.query, widths.key_value, widths.key_value]
            query, key, value = torch.split(energy, sizes)
            query_heads += _per_head(query, widths)
            key_value_heads += _per_head(key, widths) + _per_head(value, widths)
    attention = query_heads.reshape(layout.pools, layout.units, -1).sum(dim=2)
    if layout.pools == 1 and layout.units == widths.kv_heads:
        attention = attention + key_value_heads[None]
    return BlockScores(attention, neurons)


def _per_head(energy: Tensor, widths: Widths) -> Tensor:
    return energy.reshape(-1, widths.head_dim).sum(dim=1)


@final
@dataclass(frozen=True)
class ActivationImportance(Importance):
    """Mean squared length of what a unit adds to the residual stream on public batches.

    For an attention unit with output columns O_u and inputs z_u: E ||O_u z_u||^2 =
    tr(O_u C_u O_u^T) with C_u = E[z_u z_u^T]; for a neuron E[h_j^2] ||w_down,j||^2. This is what
    zeroing that unit alone takes out of its block (of Gemma 2 and 3, before the norm that follows),
    in the manner of Wanda (Sun et al., arXiv 2306.11695, equation 1) but for whole units. Padding
    does not count; how later blocks react is left out. Forward passes run in the model's dtype, so
    another kind of machine may rank near ties otherwise: see `update.sliced.SlicedCodec`.
    """

    batches: Sequence[TokenBatch]

    def flops(self, work: ModelWork) -> float:
        return work.scoring_flops(
            [(*batch.token_ids.shape, int(batch.attention_mask.sum())) for batch in self.batches]
        )

    def memory_bytes(self, work: ModelWork) -> int:
        return max(
            (work.forward_bytes(*batch.token_ids.shape) for batch in self.batches), default=0
        )

    def scores(
        self, model: Any, architecture: Architecture, state: AdapterState
    ) -> tuple[BlockScores, ...]:
        layout = UnitLayout.of(architecture.widths)
        statistics = [_Statistics(layout) for _ in range(architecture.block_count)]
        with adapter_loaded(model, state), torch.no_grad():
            for batch in self.batches:
                mask = torch.as_tensor(batch.attention_mask, dtype=torch.bool, device=model.device)
                with _listening(model, architecture, statistics, mask.reshape(-1)):
                    model(
                        input_ids=torch.as_tensor(batch.token_ids, device=model.device),
                        attention_mask=mask.to(torch.long),
                        use_cache=False,
                        logits_to_keep=1,  # scores need none
                    )
            return tuple(
                statistics[index].scores(
                    *(
                        effective_weight(block_matrix(model, architecture, index, linear))
                        for linear in _writers(architecture)
                    )
                )
                for index in range(architecture.block_count)
            )


class _Statistics:
    """Second moments of what the two writing matrices of one block read."""

    def __init__(self, layout: UnitLayout) -> None:
        self.layout = layout
        self.covariance = torch.zeros((), dtype=torch.float64)
        self.energy = torch.zeros((), dtype=torch.float64)

    def add_attention(self, inputs: Tensor) -> None:
        """Inputs of the output projection [position, query width]."""
        units = inputs.reshape(len(inputs), self.layout.pools * self.layout.units, -1)
        units = units.to("cpu", torch.float64).transpose(0, 1)
        self.covariance = self.covariance + units.mT @ units

    def add_neurons(self, inputs: Tensor) -> None:
        """Inputs of the down projection [position, neuron]."""
        self.energy = self.energy + inputs.to("cpu", torch.float64).square().sum(dim=0)

    def scores(self, output: Tensor, down: Tensor) -> BlockScores:
        """Scores for the matrices in force, both (hidden, in)."""
        count = self.layout.pools * self.layout.units
        columns = output.T.reshape(count, -1, output.shape[0])
        attention = ((self.covariance @ columns) * columns).sum(dim=(1, 2))
        return BlockScores(
            attention.reshape(self.layout.pools, self.layout.units),
            self.energy * down.square().sum(dim=0),
        )


def _writers(architecture: Architecture) -> tuple[Linear, Linear]:
    """The matrices that write into the residual stream: attention's, then the MLP's."""
    by_role = {linear.role: linear for linear in architecture.structure.linears}
    return by_role[Role.OUTPUT], by_role[Role.DOWN]


@contextmanager
def _listening(
    model: Any, architecture: Architecture, statistics: Sequence[_Statistics], real: Tensor
) -> Iterator[None]:
    """Collect what the writing matrices read, at the positions that are not padding."""
    handles = []
    for index, block in enumerate(statistics):
        adders = (block.add_attention, block.add_neurons)
        for linear, add in zip(_writers(architecture), adders, strict=True):

            def hook(module: Any, inputs: tuple[Tensor, ...], add: Any = add) -> None:
                add(inputs[0].reshape(len(real), -1)[real])

            matrix = block_matrix(model, architecture, index, linear)
            handles.append(matrix.register_forward_pre_hook(hook))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@final
@dataclass(frozen=True)
class RandomImportance(Importance):
    """Uniform draws, new for every broadcast adapter: the baseline that importance must beat."""

    seed: int = 0

    def scores(
        self, model: Any, architecture: Architecture, state: AdapterState
    ) -> tuple[BlockScores, ...]:
        layout = UnitLayout.of(architecture.widths)
        draws = generator(self.seed, f"random pruning {fingerprint(state)}")
        return tuple(
            BlockScores(
                torch.from_numpy(draws.random((layout.pools, layout.units))),
                torch.from_numpy(draws.random(architecture.widths.neurons)),
            )
            for _ in range(architecture.block_count)
        )
