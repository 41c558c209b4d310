"""The function that a warm start's tensors compute, from its `adapter_config.json`.

PEFT computes `W x + s B A x` with s = alpha / r, or alpha / sqrt(r) where `use_rslora` is set
(Kalajdzievski, arXiv 2312.03732, section 3); r and alpha may differ by matrix (`rank_pattern`,
`alpha_pattern`), and the adapted matrices are a choice by name, by layer or by regular expression.
All of that is honoured. A field that makes the function another one is refused by name.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, sqrt
from pathlib import Path
from typing import Any

from airtune.errors import InputError, foreign_input
from airtune.files import read_text
from airtune.tuning.adapter import read_adapter
from airtune.workload.adapter_shape import matrix_paths
from airtune.workload.architecture import Decoder

FIELD = "adapter.start"
_MERGE = "merge it into its base with PEFT (merge_and_unload), and name the saved model as model"
_PREFIX = "base_model.model."
_PEFT_DEFAULT = 8
"""Of r and of lora_alpha alike (peft.LoraConfig)."""

_HONOURED = frozenset(
    {
        "r",
        "lora_alpha",
        "use_rslora",
        "rank_pattern",
        "alpha_pattern",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
    }
)
"""Fields that define which matrices have an adapter, and with which rank and scale."""
_WITHOUT_EFFECT = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "fan_in_fan_out",
        "inference_mode",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
    }
)
"""Fields of where it came from, how it was first drawn or trained, or of what another switches on.

How a matrix lies in memory (`fan_in_fan_out`) PEFT reads off the layer, not from the file.
"""
_ALLOWED: Mapping[str, tuple[object, ...]] = {
    "peft_type": ("LORA",),
    "task_type": ("CAUSAL_LM", None),
    "bias": ("none",),
    # Drawn from data or from nothing; others (pissa, olora, corda, loftq) change the base itself.
    "init_lora_weights": (True, False, None, "gaussian", "eva", "orthogonal"),
}
"""Fields with values that change nothing; any other field must be empty."""
_REMEDY = {
    "bias": "its biases were trained, too: " + _MERGE,
    "task_type": "its base has another head: choose an adapter of a causal language model",
    "peft_type": "choose a LoRA adapter, or " + _MERGE,
    "init_lora_weights": "its first draw changed the base: save it as plain LoRA with PEFT "
    "(path_initial_model_for_weight_conversion), or " + _MERGE,
}


@dataclass(frozen=True)
class AdaptedMatrix:
    """Rank of a matrix's adapter, and the alpha whose alpha / rank is its scale."""

    rank: int
    alpha: float


def read_start(folder: Path, architecture: Decoder) -> dict[str, AdaptedMatrix]:
    """The adapted matrices by their path in the model, in module order.

    Raises InputError that names the field of `adapter_config.json` and the remedy, also where its
    choice of matrices, or a rank, is not that of the tensors beside it.
    """
    config = read_start_config(folder)
    held = _ranks_of_tensors(folder)
    paths = matrix_paths(architecture)
    odd = sorted(held.keys() - paths.keys())
    if odd:
        raise InputError(
            FIELD,
            f"{folder} (with an adapter on {odd[0]})",
            "an adapter of linear layers inside this model's blocks",
            _MERGE,
        )
    chosen = _chosen(config, folder, list(paths), list(held))
    found: dict[str, AdaptedMatrix] = {}
    for path in paths:
        if (path in chosen) != (path in held):
            what = "selects" if path in chosen else "leaves out"
            other = "have no" if path in chosen else "have a"
            raise _refused(
                folder,
                "target_modules",
                config.get("target_modules"),
                "the choice that its tensors were made with",
                f"it {what} {path}, of which the tensors {other} factor",
            )
        if path in held:
            found[path] = _matrix(config, folder, path, held[path])
    return found


def read_start_config(folder: Path) -> dict[str, Any]:
    """`adapter_config.json`, with every field that would make the function another one refused."""
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise InputError(
            FIELD,
            str(folder),
            "a PEFT adapter folder (adapter_config.json)",
            "without it the adapter's scale is unknown",
        )
    with foreign_input(FIELD, str(path), "a JSON object"):
        config = json.loads(read_text(path, FIELD))
    if not isinstance(config, dict):
        raise InputError(FIELD, str(path), "a JSON object of PEFT's keys")
    for key, value in config.items():
        if key in _ALLOWED:
            if not any(value is one or value == one for one in _ALLOWED[key]):
                shown = ", ".join(json.dumps(one) for one in _ALLOWED[key])
                raise _refused(folder, key, value, f"one of {shown}", _REMEDY[key])
        elif key not in _HONOURED | _WITHOUT_EFFECT and value not in (None, False, {}, [], ""):
            raise _refused(folder, key, value, "left out, since airtune does not do that", _MERGE)
    return config


def _refused(folder: Path, key: str, value: object, allowed: str, remedy: str) -> InputError:
    shown = json.dumps(value)
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    name = f"{key} in {folder / 'adapter_config.json'} ({FIELD})"
    return InputError(name, shown, allowed, remedy)


def _ranks_of_tensors(folder: Path) -> dict[str, int]:
    """Path of every matrix that the tensors adapt -> its rank."""
    ranks: dict[str, dict[str, int]] = {}
    for name, tensor in read_adapter(folder).items():
        path, _, factor = name.removesuffix(".weight").rpartition(".")
        if factor not in ("lora_A", "lora_B") or not name.startswith(_PREFIX) or tensor.ndim != 2:
            raise InputError(
                FIELD,
                f"{folder} (with the tensor {name})",
                "made of LoRA factors alone",
                "it holds more than an adapter: " + _MERGE,
            )
        rank = tensor.shape[0 if factor == "lora_A" else 1]
        ranks.setdefault(path.removeprefix(_PREFIX), {})[factor] = rank
    for path, pair in ranks.items():
        if len(pair) < 2 or pair["lora_A"] != pair["lora_B"]:
            raise InputError(
                FIELD, f"{folder} (with {path})", "made of factors A and B of one rank each"
            )
    return {path: pair["lora_A"] for path, pair in ranks.items()}


def _chosen(
    config: Mapping[str, Any], folder: Path, paths: list[str], held: list[str]
) -> frozenset[str]:
    """The paths that the config selects, by PEFT's own rules."""
    targets = config.get("target_modules")
    if targets is None:
        return frozenset(held)
    if targets == "all-linear":
        return frozenset(paths)
    from airtune.tuning.plain_peft import peft

    fits = peft.tuners.tuners_utils.check_target_module_exists
    keys = ("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern")
    shown = str(folder / "adapter_config.json")
    with foreign_input(FIELD, shown, "one whose choice of modules PEFT understands"):
        choice = peft.LoraConfig(
            **{key: config[key] for key in keys if config.get(key) is not None}
        )
        return frozenset(path for path in paths if fits(choice, path))


def _matrix(config: Mapping[str, Any], folder: Path, path: str, rank: int) -> AdaptedMatrix:
    key, wanted = _pattern(config, folder, "rank", path)
    if wanted != rank:
        raise _refused(folder, key, wanted, f"{rank}, as the tensors of {path} have", "mend it")
    key, alpha = _pattern(config, folder, "alpha", path)
    if not 0 < alpha < inf:
        raise _refused(folder, key, alpha, "a positive number", _MERGE)
    # alpha / sqrt(r) is another alpha over r.
    return AdaptedMatrix(rank, alpha * sqrt(rank) if config.get("use_rslora") else float(alpha))


def _pattern(config: Mapping[str, Any], folder: Path, kind: str, path: str) -> tuple[str, Any]:
    """The field that rules this matrix, and its value: of the first name that fits, or of all."""
    from airtune.tuning.plain_peft import peft

    common = "r" if kind == "rank" else "lora_alpha"
    pattern = config.get(f"{kind}_pattern") or {}
    shown = str(folder / "adapter_config.json")
    with foreign_input(FIELD, shown, f"one whose {kind}_pattern PEFT understands"):
        key = peft.utils.other.get_pattern_key(pattern.keys(), path)
        value = pattern.get(key, config.get(common, _PEFT_DEFAULT))
    name = f"{kind}_pattern.{key}" if key in pattern else common
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _refused(folder, name, value, "a number", "mend it")
    return name, value
