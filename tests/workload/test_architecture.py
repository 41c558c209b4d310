"""Architectures from configs alone: published totals, transformers' own models, refusals."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from airtune.errors import InputError
from airtune.tuning.base_model import load_base
from airtune.workload.adapter_shape import AdapterShape
from airtune.workload.architecture import Architecture, load_architecture
from airtune.workload.config_source import bundled_names, read_config
from airtune.workload.step import Step
from airtune.workload.transformer import workload
from tests.workload.small_models import CONFIGS, architecture, base_model, published

# Totals as the models' hub pages list them (safetensors metadata; for GPT-2 and OPT the counts that
# their papers' checkpoints load to). A tied LM head is counted once.
PUBLISHED = {
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "opt-125m": 125_239_296,
    "opt-350m": 331_196_416,
    "opt-1.3b": 1_315_758_080,
    "opt-6.7b": 6_658_473_984,
    "tinyllama-1.1b": 1_100_048_384,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "llama-3.1-8b": 8_030_261_248,
    "llama-3.1-70b": 70_553_706_496,
    "mistral-7b": 7_241_732_096,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-8b": 8_190_735_360,
    "gemma-2b": 2_506_172_416,
    "gemma-7b": 8_537_680_896,
    "phi-2": 2_779_683_840,
    "gemma-2-2b": 2_614_341_888,
    "gemma-2-9b": 9_241_705_984,
    "gemma-2-27b": 27_227_128_320,
    "gemma-3-270m": 268_098_176,
    "gemma-3-1b": 999_885_952,
    "phi-3-mini": 3_821_079_552,
    "phi-4-mini": 3_836_021_760,
    "phi-4": 14_659_507_200,
    "granite-3.3-2b": 2_533_539_840,
    "granite-3.1-8b": 8_170_848_256,
    "smollm3-3b": 3_075_098_624,
    "olmo-2-1b": 1_484_916_736,
    "olmo-2-7b": 7_298_617_344,
    "qwen3-30b-a3b": 30_532_122_624,
}


def _parameters(model: Architecture) -> int:
    return workload(model, AdapterShape(1), Step(1, 1)).parameters


def test_every_bundled_config_has_a_published_total() -> None:
    assert set(PUBLISHED) == set(bundled_names())


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_totals(name: str) -> None:
    assert _parameters(published(name)) == PUBLISHED[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_transformers_builds_the_same_size(name: str) -> None:
    config = read_config(name)
    settings = AutoConfig.for_model(config.pop("model_type"), **config)
    settings.num_hidden_layers = min(settings.num_hidden_layers, 2)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings)
    # Two blocks fix every shape; their number is a published figure of its own above.
    expected = sum(parameter.numel() for parameter in model.parameters())
    assert _parameters(Architecture.from_config(settings.to_dict())) == expected


@pytest.mark.parametrize("name", CONFIGS)
def test_small_models(name: str) -> None:
    real = sum(parameter.numel() for parameter in base_model(name).parameters())
    assert _parameters(architecture(name)) == real


OPTIONAL = [
    "num_key_value_heads",
    "head_dim",
    "tie_word_embeddings",
    "attention_bias",
    "mlp_bias",
    "n_inner",
    "enable_bias",
    "qk_layernorm",
    "hidden_act",
    "activation_function",
    "word_embed_proj_dim",
    "do_layer_norm_before",
    "layer_norm_elementwise_affine",
    "hidden_activation",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "num_experts",
    "num_local_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "decoder_sparse_step",
    "mlp_only_layers",
]


@pytest.mark.parametrize("family", [name for name in CONFIGS if "-" not in name])
def test_omitted_keys_mean_what_transformers_means(family: str) -> None:
    shape = {"vocab_size": 64, "hidden_size": 64, "num_hidden_layers": 1}
    shape |= {"num_attention_heads": 32, "max_position_embeddings": 16}
    shape |= {"ffn_dim": 24} if family == "opt" else {}
    shape |= {"intermediate_size": 24} if family not in {"gpt2", "opt"} else {}
    settings = AutoConfig.for_model(family, pad_token_id=0, **shape)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(settings)
    kept = {key: value for key, value in settings.to_dict().items() if key not in OPTIONAL}
    expected = sum(parameter.numel() for parameter in model.parameters())
    assert _parameters(Architecture.from_config(kept)) == expected


def test_null_kv_heads_mean_as_many_as_heads() -> None:
    config = read_config("mistral-7b")
    assert Architecture.from_config({**config, "num_key_value_heads": None}).widths.kv_heads == 32
    del config["num_key_value_heads"]
    assert Architecture.from_config(config).widths.kv_heads == 8


def test_local_folder_and_file(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(read_config("gpt2-medium")))
    expected = load_architecture("gpt2-medium")
    assert load_architecture(str(tmp_path)) == expected
    assert load_architecture(str(tmp_path / "config.json")) == expected


def test_real_configs(real_data: Path) -> None:
    assert load_architecture(str(real_data / "gpt2_tokenizer")).family == "gpt2"
    assert _parameters(published(str(real_data / "stories260K" / "hf"))) == 260_032


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"model_type": "gemma3"},
        "one of the families gpt2, opt, llama, mistral, qwen2, qwen3, gemma",
    ),
    ({"model_type": None}, r"config\.model_type is missing"),
    ({"hidden_size": None}, r"config\.hidden_size is missing"),
    ({"hidden_size": 64.0}, r"config\.hidden_size is 64\.0"),
    ({"hidden_size": True}, r"config\.hidden_size is True"),
    ({"vocab_size": -1}, r"config\.vocab_size is -1"),
    ({"num_key_value_heads": 3}, "a divisor of 32 heads"),
    ({"tie_word_embeddings": "no"}, r"config\.tie_word_embeddings is no"),
    ({"hidden_act": 3}, r"config\.hidden_act is 3"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_refusals(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Architecture.from_config({**read_config("llama-2-7b"), **change})


LATER_REFUSED: list[tuple[str, dict[str, Any], str]] = [
    ("gemma2", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True, .*lse"),
    ("gemma3_text", {"use_bidirectional_attention": True}, "use_bidirectional_attention is True"),
    ("gemma2", {"final_logit_softcapping": -1.0}, r"softcapping is -1\.0, .*a positive number, or"),
    (
        "gemma2",
        {"attn_logit_softcapping": "50"},
        "attn_logit_softcapping is 50, .* a positive numb",
    ),
    ("qwen3_moe", {"mlp_only_layers": [0]}, r"mlp_only_layers is \[0\], .* \[\]: experts in every"),
    ("qwen3_moe", {"decoder_sparse_step": 2}, "decoder_sparse_step is 2, .* 1: experts in every"),
    ("qwen3_moe", {"num_experts_per_tok": 7}, "num_experts_per_tok is 7, .*at most 6, all experts"),
    ("qwen3_moe", {"num_local_experts": 0}, "num_local_experts is 0, .*a positive whole number"),
    ("phi3", {"quantization_config": {"bits": 4}}, "quantization_config"),
]


@pytest.mark.parametrize(("name", "change", "sentence"), LATER_REFUSED)
def test_refusals_of_single_families(name: str, change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        Architecture.from_config({**CONFIGS[name]().to_dict(), **change})


def test_gpt2_refusals() -> None:
    config = read_config("gpt2")
    with pytest.raises(InputError, match="a divisor of the hidden width 768"):
        Architecture.from_config({**config, "n_head": 7})
    with pytest.raises(InputError, match="add_cross_attention"):
        Architecture.from_config({**config, "add_cross_attention": True})


def test_unreadable_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.json").write_text("{not json")
    with pytest.raises(InputError, match="not JSON"):
        load_architecture(str(tmp_path))
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(InputError, match="a JSON object"):
        load_architecture(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"a folder that holds config\.json"):
        load_architecture(str(tmp_path / "empty"))
    for name in ("no such name!", "gpt2-mediun"):
        with pytest.raises(InputError, match="a hub name has the form owner/name"):
            load_architecture(name)
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="nested too deeply"):
        load_architecture(str(tmp_path))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to connect fails the test, cached or not."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a connection was attempted")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["llama-3.1-9b", "no/such/path", "./nowhere", "~/nowhere", "a b"])
def test_only_hub_names_touch_the_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with pytest.raises(InputError, match="owner/name"):
        load_architecture(name)
    with pytest.raises(InputError, match="owner/name"):
        load_base(name)
    with pytest.raises(InputError, match="bundled config, a shape alone: name it as charge_as"):
        load_base("llama-3.1-8b")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architectures": ["LlamaForSequenceClassification"]}, r"architectures is LlamaForSeq"),
        ({"architectures": ["LlamaModel"]}, r"architectures is LlamaModel.*another head, or none"),
        ({"architectures": "LlamaForCausalLM"}, r"architectures is .* a list of class names"),
        ({"quantization_config": {"bits": 4}}, r"quantization_config is .*unquantised weights"),
        ({"num_local_experts": 8}, r"num_local_experts is 8, .*a model without experts"),
        ({"n_routed_experts": 4}, "n_routed_experts"),
        ({"moe_intermediate_size": 64}, "moe_intermediate_size"),
        ({"vision_config": {"depth": 2}}, "vision_config is .*a model of text alone"),
        ({"is_encoder_decoder": True}, "is_encoder_decoder is True"),
        ({"add_cross_attention": True}, "add_cross_attention is True"),
    ],
)
def test_other_kinds_of_model_are_no_plain_decoder(changes: dict[str, Any], sentence: str) -> None:
    plain = {
        **read_config("llama-3.2-1b"),
        "architectures": ["LlamaForCausalLM"],
        "quantization_config": None,
        "num_experts": 0,
    }
    assert Architecture.from_config(plain) == load_architecture("llama-3.2-1b")
    with pytest.raises(InputError, match=sentence):
        Architecture.from_config({**plain, **changes})


def test_offline_hub_names_fail_in_one_sentence() -> None:
    code = (
        "from airtune.workload.architecture import load_architecture\n"
        "from airtune.errors import InputError\n"
        "try: load_architecture('openai-community/gpt2-mediun')\n"
        "except InputError as error: print(error)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"HF_HUB_OFFLINE": "1", "HF_HOME": "/nonexistent"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "the closest bundled name is gpt2-medium" in run.stdout
    assert "HF_HUB_OFFLINE is set" in run.stdout
    assert run.stdout.count("\n") == 1
