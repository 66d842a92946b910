"""What a token of context costs in published models, from their released configs.

Chapter: 03_mla
Source: deepseek_isca, table 1; deepseek_v32; deepseek_v4_config

A cache grows by as many bytes for every token, in MHA, GQA and MLA alike, and every
token that is written reads all of it. DeepSeek-V3.2 (September 2025) reads less: by a
small key it chooses 2,048 tokens, and reads only their latents. DeepSeek-V4 (April
2026) gave MLA up: most of its layers keep one entry for every 4 or every 128 tokens,
shared by all heads as key and as value, and beside it the newest 128 tokens whole. So
a token there costs a fraction of an entry.

Left out, as in the published figures: scales of FP8 and FP4 numbers.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction

from tiny_lm.config import (
    ModelConfig,
    deepseek_v2,
    deepseek_v3,
    llama_405b,
    qwen_72b,
)
from tiny_lm.costs import (
    fp8_kv_bytes_per_token,
    kv_bytes_per_token,
    kv_elements_per_token,
)
from tiny_lm.counts import AttentionConfig, decode_flops_per_key
from tiny_lm.parts import require

# V3.2's indexer keeps a key of 128 FP8 numbers and one FP32 scale a token and layer,
# compares it with 64 queries, and has 2,048 tokens attended to.
V32_INDEX_BYTES, V32_INDEX_FLOPS, V32_CHOSEN = 128 + 4, 2 * 64 * 128, 2048


@dataclass(frozen=True, kw_only=True)
class Kept:
    """One kind of cache entries, and what a step of decoding does with them.

    Args:
        num_tokens: that an entry stands for.
        num_bytes: of an entry.
        flops: for an entry that is read, all heads of a layer.
        most_read: entries that a step reads at most; None: all of them.
        newest: only so many are kept; None: all of them.
    """

    num_layers: int
    num_bytes: int
    flops: int
    num_tokens: int = 1
    most_read: int | None = None
    newest: int | None = None

    def count(self, context: int) -> int:
        """Entries that a layer keeps of so many tokens."""
        return _at_most(context // self.num_tokens, self.newest)

    def read(self, context: int) -> int:
        """Entries that a layer reads to write one token."""
        return _at_most(self.count(context), self.most_read)


def _at_most(number: int, most: int | None) -> int:
    return number if most is None else min(number, most)


@dataclass(frozen=True, kw_only=True)
class ContextCost:
    """Of one sequence, all layers: bytes kept, and work for each token written."""

    cache_bytes: int
    read_bytes: int
    flops: int


def context_cost(cache: Iterable[Kept], context: int) -> ContextCost:
    """What so many tokens of context cost a model with this cache."""
    cache = tuple(cache)
    return ContextCost(
        cache_bytes=sum(k.num_layers * k.num_bytes * k.count(context) for k in cache),
        read_bytes=sum(k.num_layers * k.num_bytes * k.read(context) for k in cache),
        flops=sum(k.num_layers * k.flops * k.read(context) for k in cache),
    )


def growth_bytes_per_token(cache: Iterable[Kept]) -> float:
    """Bytes that one more token adds, on average over a long context."""
    growing = (k for k in cache if k.newest is None)
    shares = (Fraction(k.num_layers * k.num_bytes, k.num_tokens) for k in growing)
    return float(sum(shares, Fraction(0)))


def cache_of(
    attention: AttentionConfig, num_layers: int, bytes_per_number: int = 2
) -> tuple[Kept, ...]:
    """MHA, GQA, MQA or MLA: all is kept, and all is read; MLA is absorbed."""
    return (
        Kept(
            num_layers=num_layers,
            num_bytes=kv_elements_per_token(attention) * bytes_per_number,
            flops=decode_flops_per_key(attention),
        ),
    )


def cache_of_v32(config: ModelConfig) -> tuple[Kept, ...]:
    """DeepSeek-V3.2: every index key is read, and 2,048 latents.

    Raises:
        ValueError: the model has no latent attention.
    """
    layers = config.num_layers
    latents = Kept(
        num_layers=layers,
        num_bytes=fp8_kv_bytes_per_token(config) // layers,
        flops=decode_flops_per_key(config.attention),
        most_read=V32_CHOSEN,
    )
    keys = Kept(num_layers=layers, num_bytes=V32_INDEX_BYTES, flops=V32_INDEX_FLOPS)
    return latents, keys


@dataclass(frozen=True, kw_only=True)
class CompressedCache:
    """The cache of a model of the V4 generation.

    Args:
        compress_ratios: tokens an entry stands for, layer by layer; 0: the window only.
        num_heads: all read the same entries, each as a key and as a value.
        d_entry: width of an entry, `d_rope` of it in BF16 and the rest in FP8.
        d_index: width of the FP4 key by which the layers of ratio `indexed` choose
            `chosen` entries, with `index_heads` queries.
        window: newest tokens that every layer keeps whole.

    Raises:
        ValueError: a ratio is negative, or the rotary part is wider than the entry.
    """

    name: str
    compress_ratios: tuple[int, ...]
    num_heads: int = 64
    d_entry: int = 512
    d_rope: int = 64
    d_index: int = 128
    index_heads: int = 64
    indexed: int = 4
    chosen: int = 512
    window: int = 128

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
    def cache(self) -> tuple[Kept, ...]:
        """The window of every layer, entries by their ratio, and the index keys."""
        entry = {
            "num_bytes": self.entry_bytes,
            "flops": 2 * self.num_heads * 2 * self.d_entry,
        }
        kinds = [
            Kept(num_layers=len(self.compress_ratios), newest=self.window, **entry)
        ]
        for ratio in sorted(set(self.compress_ratios) - {0}):
            layers = self.compress_ratios.count(ratio)
            here = {"num_layers": layers, "num_tokens": ratio}
            chosen = self.chosen if ratio == self.indexed else None
            kinds.append(Kept(**here, **entry, most_read=chosen))
            if ratio == self.indexed:
                flops = 2 * self.index_heads * self.d_index
                kinds.append(Kept(**here, num_bytes=self.d_index // 2, flops=flops))
        return tuple(kinds)

    @property
    def bytes_per_token(self) -> float:
        """Mean over a long context, all layers; the window does not grow with it."""
        return growth_bytes_per_token(self.cache)


def deepseek_v4_flash() -> CompressedCache:
    """43 layers: 2 with a window only, then 21 of ratio 4 and 20 of ratio 128."""
    return CompressedCache(name="deepseek_v4_flash", compress_ratios=_ratios(0, 0, 43))


def deepseek_v4_pro() -> CompressedCache:
    """61 layers: 31 of ratio 128 and 30 of ratio 4.

    Second hand: read in another company's training code, not in a released config.
    """
    return CompressedCache(
        name="deepseek_v4_pro",
        compress_ratios=_ratios(128, 128, 61),
        num_heads=128,
        chosen=1024,
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
