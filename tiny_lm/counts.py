"""How many parameters a model has, and how many FLOPs a token costs.

Chapter: 01_baseline/cost
Source: deepseek_v3, section 4.2; deepseek_isca, section 2.2

Three rules give almost everything here.
A weight is counted where it is stored; it is active where a token is multiplied by it.
A product with a weight costs 2 FLOPs a parameter and token: one multiply, one add.
Training costs three times the forward pass: going back takes two products for each
one, for the gradient of the input and for that of the weight.
"""

import math
from dataclasses import dataclass

from tiny_lm.config import MHAConfig, MLAConfig, ModelConfig, MoEConfig

Number = int | float
AttentionConfig = MHAConfig | MLAConfig


@dataclass(frozen=True)
class ParameterCount:
    """Parameters by part of the model: all of them, and those that one token uses.

    Of the routed experts a token uses `top_k`; of everything else, all.
    Prediction modules count as active: training runs them.
    A router's balance bias is no parameter: no gradient ever reaches it.
    """

    by_part: dict[str, int]
    active_by_part: dict[str, int]

    @property
    def total(self) -> int:
        """What has to be stored."""
        return sum(self.by_part.values())

    @property
    def active(self) -> int:
        """What one token uses, the embedding table and the head included."""
        return sum(self.active_by_part.values())

    @property
    def active_without_embedding(self) -> int:
        """What a token is multiplied with: looking a row up costs no FLOPs."""
        return self.active - self.by_part["embedding"]

    @property
    def active_without_embedding_and_head(self) -> int:
        """What the layers alone use."""
        return self.active_without_embedding - self.by_part["head"]


def count_parameters(config: ModelConfig) -> ParameterCount:
    """Every weight of the model, by part; the parts add up to the whole."""
    moe = config.moe
    return ParameterCount(
        by_part=_parts(config, moe.num_experts if moe else 0),
        active_by_part=_parts(config, moe.top_k if moe else 0),
    )


def _parts(c: ModelConfig, experts: int) -> dict[str, int]:
    """The count where `experts` of the routed experts matter."""
    dense, moe = _dense_ffn_parameters(c), _moe_parameters(c, experts)
    ffn = {"dense_ffn": c.num_dense_layers * dense}
    ffn |= {part: c.num_moe_layers * count for part, count in moe.items()}
    # A prediction module ends in a block like the model's last one.
    block = attention_parameters(c) + norm_parameters(c)
    block += sum(moe.values()) if c.num_moe_layers else dense
    # Before it: two norms and a projection from 2D to D; behind it: one more norm.
    mtp = c.num_mtp * (2 * c.d_model**2 + 3 * c.d_model + block)
    return {
        "embedding": c.vocab_size * c.d_model,
        "attention": c.num_layers * attention_parameters(c),
        **ffn,
        "norms": c.num_layers * norm_parameters(c) + c.d_model,
        "head": c.vocab_size * c.d_model,
        "mtp": mtp,
    }


def _dense_ffn_parameters(c: ModelConfig) -> int:
    return 3 * c.d_model * c.d_ffn


def _moe_parameters(c: ModelConfig, experts: int) -> dict[str, int]:
    if c.moe is None:
        return {"shared_experts": 0, "routed_experts": 0, "router": 0}
    one = expert_parameters(c)
    return {
        "shared_experts": c.moe.num_shared * one,
        "routed_experts": experts * one,
        "router": c.moe.num_experts * c.d_model,
    }


def expert_parameters(config: ModelConfig) -> int:
    """The three matrices of one expert: gate, up and down; 0 in a dense model."""
    return 3 * config.d_model * config.moe.d_expert if config.moe else 0


def attention_parameters(config: ModelConfig) -> int:
    """The projections of one attention layer, with their biases, without norms."""
    d, a = config.d_model, config.attention
    if isinstance(a, MHAConfig):
        d_queries, d_keys = a.num_heads * a.d_head, a.num_kv_heads * a.d_head
        biases = d_queries + 2 * d_keys if a.qkv_bias else 0
        return 2 * d * (d_queries + d_keys) + biases
    queries = d * a.num_heads * a.d_qk
    if a.d_latent_q is not None:
        queries = a.d_latent_q * (d + a.num_heads * a.d_qk)
    kv_down = d * (a.d_latent_kv + a.d_rope)
    kv_up = a.d_latent_kv * a.num_heads * (a.d_nope + a.d_value)
    return queries + kv_down + kv_up + a.num_heads * a.d_value * d


def norm_parameters(config: ModelConfig) -> int:
    """The norms of one layer: two on the residual stream, MLA's on its latents."""
    a = config.attention
    latents = 0 if isinstance(a, MHAConfig) else a.d_latent_kv + (a.d_latent_q or 0)
    return 2 * config.d_model + latents


def expert_combinations(moe: MoEConfig) -> int:
    """Ways to choose the experts of one token, were there no groups.

    Source: deepseek_moe, section 3.1
    """
    return math.comb(moe.num_experts, moe.top_k)


def experts_met(moe: MoEConfig, num_tokens: int) -> float:
    """Different routed experts that so many tokens read in one layer, on average.

    Each token chooses `top_k` of them, all equally likely and whatever the others do:
    the most a real router can spread, as tokens of one text resemble each other.
    """
    missed = (1 - moe.top_k / moe.num_experts) ** num_tokens
    return moe.num_experts * (1 - missed)


def forward_flops_by_part(
    config: ModelConfig, seq_len: int, causal: bool = True
) -> dict[str, Number]:
    """FLOPs of one token's forward pass, by part; `attention_core` has no weights.

    Differs: norms count as if they were products, softmax and activations not at
    all; both are below one thousandth of a large model.
    """
    active = count_parameters(config).active_by_part
    flops: dict[str, Number] = {part: 2 * count for part, count in active.items()}
    del flops["embedding"]
    flops["head"] *= 1 + config.num_mtp
    # A causal token sees half of the sequence, on average over its positions.
    num_keys = seq_len / 2 if causal else seq_len
    layers = config.num_layers + config.num_mtp
    flops["attention_core"] = layers * attention_core_flops(config.attention, num_keys)
    return flops


def attention_core_flops(attention: AttentionConfig, num_keys: Number) -> Number:
    """Scores and weighted sum of one token in one layer, over so many keys."""
    if isinstance(attention, MHAConfig):
        return 2 * attention.num_heads * 2 * attention.d_head * num_keys
    return 2 * attention.num_heads * (attention.d_qk + attention.d_value) * num_keys


def decode_flops_per_key(attention: AttentionConfig) -> int:
    """What one layer does with one token of the cache, for one token that is written.

    Absorbed MLA uses the latent it has read twice: as a key and as a value.
    """
    if isinstance(attention, MLAConfig):
        used = 2 * attention.d_latent_kv + attention.d_rope
        return 2 * attention.num_heads * used
    return attention_core_flops(attention, 1)


def flops_per_token(config: ModelConfig, seq_len: int, causal: bool = True) -> Number:
    """FLOPs to train on one token, forward and backward.

    6 times the active parameters without the embedding, and 3 times the attention
    core. Recomputed activations do not count: they are a choice, not the task.

    Args:
        causal: count only the keys a token may see; published figures exist for both.

    Source: deepseek_isca, tables 2 and 4
    """
    return 3 * sum(forward_flops_by_part(config, seq_len, causal).values())
