"""Whether a GPU's free memory holds the training, and how many tokens of it at once.

Settled before round 1, and recorded as `tokens_at_once`: how a batch is divided decides how sums
are rounded, and a resumed run divides it as before, whatever is free then.
"""

from dataclasses import replace

import torch

from airtune.config.experiment import ExperimentConfig
from airtune.errors import InputError
from airtune.experiment.trained import precision_of
from airtune.quantities import format_quantity
from airtune.tuning.base_model import CUDA, BaseModel
from airtune.tuning.label_loss import TOKENS_AT_ONCE
from airtune.workload.adapter_shape import Trained
from airtune.workload.architecture import Decoder
from airtune.workload.step import Step
from airtune.workload.transformer import workload

SHARE = 0.8
"""Of what is free: the rest is for temporaries and the allocator's fragments."""


def with_tokens(
    config: ExperimentConfig,
    base: BaseModel,
    architecture: Decoder,
    trained: Trained,
    device: str,
) -> ExperimentConfig:
    """The experiment with the tokens of one forward pass, where it runs on a GPU.

    As many rows of `data.max_tokens` tokens as a share of the free memory holds beside what is
    trained, at most `TOKENS_AT_ONCE`. The base is on the GPU already. Raises InputError where not
    even one row fits.
    """
    if device != CUDA or config.tokens_at_once is not None:
        return config
    tokens = min(config.data.max_tokens, architecture.max_tokens)
    # Rows of one pass: how many micro-batches follow one another makes no difference to it.
    precision = replace(precision_of(config), micro_batches=1)
    one, two = (
        workload(architecture, trained, Step(rows, tokens), precision=precision).memory_bytes
        for rows in (1, 2)
    )
    a_row = two - one
    beside = one - a_row - _base_bytes(base)
    free = SHARE * free_gpu_bytes() - beside
    if free < a_row:
        raise InputError(
            "device",
            config.device,
            f"cpu, or a GPU with at least {format_quantity((beside + a_row) / SHARE, 'byte')} free "
            f"beside the model, for one row of {tokens} tokens",
            "set device=cpu, data.max_tokens lower, training.gradient_checkpointing=true or a "
            "smaller dtype",
        )
    rows = int(free // a_row)
    return config.model_copy(update={"tokens_at_once": min(rows * tokens, TOKENS_AT_ONCE[CUDA])})


def _base_bytes(base: BaseModel) -> int:
    """What lies on the GPU already: the model's weights as they are held."""
    return sum(
        parameter.numel() * parameter.element_size() for parameter in base.model.parameters()
    )


def free_gpu_bytes() -> float:
    """What the driver says is free on the current GPU."""
    return float(torch.cuda.mem_get_info()[0])
