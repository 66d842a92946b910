"""What a model costs in bytes, seconds and dollars, from its config alone.

Chapter: 01_baseline/cost
Source: deepseek_v3, table 1 and section 3; deepseek_isca, section 2

Four bills come with a model: a cache for every token it has to remember, memory for
its weights while it learns, rows sent between chips, and hours of chips.
Published figures are constants here, typed once; the rest is derived from the config.
"""

import math
from dataclasses import dataclass
from typing import Any

from tiny_lm.config import MHAConfig, MLAConfig, ModelConfig, deepseek_v3
from tiny_lm.counts import (
    AttentionConfig,
    Number,
    count_parameters,
    decode_flops_per_key,
    flops_per_token,
    forward_flops_by_part,
)
from tiny_lm.hardware import H800, Chip

HOUR_S, DAY_S = 3600, 86_400


def kv_elements_per_token(attention: AttentionConfig) -> int:
    """Numbers that one layer keeps of one token, to be read by all later tokens.

    Source: deepseek_v2, table 1
    """
    if isinstance(attention, MHAConfig):
        return 2 * attention.num_kv_heads * attention.d_head
    return attention.d_latent_kv + attention.d_rope


def kv_bytes_per_token(config: ModelConfig, bytes_per_element: Number = 2) -> Number:
    """Cache of all layers for one token; prediction modules keep none."""
    elements = config.num_layers * kv_elements_per_token(config.attention)
    return elements * bytes_per_element


def expanded_kv_bytes_per_token(config: ModelConfig) -> int:
    """What MLA caches if full keys and values are kept, every head's own: a mistake.

    Raises:
        ValueError: the model has no latent attention.
    """
    a = _latent(config)
    return config.num_layers * a.num_heads * (a.d_qk + a.d_value) * 2


def fp8_kv_bytes_per_token(config: ModelConfig, tile: int = 128) -> int:
    """Latents as FP8 with an FP32 scale a tile, the rotary key in BF16.

    Raises:
        ValueError: the model has no latent attention.

    Source: deepseek_v32
    """
    a = _latent(config)
    scales = 4 * math.ceil(a.d_latent_kv / tile)
    return config.num_layers * (a.d_latent_kv + scales + 2 * a.d_rope)


def _latent(config: ModelConfig) -> MLAConfig:
    if not isinstance(config.attention, MLAConfig):
        raise ValueError(f"{config.name} has no latent attention")
    return config.attention


def decode_intensity(attention: AttentionConfig, num_queries: int = 1) -> float:
    """FLOPs per byte of BF16 cache, while one sequence is written token by token.

    Args:
        num_queries: tokens checked at once: 2 with one predicted token.
    """
    per_key = decode_flops_per_key(attention)
    return num_queries * per_key / (2 * kv_elements_per_token(attention))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Bytes a parameter takes while it is trained."""

    weight: int  # as the products read it
    gradient: int
    master: int  # the exact copy that the optimizer changes; 0: the weight is exact
    moments: int  # AdamW's two


FP32_RECIPE = Recipe(weight=4, gradient=4, master=0, moments=8)
BF16_RECIPE = Recipe(weight=2, gradient=2, master=4, moments=8)
# Source: deepseek_v3, section 3.3; the scales of weight blocks are left out
V3_RECIPE = Recipe(weight=1, gradient=4, master=4, moments=4)


def training_bytes(num_parameters: int, recipe: Recipe) -> dict[str, int]:
    """Memory of weights, gradients and optimizer; activations come on top."""
    return {
        "weights": num_parameters * recipe.weight,
        "gradients": num_parameters * recipe.gradient,
        "optimizer": num_parameters * (recipe.master + recipe.moments),
    }


def fp8_row_bytes(d_model: int, tile: int = 128) -> int:
    """One token's row on its way to an expert: FP8, an FP32 scale a tile."""
    return d_model + 4 * math.ceil(d_model / tile)


def expert_traffic_bytes_per_token(config: ModelConfig, copies: Number) -> Number:
    """What a token's `copies` cost in the forward passes of all MoE layers, both ways.

    Rows go out as FP8 if `config.fp8.wire` says so, and come back as BF16.
    Going backward, a dispatch becomes a combine and a combine a dispatch.

    Args:
        copies: mean number of ranks other than its own that a token is sent to.

    Source: deepseek_v3, sections 3.2.2 and 3.3.3
    """
    bf16 = 2 * config.d_model
    fp8 = config.fp8
    out = fp8_row_bytes(config.d_model, fp8.tile) if fp8 and fp8.wire else bf16
    return config.num_moe_layers * copies * (out + bf16)


def decode_exchange_s(
    num_tokens: int, copies: int, d_model: int, link_bytes_per_s: Number
) -> float:
    """Least time of one layer's dispatch in FP8 and combine in BF16, scales aside."""
    return num_tokens * copies * d_model * (1 + 2) / link_bytes_per_s


def decode_token_s(exchange_s: float, num_layers: int) -> float:
    """Least time of one token: in each layer two half-batches take turns on the link.

    Source: deepseek_isca, section 2.3.2
    """
    return 2 * num_layers * exchange_s


@dataclass(frozen=True, kw_only=True)
class PublishedRun:
    """What a training run took, as its makers report it."""

    pretraining_gpu_hours: int
    context_gpu_hours: int
    post_training_gpu_hours: int
    usd_per_gpu_hour: float
    num_tokens: float
    num_gpus: int
    tokens_per_day: float
    batch_size: int
    seq_len: int
    step_s: float
    excludes: str

    @property
    def gpu_hours(self) -> int:
        """Everything that was published; only the first part is pre-training."""
        later = self.context_gpu_hours + self.post_training_gpu_hours
        return self.pretraining_gpu_hours + later

    @property
    def cost_usd(self) -> float:
        """The hours at a rental price: an assumption of the paper, not a bill."""
        return self.gpu_hours * self.usd_per_gpu_hour

    @property
    def gpu_hours_per_trillion_tokens(self) -> float:
        """Pre-training alone: the other hours bought few tokens."""
        return self.pretraining_gpu_hours / (self.num_tokens / 1e12)


# Source: deepseek_v3, table 1 and section 4.2; deepseek_isca, table 4
V3_RUN = PublishedRun(
    pretraining_gpu_hours=2_664_000,
    context_gpu_hours=119_000,
    post_training_gpu_hours=5_000,
    usd_per_gpu_hour=2.0,
    num_tokens=14.8e12,
    num_gpus=2048,
    tokens_per_day=272.8e9,
    batch_size=15_360,
    seq_len=4096,
    step_s=19.926,
    excludes="earlier research and ablations",
)

# Source: deepseek_isca, tables 2 and 4
PUBLISHED_MFU = {True: 0.3894, False: 0.4373}  # keys: causal attention, or full
PUBLISHED_FLOPS_PER_TOKEN = {
    "deepseek_v2": 155e9,
    "deepseek_v3": 250e9,
    "qwen_72b": 394e9,
    "llama_405b": 2448e9,
}


def step_flops(
    config: ModelConfig, batch_size: int, seq_len: int, causal: bool = True
) -> Number:
    """One training step over `batch_size` sequences."""
    return batch_size * seq_len * flops_per_token(config, seq_len, causal)


def utilization(
    flops: Number, seconds: Number, num_chips: int, peak_flops_per_s: Number
) -> float:
    """Share of the chips' peak that the model's own FLOPs make up (MFU)."""
    return flops / seconds / num_chips / peak_flops_per_s


def v3_utilization(causal: bool = True) -> float:
    """What V3's published pace means, against the BF16 peak of the H800.

    Source: deepseek_isca, table 4
    """
    per_token = flops_per_token(deepseek_v3(), V3_RUN.seq_len, causal)
    flops = V3_RUN.tokens_per_day * per_token
    return utilization(flops, DAY_S, V3_RUN.num_gpus, H800.bf16_flops_per_s)


def training_s(flops: Number, num_chips: int, used: Number, chip: Chip = H800) -> float:
    """Seconds that `num_chips` need, at the share `used` of their BF16 peak."""
    return flops / (num_chips * used * chip.bf16_flops_per_s)


def derived_gpu_hours(config: ModelConfig) -> float:
    """H800 hours to train a model on V3's tokens, as busy as V3 kept its chips.

    A yardstick for comparing models, not a forecast: another model would keep the
    chips less or more busy, and need fewer or more tokens.
    """
    flops = V3_RUN.num_tokens * flops_per_token(config, V3_RUN.seq_len)
    return training_s(flops, 1, v3_utilization()) / HOUR_S


def summary(config: ModelConfig) -> dict[str, Any]:
    """The counts of one config, ready for JSON.

    `gpu_hours_source` says whether the hours were published, which is so for
    DeepSeek-V3 alone, or derived from its pace and its tokens.
    """
    count, run = count_parameters(config), V3_RUN
    if config == deepseek_v3():
        hours, source = run.gpu_hours, f"published; excludes {run.excludes}"
    else:
        hours = derived_gpu_hours(config)
        source = (
            f"derived: V3's tokens, at V3's {v3_utilization():.0%} of the BF16 peak"
        )
    return {
        "preset": config.name,
        "params_total": count.total,
        "params_active": count.active,
        "params_active_without_embedding": count.active_without_embedding,
        "seq_len": run.seq_len,
        "flops_per_token": flops_per_token(config, run.seq_len),
        "kv_bytes_per_token": kv_bytes_per_token(config),
        "gpu_hours": hours,
        "cost_usd": hours * run.usd_per_gpu_hour,
        "gpu_hours_source": source,
    }


def table(config: ModelConfig) -> str:
    """The summary for people, with parameters and FLOPs by part."""
    facts, count = summary(config), count_parameters(config)
    unit, word = (1e9, "billions") if count.total >= 1e9 else (1e6, "millions")
    flops = forward_flops_by_part(config, facts["seq_len"])
    lines = [f"{word:<16}{'parameters':>13}{'active':>13}{'FLOPs a token':>16}"]

    def add_row(name: str, stored: Number, active: Number, flops: Number) -> None:
        columns = (
            f"{stored / unit:>13,.3f}{active / unit:>13,.3f}{flops / unit:>16,.3f}"
        )
        lines.append(f"{name:<16}{columns}")

    for part in [*count.by_part, "attention_core"]:
        row = [d.get(part, 0) for d in (count.by_part, count.active_by_part, flops)]
        if any(row):
            add_row(part.replace("_", " "), row[0], row[1], 3 * row[2])
    add_row(config.name, count.total, count.active, facts["flops_per_token"])
    lines += [
        f"FLOPs: to train on one token of a sequence of {facts['seq_len']:,}, causal",
        f"cache: {facts['kv_bytes_per_token']:,} bytes a token, in BF16",
        f"hours: {facts['gpu_hours']:,.0f} H800 hours, ${facts['cost_usd']:,.0f} at "
        f"${V3_RUN.usd_per_gpu_hour:g} an hour ({facts['gpu_hours_source']})",
    ]
    return "\n".join(lines)
