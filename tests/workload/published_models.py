"""Published models at full size on torch's meta device: shapes without numbers, so 70 B fits."""

from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from airtune.tuning.adapter import linear_targets
from airtune.workload.adapter_shape import ALL_LINEAR
from airtune.workload.architecture import Architecture
from airtune.workload.config_source import read_config
from airtune.workload.step import Step


@dataclass(frozen=True)
class Measured:
    """What torch says of a model under an adapter."""

    parameters: int
    adapter_parameters: int
    forward_flops: int
    backward_flops: int


def measure_on_meta(name: str, rank: int, step: Step) -> Measured:
    """Build a bundled config with transformers and PEFT, and count with FlopCounterMode."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.workload.small_models import COUNTED_EXPERTS, quiet_peft

    config = read_config(name)
    mixture = Architecture.from_config(config).structure.experts is not None
    settings = AutoConfig.for_model(config.pop("model_type"), **config)
    if mixture:
        settings._experts_implementation = COUNTED_EXPERTS
    with torch.device("meta"), quiet_peft():
        model = AutoModelForCausalLM.from_config(settings, attn_implementation="eager").eval()
        targets = linear_targets(model, ALL_LINEAR)
        names = targets if isinstance(targets, str) else list(targets)
        lora = LoraConfig(r=rank, target_modules=names, task_type="CAUSAL_LM")
        model = get_peft_model(model, lora)
        length = step.tokens
        # Mask and positions are given, because working them out would read numbers.
        inputs = {
            "input_ids": torch.zeros(step.batch_size, length, dtype=torch.long),
            "attention_mask": torch.zeros(step.batch_size, 1, length, length),
            "position_ids": torch.arange(length).expand(step.batch_size, length),
        }
        with FlopCounterMode(display=False) as forward:
            logits = model(**inputs, use_cache=False).logits
        with FlopCounterMode(display=False) as backward:
            logits.sum().backward()
    sizes = {True: 0, False: 0}
    for parameter in model.parameters():
        sizes[parameter.requires_grad] += parameter.numel()
    return Measured(
        sizes[False], sizes[True], forward.get_total_flops(), backward.get_total_flops()
    )
