"""One side of a split model in training: its factors, their optimiser, and the loss at the end."""

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor

from airtune.errors import InputError
from airtune.tuning.adapter import AdapterState
from airtune.tuning.local import TrainingSettings, make_optimizer, placed
from airtune.tuning.split.cut_link import NO_LABEL


@final
class TrainedHalf:
    """Adapter factors as leaves of their own, so that many halves share one frozen base.

    Optimiser moments are kept by tensor name: where a client's split point moves between rounds,
    blocks that changed sides start with fresh moments. What goes out is on the processor.
    """

    def __init__(
        self,
        factors: AdapterState,
        training: TrainingSettings,
        carried: Mapping[str, Tensor],
        device: torch.device,
    ) -> None:
        if not factors:
            raise InputError(
                "adapter.target_modules",
                "absent from one side of the cut",
                "present in blocks on both sides",
            )
        self.factors = {
            name: value.detach().to(device, torch.float32, copy=True).requires_grad_()
            for name, value in factors.items()
        }
        self._training = training
        self._optimizer = make_optimizer(list(self.factors.values()), training)
        if training.keep_optimizer:
            for key, value in carried.items():
                name, _, entry = key.rpartition("/")
                if name in self.factors:
                    factor = self.factors[name]
                    self._optimizer.state[factor][entry] = placed(value, factor)

    def step(self) -> None:
        """One optimiser step on the gradients since the last one, clipped by their norm."""
        if self._training.max_grad_norm > 0:
            torch.nn.utils.clip_grad_norm_(self.factors.values(), self._training.max_grad_norm)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)

    def state(self) -> AdapterState:
        """A copy of the factors."""
        return {name: factor.detach().to("cpu", copy=True) for name, factor in self.factors.items()}

    def moments(self) -> dict[str, Tensor]:
        """What the optimiser carries over: `<tensor name>/<entry>`; empty unless it is kept."""
        if not self._training.keep_optimizer:
            return {}
        return {
            f"{name}/{entry}": value.detach().to("cpu", copy=True)
            for name, factor in self.factors.items()
            for entry, value in self._optimizer.state[factor].items()
            if isinstance(value, Tensor)
        }


def predicting_states(hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The final hidden states that a label is predicted from [label, hidden], and the labels.

    Position t predicts token t + 1, so the LM head runs on these alone.
    """
    wanted = labels[:, 1:] != NO_LABEL
    return hidden[:, :-1][wanted], labels[:, 1:][wanted]
