"""What the caches of V3's successors cost a token, from their released configurations.

Chapter: 03_mla/what_93_percent_means
Source: deepseek_v32; deepseek_v4_config

V3.2 keeps MLA's latent in 8 bits and adds a narrow key an index searches by. V4 keeps
one entry for several tokens: most layers of the published models store an entry for
every 4 tokens, with an index key beside it, or one for every 128, without. A few layers
see only the last 128 tokens and keep nothing that grows.

Differs: what a layer keeps of its last few tokens, before they are compressed, does not
grow with the context and is left out, as it is in the published figures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from tiny_lm.parts import require

WINDOW_ONLY = 0  # the ratio of a layer that keeps no entry beyond its window
INDEXED = 4  # entries of this ratio are searched, and have an index key


@dataclass(frozen=True, kw_only=True)
class CompressedCache:
    """One entry for several tokens, layer by layer.

    Args:
        ratios: for each layer, how many tokens share an entry; 0: none is kept.

    Raises:
        ValueError: a ratio is negative, or there are no layers.
    """

    name: str
    ratios: tuple[int, ...]
    fp8_numbers: int  # of an entry, one byte each
    bf16_numbers: int  # its rotary part
    index_numbers: int  # of an index key, half a byte each

    def __post_init__(self) -> None:
        require(len(self.ratios) > 0, f"{self.name} has no layers")
        least = min(self.ratios)
        require(least >= 0, f"a ratio must not be negative, got {least}")

    @property
    def entry_bytes(self) -> int:
        """Of one entry, without its index key."""
        return self.fp8_numbers + 2 * self.bf16_numbers

    @property
    def bytes_per_token(self) -> Fraction:
        """By which the cache of all layers grows with each token."""
        return sum((self._of(ratio) for ratio in self.ratios if ratio), Fraction(0))

    def _of(self, ratio: int) -> Fraction:
        index = Fraction(self.index_numbers, 2) if ratio == INDEXED else 0
        return (self.entry_bytes + index) / Fraction(ratio)


def _v4(name: str, ratios: Sequence[int]) -> CompressedCache:
    return CompressedCache(
        name=name,
        ratios=tuple(ratios),
        fp8_numbers=448,
        bf16_numbers=64,
        index_numbers=128,
    )


def deepseek_v4_flash() -> CompressedCache:
    """43 layers: two see a window alone, then ratios 4 and 128 take turns."""
    return _v4("DeepSeek-V4-Flash", [0, 0, *([4, 128] * 20), 4])


def deepseek_v4_pro() -> CompressedCache:
    """61 layers: two of ratio 128, then 4 and 128 take turns."""
    return _v4("DeepSeek-V4-Pro", [128, 128, *([4, 128] * 29), 4])


def v32_index_bytes(d_index: int = 128) -> int:
    """What V3.2's index keeps of a token in a layer: one FP8 key and its scale."""
    return d_index + 4
