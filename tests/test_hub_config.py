"""Each model goes to the stock architecture that computes the same, or to none."""

from dataclasses import replace

import pytest
from hub_models import CONFIGS, DENSE, KINDS, SMALL

from tiny_lm.config import (
    ModelConfig,
    YarnConfig,
    deepseek_v3,
    llama_405b,
    qwen_72b,
    tiny,
    tiny_dense,
)
from tiny_lm.hub_config import architecture, describe


def test_presets_find_their_architecture():
    wanted = {
        tiny: "deepseek_v3",
        tiny_dense: "llama",
        deepseek_v3: "deepseek_v3",
        llama_405b: "llama",
        qwen_72b: "glm4_moe",  # biases, which Llama has not
    }
    assert {preset: architecture(preset()) for preset in wanted} == wanted


@pytest.mark.parametrize("name", CONFIGS)
def test_a_description_names_its_class_and_no_end_of_text(name):
    about = describe(CONFIGS[name], "bfloat16")
    kind = KINDS.get(name, "deepseek_v3")
    assert about["model_type"] == kind
    (made_by,) = about["architectures"]
    assert made_by.lower() == kind.replace("_", "") + "forcausallm"
    assert about["torch_dtype"] == "bfloat16"
    assert about["eos_token_id"] is None  # theirs would be byte 1
    assert "quantization_config" not in about


def test_v3_is_described_with_the_fields_and_numbers_that_were_released():
    config = replace(deepseek_v3(), num_mtp=1, max_len=163_840)
    about = describe(config, "bfloat16", block=128)
    released = {
        "first_k_dense_replace": 3,
        "hidden_size": 7168,
        "intermediate_size": 18_432,
        "kv_lora_rank": 512,
        "moe_intermediate_size": 2048,
        "n_group": 8,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_attention_heads": 128,
        "num_experts_per_tok": 8,
        "num_nextn_predict_layers": 1,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "rope_theta": 10_000,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "topk_group": 4,
        "topk_method": "noaux_tc",
        "v_head_dim": 128,
        "rope_scaling": {
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 40,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 4096,
            "type": "yarn",
        },
        "quantization_config": {
            "activation_scheme": "dynamic",
            "fmt": "e4m3",
            "quant_method": "fp8",
            "weight_block_size": [128, 128],
        },
    }
    assert {name: about[name] for name in released} == released


def test_a_stretch_that_is_not_in_force_is_not_described():
    yarn = YarnConfig(factor=4.0, original_len=SMALL.max_len)
    config = replace(SMALL, attention=replace(SMALL.attention, yarn=yarn))
    assert describe(config, "float32")["rope_scaling"] is None


def test_groups_are_described_where_they_leave_experts_out():
    """Theirs rank a group by two experts even where a group has one."""
    lone = replace(SMALL, moe=replace(SMALL.moe, num_groups=8, top_groups=8))
    about = describe(lone, "float32")
    assert (about["n_group"], about["topk_group"]) == (1, 1)
    about = describe(SMALL, "float32")
    assert (about["n_group"], about["topk_group"]) == (4, 2)


def _with_moe(**changes) -> ModelConfig:
    return replace(SMALL, moe=replace(SMALL.moe, **changes))


REFUSED = {
    "moe.top_k=6 and moe.top_groups=2 ask: by the 3 best": _with_moe(
        top_k=6, num_experts=16
    ),
    "moe.top_k=3 and moe.top_groups=2 ask: by the 1 best": _with_moe(top_k=3),
    "moe.num_experts=1": _with_moe(num_experts=1, top_k=1, num_groups=1, top_groups=1),
    "norm_eps=1e-05": replace(SMALL, norm_eps=1e-5),
    "attention.cache_tile=16": replace(
        SMALL, attention=replace(SMALL.attention, cache_tile=16)
    ),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_no_stock_architecture_computes_is_refused_by_its_field(message):
    with pytest.raises(ValueError, match="no stock architecture") as refused:
        architecture(REFUSED[message])
    assert message in str(refused.value)


def test_what_does_not_take_part_is_no_obstacle():
    unused = replace(DENSE, moe=REFUSED["moe.num_experts=1"].moe)
    assert architecture(unused) == "deepseek_v3"
    assert "n_routed_experts" not in describe(unused, "float32")
    assert architecture(replace(tiny_dense(), norm_eps=1e-5)) == "llama"
