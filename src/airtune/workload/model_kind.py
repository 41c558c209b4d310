"""Configs that carry a known `model_type` and yet describe something else than a plain decoder."""

import re
from collections.abc import Mapping
from typing import Any

from airtune.errors import InputError

_CAUSAL = ("ForCausalLM", "LMHeadModel")
_EXPERTS = re.compile(r"(^|_)(experts?|moe)(_|$)")
_NESTED = ("vision_config", "audio_config", "text_config", "encoder", "decoder")


def refuse_other_kinds(config: Mapping[str, Any]) -> None:
    """Refuse classifiers, quantised weights, mixtures of experts, multimodal models and encoders.

    Each would be counted, or loaded, as the plain decoder of its family, which it is not. Raises
    InputError that names the key.
    """
    heads = config.get("architectures") or []
    if not isinstance(heads, list) or not all(isinstance(head, str) for head in heads):
        raise InputError("config.architectures", heads, "a list of class names")
    if heads and not any(head.endswith(_CAUSAL) for head in heads):
        raise InputError(
            "config.architectures", ", ".join(heads), "a causal language model (…ForCausalLM)",
            "it has another head, or none: choose the model that it was made from",
        )  # fmt: skip
    if config.get("quantization_config"):
        raise InputError(
            "config.quantization_config", config["quantization_config"], "absent",
            "LoRA here trains on unquantised weights: name the original model, and set dtype",
        )  # fmt: skip
    for key, value in config.items():
        if _EXPERTS.search(key) and value:
            raise InputError(
                f"config.{key}", value, "absent, since blocks are those of a plain decoder",
                "choose a model without experts",
            )  # fmt: skip
        if key in _NESTED and value:
            raise InputError(f"config.{key}", value, "absent", "choose a model of text alone")
    for key in ("is_encoder_decoder", "add_cross_attention"):
        if config.get(key):
            raise InputError(f"config.{key}", True, "false", "use a decoder without an encoder")


def refuse_own_code(config: Mapping[str, Any]) -> None:
    """Refuse a model that comes with Python code, unless the user allows it."""
    if config.get("auto_map"):
        raise InputError(
            "config.auto_map", config["auto_map"], "absent",
            "the model brings its own Python code, which may do anything: if you trust it, set "
            "trust_remote_code=true; if transformers' own class will do, remove auto_map",
        )  # fmt: skip
