"""PEFT adapters of many kinds, saved as PEFT saves them, with a change that is not 0."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from tests.models import small_model

FAMILY = "llama"


def base_model(family: str = FAMILY, layers: int = 3) -> Any:
    """The same weights every time."""
    extra = {"n_layer": layers} if family == "gpt2" else {"num_hidden_layers": layers}
    return small_model(family, seed=7, **extra)


def write_adapter(
    folder: Path, family: str = FAMILY, dtype: torch.dtype = torch.float32, **options: Any
) -> Path:
    """A trained adapter: its B is drawn, so that scale and choice of matrices matter."""
    model = get_peft_model(base_model(family), LoraConfig(task_type="CAUSAL_LM", **options))
    draws = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "lora_A" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=draws))
    model.save_pretrained(folder, save_embedding_layers=False)
    if dtype != torch.float32:
        path = folder / "adapter_model.safetensors"
        save_file({k: v.to(dtype) for k, v in load_file(path).items()}, path, {"format": "pt"})
    return folder


def change_config(folder: Path, **changes: Any) -> None:
    """Edit `adapter_config.json`."""
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def peft_logits(folder: Path, tokens: torch.Tensor, family: str = FAMILY) -> torch.Tensor:
    """What PEFT makes of the folder."""
    with torch.no_grad():
        model = PeftModel.from_pretrained(base_model(family), folder)
        logits: torch.Tensor = model.eval()(tokens).logits
    return logits
