"""Near-orthogonal LoRA factors, so that the ranks of `B A` do not overlap.

In the manner of SOFT (Kim and Choi, arXiv 2505.00333): with orthogonal columns of B and orthogonal
rows of A, `B A = sum_i b_i a_i^T` is a singular value decomposition up to scale, and the norms
`||b_i|| ||a_i||` are the singular values. Only off-diagonals are penalised: a penalty that also
of unit norms would destroy the importance in the norms.
"""

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from airtune.errors import InputError
from airtune.round_plan import ClientPlan
from airtune.seeds import integer_seed
from airtune.tuning.adapter import AdapterState, factor_pairs, read_state
from airtune.tuning.local import LocalResult, train_locally
from airtune.tuning.tuner import Tuner, TuningContext, TuningJob, tune_as_stack
from airtune.workload.model_work import ModelWork
from airtune.workload.step import Step

_SMALLEST_NORM = 1e-12


@final
@dataclass(frozen=True)
class OrthogonalityPenalty:
    """`strength * sum over matrices of ||offdiag(B^T B)||_F^2 + ||offdiag(A A^T)||_F^2`.

    Added to the mean loss of a step. That is the paper's form; B starts at 0, so its term is of
    fourth order in small norms and needs a strength of 1 to 1000 that depends on learning rate and
    time. `relative` divides each squared inner product by both vectors' norms, held constant:
    `(b_i . b_j)^2 / (||b_i|| ||b_j||)`, second order like the energy itself, so that one strength
    serves small and large factors (0.03 to 0.3 on small models).
    Factors may have leading axes (clients trained together); the penalty is the sum over them.
    """

    strength: float = 0.03
    relative: bool = True

    def __post_init__(self) -> None:
        if not 0.0 <= self.strength < float("inf"):
            raise InputError("penalty", self.strength, "a finite number, zero or more")

    def __call__(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """The penalty of these factors, a scalar that gradients flow through."""
        # A GPT-2 has 96 factors of 5 shapes: one batched product a shape, not one a factor.
        alike: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        for vectors in _rank_vectors(parameters):
            alike[tuple(vectors.shape)].append(vectors)
        terms = [self._overlap(torch.stack(group)) for group in alike.values()]
        return self.strength * torch.stack(terms).sum()

    def _overlap(self, vectors: Tensor) -> Tensor:
        """Squared inner products of different ranks, summed; `vectors` is [..., rank, entry]."""
        if self.relative:
            norms = torch.linalg.vector_norm(vectors.detach(), dim=-1, keepdim=True)
            vectors = vectors / norms.clamp_min(_SMALLEST_NORM).sqrt()
        gram = vectors @ vectors.mT
        return torch.triu(gram, diagonal=1).square().sum() * 2.0


def _rank_vectors(parameters: Mapping[str, Tensor]) -> Iterable[Tensor]:
    """Every factor as [..., rank, entry]: the rows of A, the columns of B."""
    for pair in factor_pairs(parameters):
        yield parameters[pair.lora_a]
        yield parameters[pair.lora_b].mT


@final
@dataclass(frozen=True)
class OrthogonalTuner(Tuner):
    """The whole model is trained, with an orthogonality penalty added to each step's loss."""

    on_factors = True
    strength: float = 0.03
    relative: bool = True

    def __post_init__(self) -> None:
        OrthogonalityPenalty(self.strength, self.relative)  # refuses a senseless strength

    def replaced_by(self, tuner: Tuner) -> Tuner:
        raise InputError(
            "tuner",
            type(tuner).__name__,
            f"left out with an orthogonality penalty ({self.strength:g})",
            "no other tuner applies it; set the penalty to 0, or leave the tuner out",
        )

    def flops(self, plan: ClientPlan, steps: Sequence[Step], work: ModelWork) -> float:
        # A Gram matrix V V^T of each factor forward; backward one such product for either V.
        whole = sum(work.step_flops(step) for step in steps)
        return whole + 3.0 * len(steps) * work.gram_flops()

    def tune(self, start: AdapterState, plan: ClientPlan, context: TuningContext) -> LocalResult:
        return train_locally(
            context.model,
            start,
            context.batches,
            context.training,
            dropout_seed=(context.seed, context.round_index, plan.client),
            carried=dict(context.carried),
            penalty=OrthogonalityPenalty(self.strength, self.relative),
        )

    def stackable(self, plan: ClientPlan, context: TuningContext) -> Hashable | None:
        return "whole model"

    def tune_stack(self, jobs: Sequence[TuningJob]) -> list[LocalResult]:
        return tune_as_stack(jobs, OrthogonalityPenalty(self.strength, self.relative))


def orthonormal_state(model: Any, seed: int) -> AdapterState:
    """The start of SOFT: A with orthonormal rows, uniformly distributed, and B = 0.

    Drawn from (seed, "orthonormal adapter"), in the order of the adapter's matrices. Raises
    InputError where the rank exceeds the input width, so that no such A exists.
    """
    state = read_state(model)
    draws = torch.Generator().manual_seed(integer_seed(seed, "orthonormal adapter"))
    for pair in factor_pairs(state):
        rank, width = state[pair.lora_a].shape
        if rank > width:
            raise InputError(
                "adapter.rank",
                rank,
                f"at most {width}, the input width of {pair.matrix}, for orthonormal rows",
            )
        torch.nn.init.orthogonal_(state[pair.lora_a], generator=draws)
        state[pair.lora_b].zero_()
    return state


@dataclass(frozen=True)
class MeanCosine:
    """Mean |cos| between the vectors of different ranks, over all pairs and all matrices."""

    lora_a: float
    lora_b: float


def mean_cosine(state: Mapping[str, Tensor]) -> MeanCosine:
    """How far the factors are from orthogonal: 0 is orthogonal, 1 is all parallel.

    A pair with a zero vector has no angle and is left out; without any pair the mean is 0.
    """
    pairs = factor_pairs(state)
    return MeanCosine(
        _mean_cosine([state[pair.lora_a] for pair in pairs]),
        _mean_cosine([state[pair.lora_b].T for pair in pairs]),
    )


def _mean_cosine(factors: Iterable[Tensor]) -> float:
    total, count = 0.0, 0
    for vectors in factors:
        directions = vectors.to(torch.float64)
        norms = torch.linalg.vector_norm(directions, dim=1, keepdim=True)
        # Ranks that are still at zero have no direction.
        directions = (directions / norms)[norms[:, 0] > 0]
        cosines = torch.triu(directions @ directions.T, diagonal=1).abs()
        total += float(cosines.sum())
        count += len(directions) * (len(directions) - 1) // 2
    return total / count if count else 0.0
