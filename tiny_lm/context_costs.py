"""What a token of context costs in published models, from their released configs.

Chapter: 03_mla
Source: deepseek_isca, table 1; deepseek_v32; deepseek_v4_config

A cache grows by as many bytes for every token, in MHA, GQA and MLA alike. DeepSeek-V4
(April 2026) gave MLA up: most of its layers keep one entry for every 4 or every 128
tokens, shared by all heads as key and as value, and beside it the newest 128 tokens
whole. So a token there costs a fraction of an entry.

Counted is what grows with the context. Left out, as in the published figures: scales of
FP8 and FP4 numbers, and V4's window, which is as large for any context.
"""

from dataclasses import dataclass
from fractions import Fraction

from tiny_lm.config import (
    ModelConfig,
    deepseek_v2,
    deepseek_v3,
    llama_405b,
    qwen_72b,
)
from tiny_lm.costs import fp8_kv_bytes_per_token, kv_bytes_per_token
from tiny_lm.parts import require

# V3.2's indexer keeps a key of 128 FP8 numbers and one FP32 scale a token and layer.
V32_INDEX_BYTES = 128 + 4


@dataclass(frozen=True, kw_only=True)
class CompressedCache:
    """The cache of a model of the V4 generation.

    Args:
        compress_ratios: tokens an entry stands for, layer by layer; 0: the window only.
        d_entry: width of an entry, `d_rope` of it in BF16 and the rest in FP8.
        d_index: width of the FP4 key by which the layers of ratio `indexed` choose
            entries.

    Raises:
        ValueError: a ratio is negative, or the rotary part is wider than the entry.
    """

    name: str
    compress_ratios: tuple[int, ...]
    d_entry: int = 512
    d_rope: int = 64
    d_index: int = 128
    indexed: int = 4

    def __post_init__(self) -> None:
        require(
            min(self.compress_ratios, default=0) >= 0, "a ratio must not be negative"
        )
        require(
            self.d_rope <= self.d_entry,
            f"d_rope={self.d_rope} is wider than d_entry={self.d_entry}",
        )

    @property
    def entry_bytes(self) -> int:
        """FP8, and BF16 for what is rotated."""
        return self.d_entry - self.d_rope + 2 * self.d_rope

    @property
    def bytes_per_token(self) -> float:
        """Mean over a long context, all layers."""
        total = Fraction(0)
        for ratio in self.compress_ratios:
            if ratio:
                index = self.d_index // 2 if ratio == self.indexed else 0
                total += Fraction(self.entry_bytes + index, ratio)
        return float(total)


def deepseek_v4_flash() -> CompressedCache:
    """43 layers: 2 with a window only, then 21 of ratio 4 and 20 of ratio 128."""
    return CompressedCache(name="deepseek_v4_flash", compress_ratios=_ratios(0, 0, 43))


def deepseek_v4_pro() -> CompressedCache:
    """61 layers: 31 of ratio 128 and 30 of ratio 4.

    Second hand: read in another company's training code, not in a released config.
    """
    return CompressedCache(
        name="deepseek_v4_pro", compress_ratios=_ratios(128, 128, 61)
    )


def _ratios(first: int, second: int, num_layers: int) -> tuple[int, ...]:
    """Two layers of their own, then 4 and 128 in turns."""
    return first, second, *((4, 128)[n % 2] for n in range(num_layers - 2))


def v32_bytes_per_token(config: ModelConfig, with_index: bool = True) -> int:
    """DeepSeek-V3.2's cache of a model with latent attention: 656 bytes a layer at V3.

    Args:
        with_index: count the keys of the indexer too, 132 bytes a layer.

    Raises:
        ValueError: the model has no latent attention.

    Source: deepseek_v32
    """
    index = config.num_layers * V32_INDEX_BYTES if with_index else 0
    return fp8_kv_bytes_per_token(config) + index


def published_bytes_per_token() -> dict[str, float]:
    """Cache of one token in each published model, in the format that it is served in.

    BF16 up to V3; V3.2 as FP8 latents, without its indexer; V4 as released.
    """
    before = [deepseek_v3(), qwen_72b(), llama_405b(), deepseek_v2()]
    after = [deepseek_v4_flash(), deepseek_v4_pro()]
    return (
        {config.name: float(kv_bytes_per_token(config)) for config in before}
        | {"deepseek_v32": float(v32_bytes_per_token(deepseek_v3(), with_index=False))}
        | {cache.name: cache.bytes_per_token for cache in after}
    )
