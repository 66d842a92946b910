"""The same model in `transformers`, an independent implementation to compare with.

Chapter: 06_together/full_model
Source: transformers

Used by the tests (equal logits) and by the benchmark (equal shapes). `transformers`
is imported inside the functions: the course itself does not need it.
"""

from typing import Any

import torch
from torch import Tensor

from tiny_lm.config import MLAConfig, ModelConfig
from tiny_lm.model import LanguageModel
from tiny_lm.rope import in_force


def transformers_config(config: ModelConfig, **options: Any) -> Any:
    """`DeepseekV3Config` of the same shape.

    Raises:
        ValueError: the config is not of the V3 family.
    """
    from transformers import DeepseekV3Config

    a, moe = config.attention, config.moe
    if not isinstance(a, MLAConfig) or moe is None:
        raise ValueError(f"{config.name} is not of the V3 family: it needs mla and moe")
    return DeepseekV3Config(
        vocab_size=config.vocab_size,
        hidden_size=config.d_model,
        intermediate_size=config.d_ffn,
        moe_intermediate_size=moe.d_expert,
        num_hidden_layers=config.num_layers,
        first_k_dense_replace=config.num_dense_layers,
        num_attention_heads=a.num_heads,
        num_key_value_heads=a.num_heads,
        n_shared_experts=moe.num_shared,
        n_routed_experts=moe.num_experts,
        routed_scaling_factor=moe.route_scale,
        kv_lora_rank=a.d_latent_kv,
        q_lora_rank=a.d_latent_q,
        qk_rope_head_dim=a.d_rope,
        v_head_dim=a.d_value,
        qk_nope_head_dim=a.d_nope,
        n_group=moe.num_groups,
        topk_group=moe.top_groups,
        num_experts_per_tok=moe.top_k,
        norm_topk_prob=True,
        max_position_embeddings=config.max_len,
        rope_parameters=_rope_parameters(config),
        rms_norm_eps=config.norm_eps,
        tie_word_embeddings=False,
        use_cache=False,
        **options,
    )


def _rope_parameters(config: ModelConfig) -> dict[str, Any]:
    theta = {"rope_theta": config.attention.rope_theta}
    yarn = in_force(config.attention.yarn, config.max_len)
    if yarn is None:
        return {"rope_type": "default"} | theta
    return theta | {
        "rope_type": "yarn",
        "factor": yarn.factor,
        "original_max_position_embeddings": yarn.original_len,
        "beta_fast": yarn.beta_fast,
        "beta_slow": yarn.beta_slow,
        "mscale": 1.0,  # V3's: nothing is left for the angles,
        "mscale_all_dim": 1.0,  # and m² goes to the score
    }


def transformers_state(model: LanguageModel) -> dict[str, Tensor]:
    """Our weights under the names and in the layout of `transformers`."""
    state = {
        "model.embed_tokens.weight": model.embedding.weight,
        "model.norm.weight": model.norm.weight,
        "lm_head.weight": model.head.weight,
    }
    for layer, block in enumerate(model.blocks):
        at = f"model.layers.{layer}."
        state[at + "input_layernorm.weight"] = block.attention_norm.weight
        state[at + "post_attention_layernorm.weight"] = block.ffn_norm.weight
        attention = _attention_state(block.attention)
        state |= {f"{at}self_attn.{name}": x for name, x in attention.items()}
        ffn = _ffn_state(block.ffn)
        state |= {f"{at}mlp.{name}": x for name, x in ffn.items()}
    return {name: weight.detach() for name, weight in state.items()}


def transformers_twin(model: LanguageModel, **options: Any) -> Any:
    """A `DeepseekV3ForCausalLM` with the weights and the dtype of the model."""
    from transformers import DeepseekV3ForCausalLM

    twin = DeepseekV3ForCausalLM(transformers_config(model.config, **options))
    twin.to(model.head.weight.dtype)
    twin.load_state_dict(transformers_state(model))
    return twin


def _attention_state(attention: torch.nn.Module) -> dict[str, Tensor]:
    a = attention
    if a.config.d_latent_q is None:
        queries = {"q_proj.weight": a.q.weight}
    else:
        queries = {
            "q_a_proj.weight": a.q_down.weight,
            "q_a_layernorm.weight": a.q_norm.weight,
            "q_b_proj.weight": a.q_up.weight,
        }
    return queries | {
        "kv_a_proj_with_mqa.weight": a.kv_down.weight,
        "kv_a_layernorm.weight": a.kv_norm.weight,
        "kv_b_proj.weight": a.kv_up.weight,
        "o_proj.weight": a.out.weight,
    }


def _ffn_state(ffn: torch.nn.Module) -> dict[str, Tensor]:
    if not hasattr(ffn, "router"):
        return _swiglu_state(ffn)
    shared = _swiglu_state(ffn.shared)
    return {
        "gate.weight": ffn.router.weight,
        "gate.e_score_correction_bias": ffn.router.bias,
        "experts.gate_up_proj": ffn.experts.gate_up,
        "experts.down_proj": ffn.experts.down,
    } | {f"shared_experts.{name}": weight for name, weight in shared.items()}


def _swiglu_state(ffn: torch.nn.Module) -> dict[str, Tensor]:
    gate, up = ffn.gate_up.weight.chunk(2)
    return {
        "gate_proj.weight": gate,
        "up_proj.weight": up,
        "down_proj.weight": ffn.down.weight,
    }
