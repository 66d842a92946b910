"""A released config.json is understood, or refused by the name of a field."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hub_models import CONFIGS

from tiny_lm.config import deepseek_v3
from tiny_lm.hub_config import describe
from tiny_lm.hub_fields import read

# As released with the weights.
DEEPSEEK_V3 = """{
  "architectures": ["DeepseekV3ForCausalLM"], "attention_bias": false,
  "attention_dropout": 0.0,
  "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config",
    "AutoModel": "modeling_deepseek.DeepseekV3Model",
    "AutoModelForCausalLM": "modeling_deepseek.DeepseekV3ForCausalLM"},
  "bos_token_id": 0, "eos_token_id": 1, "ep_size": 1, "first_k_dense_replace": 3,
  "hidden_act": "silu", "hidden_size": 7168, "initializer_range": 0.02,
  "intermediate_size": 18432, "kv_lora_rank": 512, "max_position_embeddings": 163840,
  "model_type": "deepseek_v3", "moe_intermediate_size": 2048, "moe_layer_freq": 1,
  "n_group": 8, "n_routed_experts": 256, "n_shared_experts": 1,
  "norm_topk_prob": true, "num_attention_heads": 128, "num_experts_per_tok": 8,
  "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1,
  "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64,
  "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3",
    "quant_method": "fp8", "weight_block_size": [128, 128]},
  "rms_norm_eps": 1e-06,
  "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0,
    "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096, "type": "yarn"},
  "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid",
  "tie_word_embeddings": false, "topk_group": 4, "topk_method": "noaux_tc",
  "torch_dtype": "bfloat16", "transformers_version": "4.33.1", "use_cache": true,
  "v_head_dim": 128, "vocab_size": 129280
}"""


def _read(folder: Path, about: dict[str, Any]):
    (folder / "config.json").write_text(json.dumps(about))
    return read(folder)


def _with(about: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    """One field changed; `...` takes it out, a dot leads into an object."""
    outer, _, inner = name.partition(".")
    if inner:
        return about | {outer: _with(about[outer], inner, value)}
    if value is ...:
        return {key: about[key] for key in about if key != outer}
    return about | {outer: value}


def test_the_released_config_of_v3_is_our_preset(tmp_path):
    about = _read(tmp_path, json.loads(DEEPSEEK_V3))
    assert (about.halves, about.block) == (False, 128)
    preset = deepseek_v3()
    assert about.config == replace(
        preset,
        name=tmp_path.name,
        fp8=None,  # how to multiply is not for a file to say
        num_mtp=1,
        max_len=163_840,
        init_std=0.02,  # the paper says 0.006
    )


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_described_is_read_back(tmp_path, name):
    config = CONFIGS[name]
    back = _read(tmp_path, describe(config, "float32"))
    assert back.block is None
    got = back.config
    if config.moe:
        got = replace(got, moe=replace(got.moe, bias_rate=config.moe.bias_rate))
    assert replace(got, name=config.name) == config


def test_newer_names_of_the_same_fields_are_read(tmp_path):
    old = json.loads(DEEPSEEK_V3)
    scaling = old["rope_scaling"]
    new = {**scaling, "rope_type": scaling["type"], "rope_theta": 10_000.0}
    new_form = old | {"rope_parameters": new, "head_dim": 64, "qk_head_dim": 192}
    for gone in ("rope_scaling", "rope_theta"):
        del new_form[gone]
    assert _read(tmp_path, new_form) == _read(tmp_path, old)
    halves = _read(tmp_path, old | {"rope_interleave": False})
    assert halves.halves and halves.config == _read(tmp_path, old).config


def test_fields_that_are_off_or_have_no_effect_are_let_through(tmp_path):
    old = json.loads(DEEPSEEK_V3)
    more = {"new_feature": None, "other_feature": False, "pretraining_tp": 2}
    assert _read(tmp_path, old | more) == _read(tmp_path, old)


WRONG = {  # field -> value, and what is said of it
    "model_type": ("qwen3", "and tiny_lm reads deepseek_v3, glm4_moe, llama"),
    "hidden_act": ("gelu", "and this model has 'silu' alone"),
    "attention_bias": (True, "and this model has False alone"),
    "attention_dropout": (0.1, "and this model has 0.0 alone"),
    "tie_word_embeddings": (True, "and this model has False alone"),
    "norm_topk_prob": (False, "and this model has True alone"),
    "scoring_func": ("softmax", "and this model has 'sigmoid' alone"),
    "topk_method": ("group_limited_greedy", "and this model has 'noaux_tc' alone"),
    "moe_layer_freq": (2, "and this model has 1 alone"),
    "num_key_value_heads": (64, "and this model has 128 alone"),
    "rms_norm_eps": (1e-5, "and the norms of latents have 1e-06"),
    "topk_group": (2, "and this model would rank a group by 4 experts"),
    "hidden_size": ("7168", "and a whole number is wanted"),
    "num_hidden_layers": (61.5, "and a whole number is wanted"),
    "routed_scaling_factor": (True, "and a number is wanted"),
    "rope_interleave": (1, "and true or false is wanted"),
    "index_topk": (2048, "a field that tiny_lm does not know"),
    "rope_scaling.type": ("llama3", "which this model does not do"),
    "rope_scaling.mscale": (0.707, "and this model has 1.0 alone"),
    "rope_scaling.mscale_all_dim": (..., "and this model has 1.0 alone"),
    "rope_scaling.truncate": (False, "and this model has True alone"),
    "rope_scaling.low_freq_factor": (4, "a field that tiny_lm does not know"),
    "rope_scaling.original_max_position_embeddings": (163_840, "YaRN or not?"),
    "rope_parameters": ({"rope_type": "default"}, "says it once more"),
    "partial_rotary_factor": (0.5, "and this model has 1.0 alone"),
    "quantization_config.quant_method": ("gptq", "and this model has 'fp8' alone"),
    "quantization_config.activation_scheme": ("static", "has 'dynamic' alone"),
    "quantization_config.weight_block_size": ([1, 128], "square blocks are wanted"),
    "quantization_config.bits": (4, "a field that tiny_lm does not know"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_our_model_does_not_do_is_refused_by_the_name_of_the_field(tmp_path, name):
    value, message = WRONG[name]
    about = _with(json.loads(DEEPSEEK_V3), name, value)
    with pytest.raises(ValueError) as refused:
        _read(tmp_path, about)
    line = str(refused.value)
    assert line.startswith(str(tmp_path / "config.json")) and "\n" not in line
    assert name.rpartition(".")[2] in line or name == "rope_parameters"
    assert message in line


@pytest.mark.parametrize(
    "name", ["hidden_size", "q_lora_rank", "n_group", "model_type"]
)
def test_a_field_that_is_missing_is_named(tmp_path, name):
    with pytest.raises(ValueError, match=f"config.json.*{name}"):
        _read(tmp_path, _with(json.loads(DEEPSEEK_V3), name, ...))


def test_numbers_that_contradict_each_other_are_refused_with_the_file(tmp_path):
    about = json.loads(DEEPSEEK_V3) | {"n_group": 7}
    with pytest.raises(ValueError, match=r"config.json: num_groups=7 must divide"):
        _read(tmp_path, about)


def test_other_architectures_are_refused_what_they_do_beyond_ours(tmp_path):
    heads = describe(CONFIGS["heads and experts"], "float32")
    llama = describe(CONFIGS["tiny_dense"], "float32")
    for about, name, value in (
        (heads, "use_qk_norm", True),
        (heads, "partial_rotary_factor", ...),  # half of a head, where it is not said
        (llama, "attention_bias", True),
        (llama, "mlp_bias", True),
        (llama, "rope_scaling", {"rope_type": "yarn", "factor": 2.0}),
    ):
        with pytest.raises(ValueError, match="config.json"):
            _read(tmp_path, _with(about, name, value))
        _read(tmp_path, about)


@pytest.mark.parametrize("text", ["{", "[]", '"text"', "\xff"])
def test_what_is_no_json_object_is_refused(tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match="config.json"):
        read(tmp_path)


def test_a_folder_without_a_config_says_so(tmp_path):
    with pytest.raises(ValueError, match="cannot read .*config.json"):
        read(tmp_path)
