"""The config.json of a released model, written from ours.

Chapter: 06_together/into_the_ecosystem
Source: deepseek_v3_code; transformers

Which stock architecture computes what our model computes:

    latent attention                            deepseek_v3
    heads, dense layers, no biases              llama
    heads, with experts or with biases          glm4_moe

Fields have the names of released files, so that older readers know them too.
`hub_fields` reads them back.
"""

from typing import Any

from tiny_lm.config import MHAConfig, MLAConfig, ModelConfig, MoEConfig
from tiny_lm.rope import in_force

CLASSES = {
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "glm4_moe": "Glm4MoeForCausalLM",
    "llama": "LlamaForCausalLM",
}
LATENT_NORM_EPS = 1e-6  # of the norms on latents, whatever rms_norm_eps says
BEST_OF_A_GROUP = 2  # a group of experts is ranked by the sum of so many


def describe(
    config: ModelConfig, dtype: str, block: int | None = None
) -> dict[str, Any]:
    """The fields that make a stock architecture compute what our model does.

    Args:
        dtype: of the weights that are not FP8, as torch names it.
        block: rows and columns of a weight that share an FP8 scale; None: none is FP8.

    Raises:
        ValueError: no stock architecture computes the same; names the field.
    """
    kind, attention = architecture(config), config.attention
    about = _of_all(config, kind) | {"torch_dtype": dtype}
    if isinstance(attention, MLAConfig):
        about |= _latent(config, attention)
    else:
        about |= _heads(kind, attention)
    if kind != "llama":
        about["first_k_dense_replace"] = config.num_dense_layers
    if config.num_moe_layers:
        about |= _experts(config.moe)
    if block is not None:
        about["quantization_config"] = {
            "quant_method": "fp8",
            "fmt": "e4m3",
            "activation_scheme": "dynamic",
            "weight_block_size": [block, block],
        }
    return about


def architecture(config: ModelConfig) -> str:
    """The `model_type` of the stock architecture that computes the same.

    Raises:
        ValueError: none does; names the field.
    """
    attention = config.attention
    if config.num_moe_layers:
        _check_experts(config.moe)
    if isinstance(attention, MHAConfig):
        plain = not config.num_moe_layers and not attention.qkv_bias
        return "llama" if plain else "glm4_moe"
    if config.norm_eps != LATENT_NORM_EPS:
        raise ValueError(
            f"no stock architecture computes norm_eps={config.norm_eps:g} with latent "
            f"attention: their norms of latents have {LATENT_NORM_EPS:g}"
        )
    if attention.cache_tile is not None:
        raise ValueError(
            f"no stock architecture caches latents in FP8, as "
            f"attention.cache_tile={attention.cache_tile} asks"
        )
    return "deepseek_v3"


def counted_of_a_group(moe: MoEConfig) -> int:
    """By how many of its best experts our router ranks a group."""
    return max(moe.top_k // moe.top_groups, 1)


def _check_experts(moe: MoEConfig) -> None:
    if moe.num_experts < BEST_OF_A_GROUP:
        raise ValueError(
            "no stock architecture has moe.num_experts=1: theirs rank experts by two"
        )
    counted = counted_of_a_group(moe)
    if moe.top_groups < moe.num_groups and counted != BEST_OF_A_GROUP:
        raise ValueError(
            f"no stock architecture ranks groups of experts as moe.top_k={moe.top_k} "
            f"and moe.top_groups={moe.top_groups} ask: by the {counted} best of each, "
            f"where theirs count {BEST_OF_A_GROUP}"
        )


def _of_all(c: ModelConfig, kind: str) -> dict[str, Any]:
    return {
        "architectures": [CLASSES[kind]],
        "model_type": kind,
        "vocab_size": c.vocab_size,
        "hidden_size": c.d_model,
        "intermediate_size": c.d_ffn,
        "num_hidden_layers": c.num_layers,
        "num_nextn_predict_layers": c.num_mtp,
        "max_position_embeddings": c.max_len,
        "rms_norm_eps": c.norm_eps,
        "initializer_range": c.init_std,
        "rope_theta": c.attention.rope_theta,
        "hidden_act": "silu",
        "attention_dropout": 0.0,
        "tie_word_embeddings": False,
        # A byte is a byte: none of them begins or ends a text.
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def _latent(config: ModelConfig, c: MLAConfig) -> dict[str, Any]:
    yarn = in_force(c.yarn, config.max_len)
    return {
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_heads,
        "q_lora_rank": c.d_latent_q,
        "kv_lora_rank": c.d_latent_kv,
        "qk_nope_head_dim": c.d_nope,
        "qk_rope_head_dim": c.d_rope,
        "v_head_dim": c.d_value,
        "attention_bias": False,
        "rope_interleave": True,
        "rope_scaling": yarn
        and {
            "type": "yarn",
            "factor": yarn.factor,
            "original_max_position_embeddings": yarn.original_len,
            "beta_fast": yarn.beta_fast,
            "beta_slow": yarn.beta_slow,
            "mscale": 1.0,  # nothing is left for the angles,
            "mscale_all_dim": 1.0,  # and m² goes to the score
        },
    }


def _heads(kind: str, c: MHAConfig) -> dict[str, Any]:
    about = {
        "num_attention_heads": c.num_heads,
        "num_key_value_heads": c.num_kv_heads,
        "head_dim": c.d_head,
        "attention_bias": c.qkv_bias,
    }
    if kind == "glm4_moe":
        return about | {"partial_rotary_factor": 1.0, "use_qk_norm": False}
    return about | {"mlp_bias": False}


def _experts(c: MoEConfig) -> dict[str, Any]:
    groups = (c.num_groups, c.top_groups) if c.top_groups < c.num_groups else (1, 1)
    return {
        "n_routed_experts": c.num_experts,
        "n_shared_experts": c.num_shared,
        "num_experts_per_tok": c.top_k,
        "moe_intermediate_size": c.d_expert,
        "n_group": groups[0],
        "topk_group": groups[1],
        "routed_scaling_factor": c.route_scale,
        "norm_topk_prob": True,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
        "aux_loss_alpha": c.balance_loss,
    }
