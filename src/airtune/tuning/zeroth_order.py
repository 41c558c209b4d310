"""Local training without a backward pass: two losses a step along a direction from a seed.

A step takes one of K candidate directions z at random and measures

    g = (L(w + eps z) - L(w - eps z)) / (2 eps),    w <- w - eta g z

(simultaneous perturbation, Spall, IEEE TAC 37, 1992; on language models MeZO, Malladi et al.,
arXiv 2305.17333; with candidates of a federation Qin et al., arXiv 2312.06353). `g z` is unbiased
for the gradient of a smoothed loss, with a variance that grows with the number of parameters. What
a client has learned are its steps' numbers `-eta g`, which is all that need travel.

Parameters are moved in place and back, so nothing but the model is held: directions are drawn three
times a step, a chunk at a time.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch

from airtune.round_plan import ClientPlan
from airtune.tuning.adapter import AdapterState, load_state, read_state, trained_parameters
from airtune.tuning.directions import CHUNK, DRAW_FLOPS, Directions
from airtune.tuning.local import (
    LocalResult,
    TokenBatch,
    TrainingSettings,
    completion_losses,
    micro_batches,
    parts_of,
)
from airtune.tuning.tuner import Tuner, TuningContext
from airtune.workload.model_work import ModelWork
from airtune.workload.step import Step

MOVES = 3
"""How often a step adds its direction: there, across, and back with the step."""


@final
@dataclass(frozen=True)
class ZerothOrderTuner(Tuner):
    """Plain steps along candidate directions; `LocalResult.coefficients` has them.

    `index` [step] are the candidates taken, `coefficient` [step] is `-eta g`, fp32, with which the
    step is made. The state that comes back is where the client arrived in fp32, moved to and fro;
    `Directions` rebuild it from the coefficients but for that rounding.

    Args:
        directions: the candidates.
        epsilon: eps, by which parameters are moved along a direction for a loss.
    """

    finds_coefficients = True
    directions: Directions
    epsilon: float = 1e-3

    def flops(self, plan: ClientPlan, steps: Sequence[Step], work: ModelWork) -> float:
        """Two forward passes a step, and three times a direction drawn and added."""
        moves = MOVES * (DRAW_FLOPS + 2.0) * work.trained_numbers()
        return sum(2.0 * work.forward_flops(step) + moves for step in steps)

    def memory_bytes(self, plan: ClientPlan, step: Step, work: ModelWork) -> int:
        """That of a forward pass, and a chunk of a direction."""
        return work.inference_bytes(step) + 4 * min(CHUNK, work.trained_numbers())

    def tune(self, start: AdapterState, plan: ClientPlan, context: TuningContext) -> LocalResult:
        model, settings = context.model, context.training
        load_state(model, start)
        tensors = {name: tensor.detach() for name, tensor in trained_parameters(model).items()}
        rounds = context.round_index, plan.client, len(context.batches)
        taken = self.directions.drawn(*rounds).tolist()
        losses, label_tokens, found = [], 0, []
        with torch.no_grad():
            for index, batch in zip(taken, context.batches, strict=True):
                self.directions.move(tensors, index, self.epsilon)
                above, count = mean_loss(model, batch, settings)
                self.directions.move(tensors, index, -2 * self.epsilon)
                below, _ = mean_loss(model, batch, settings)
                slope = (above - below) / (2 * self.epsilon)
                found.append(torch.tensor(-settings.learning_rate * slope, dtype=torch.float32))
                self.directions.move(tensors, index, self.epsilon + float(found[-1]))
                losses.append((above + below) / 2)
                label_tokens += count
        coefficients = {
            "index": torch.tensor(taken, dtype=torch.int64),
            "coefficient": torch.stack(found) if found else torch.zeros(0),
        }
        return LocalResult(
            read_state(model), tuple(losses), label_tokens, coefficients=coefficients
        )


def mean_loss(model: Any, batch: TokenBatch, settings: TrainingSettings) -> tuple[float, int]:
    """Mean cross-entropy over a batch's completion tokens [nat], and their count; a part at a time.

    Summed in fp64: a difference of two losses has few digits to lose.
    """
    limit = settings.limit(next(model.parameters()).device.type)
    divided = (parts_of(small, limit) for small in micro_batches(batch, settings.micro_batches))
    losses = [completion_losses(model, part) for parts in divided for part in parts]
    total = sum(float(each.double().sum()) for each in losses)
    count = sum(len(each) for each in losses)
    return total / count, count
