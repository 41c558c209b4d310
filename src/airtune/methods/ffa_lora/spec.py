"""ffa_lora, described."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from airtune.config.experiment import ExperimentConfig
from airtune.methods.ffa_lora.options import FfaLoraSection
from airtune.methods.spec import Lazy, MethodSpec


def _rests_on(config: ExperimentConfig) -> Mapping[str, Any]:
    """The frozen factor of a warm start, which every process reads again."""
    if not config.adapter.start:
        return {}
    return {"adapter.start": Path(config.adapter.start) / "adapter_model.safetensors"}


FFA_LORA = MethodSpec(
    name="ffa_lora",
    title="federated LoRA with A frozen at its initial draw",
    references=("Sun et al., arXiv 2403.12313",),
    options=FfaLoraSection,
    compose=Lazy("airtune.methods.ffa_lora.compose:compose"),
    part_options={"planner": ("bandwidth",), "codec": ("uplink_dtype",)},
    rests_on=_rests_on,
    paces=True,
)
