"""Tensors in few bits: codes, and one scale for each region of them.

Chapter: 04_fp8/scaling
Source: deepseek_v3, section 3.3; fp8_formats

A tensor whose values lie outside the range of a format is scaled into it: divide by
s = (largest magnitude) / 448, round to codes, multiply by s afterwards.

With one s for a whole tensor, one outlier pushes everything else below the smallest
step. So DeepSeek-V3 gives an s to every *tile*, 1 x 128 neighbours of an activation,
and to every *block*, 128 x 128 entries of a weight. An outlier then costs its own tile.

`Quantizer` is the one definition: its format, what shares a scale and how scales are
held are its arguments. `quantize_tiles` and `quantize_blocks` are what training stores
and sends, and `fake_quantize` what it multiplies; both equal the definition.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, Float8e4m3fn, Shaped
from torch import Tensor

from tiny_lm.fake_quantize import fake_quantize_blocks as fake_quantize_blocks
from tiny_lm.fake_quantize import fake_quantize_tiles as fake_quantize_tiles
from tiny_lm.formats import E2M1, E4M3, Format, decode, encode
from tiny_lm.formats import E5M2 as E5M2
from tiny_lm.formats import round_to as round_to
from tiny_lm.scales import AMAX, NVFP4, OCP_FLOOR, Rule
from tiny_lm.scales import DEEPSEEK as DEEPSEEK
from tiny_lm.scales import ScaleRule as ScaleRule

Group = tuple[int | None, int | None]


@dataclass(frozen=True)
class Quantizer:
    """How a matrix is held in few bits.

    Args:
        group: rows and columns of the regions that share a scale; None: all there are.
            (None, None) is a scale per tensor, (1, None) per row, (1, 128) per tile,
            (128, 128) per block. Regions at the edges are smaller.

    Raises:
        ValueError: a group of no rows or no columns.
    """

    to: Format = E4M3
    group: Group = (1, 128)
    rule: Rule = AMAX

    def __post_init__(self) -> None:
        if any(size is not None and size < 1 for size in self.group):
            raise ValueError(f"a group has at least one value, got {self.group}")

    def quantize(
        self, x: Float[Tensor, "... M K"]
    ) -> tuple[Shaped[Tensor, "... M K"], Float[Tensor, "... m k"]]:
        """Codes, and the scale of each region."""
        M, K = x.shape[-2:]
        i, j = self._sizes(x)
        padded = _padded(x.float(), -M % i, -K % j)
        regions = rearrange(padded, "... (m i) (k j) -> ... m k i j", i=i, j=j)
        amax = regions.abs().amax((-2, -1))
        scales = self._matrix_by_matrix(amax)
        codes = encode(regions / scales[..., None, None], self.to)
        codes = rearrange(codes, "... m k i j -> ... (m i) (k j)")
        return codes[..., :M, :K], scales

    def dequantize(
        self, codes: Shaped[Tensor, "... M K"], scales: Float[Tensor, "... m k"]
    ) -> Float[Tensor, "... M K"]:
        """The FP32 values that the codes stand for."""
        i, j = self._sizes(codes)
        spread = repeat(scales, "... m k -> ... (m i) (k j)", i=i, j=j)
        M, K = codes.shape[-2:]
        return decode(codes, self.to) * spread[..., :M, :K]

    def __call__(self, x: Float[Tensor, "... M K"]) -> Float[Tensor, "... M K"]:
        """What is left of x."""
        return self.dequantize(*self.quantize(x))

    def num_bytes(self, M: int, K: int) -> int:
        """Codes and scales of a matrix, and the FP32 number of a two-level rule."""
        rows, columns = self.group
        regions = -(-M // (rows or M)) * -(-K // (columns or K))
        codes = -(-M * K // 2) if self.to is E2M1 else M * K  # two to a byte
        return codes + regions * self.rule.num_bytes + 4 * self.rule.of_whole_tensor

    def _sizes(self, x: Tensor) -> tuple[int, int]:
        shape = x.shape[-2:]
        return tuple(s or n or 1 for s, n in zip(self.group, shape, strict=True))

    def _matrix_by_matrix(self, amax: Tensor) -> Tensor:
        """The rule may look at a whole matrix, but not at two."""
        if amax.dim() == 2 or not self.rule.of_whole_tensor:
            return self.rule.scales(amax, self.to)
        return torch.stack([self._matrix_by_matrix(one) for one in amax])


def mxfp8(rule: Rule = OCP_FLOOR) -> Quantizer:
    """Thirty-two neighbours share a power of two; `rule` says how it is rounded."""
    return Quantizer(E4M3, (1, 32), rule)


def nvfp4() -> Quantizer:
    """Sixteen neighbours of four bits share an E4M3 scale, all of them an FP32 one."""
    return Quantizer(E2M1, (1, 16), NVFP4)


def quantize_tiles(
    x: Float[Tensor, "... K"], tile: int, rule: Rule = AMAX
) -> tuple[Float8e4m3fn[Tensor, "... K"], Float[Tensor, "... tiles"]]:
    """E4M3 codes, and one FP32 scale for each `tile` neighbours of a row.

    The last tile is shorter where the width is no multiple of `tile`: DeepSeek-V3's
    576 values of latent and rotary key are four tiles and a half.

    Returns:
        codes: `codes * scale` is x, to within 1/16 of each value or, for the small
            ones, 2^-10 of the scale.
    """
    padded = _padded(x.float(), 0, -x.shape[-1] % tile)
    tiles = rearrange(padded, "... (tiles i) -> ... tiles i", i=tile)
    scales = rule.scales(tiles.abs().amax(-1))
    codes = encode(tiles / scales.unsqueeze(-1)).flatten(-2)
    return codes[..., : x.shape[-1]], scales


def dequantize_tiles(
    codes: Float8e4m3fn[Tensor, "... K"], scales: Float[Tensor, "... tiles"], tile: int
) -> Float[Tensor, "... K"]:
    """The FP32 values that the codes stand for.

    Raises:
        ValueError: there are not as many scales as tiles.
    """
    num_tiles = -(-codes.shape[-1] // tile)
    if scales.shape[-1] != num_tiles:
        raise ValueError(
            f"a width of {codes.shape[-1]} has {num_tiles} tiles of {tile}, "
            f"got {scales.shape[-1]} scales"
        )
    spread = repeat(scales, "... tiles -> ... (tiles i)", i=tile)
    return decode(codes) * spread[..., : codes.shape[-1]]


def quantize_blocks(
    weight: Float[Tensor, "... M K"], block: int, rule: Rule = AMAX
) -> tuple[Float8e4m3fn[Tensor, "... M K"], Float[Tensor, "... m_blocks k_blocks"]]:
    """E4M3 codes, and one FP32 scale for each `block` x `block` entries.

    Stacked weights of experts, "E M K", are quantised one by one. In released weights
    these scales are called `weight_scale_inv`: they are multiplied, name or no name.
    """
    num_rows, width = weight.shape[-2:]
    padded = _padded(weight.float(), -num_rows % block, -width % block)
    blocks = rearrange(padded, "... (m i) (k j) -> ... m i k j", i=block, j=block)
    scales = rule.scales(blocks.abs().amax((-3, -1)))
    codes = encode(blocks / rearrange(scales, "... m k -> ... m 1 k 1"))
    codes = rearrange(codes, "... m i k j -> ... (m i) (k j)")
    return codes[..., :num_rows, :width], scales


def dequantize_blocks(
    codes: Float8e4m3fn[Tensor, "... M K"],
    scales: Float[Tensor, "... m_blocks k_blocks"],
    block: int,
) -> Float[Tensor, "... M K"]:
    """The FP32 values that the codes stand for.

    Raises:
        ValueError: there are not as many scales as blocks.
    """
    num_rows, width = codes.shape[-2:]
    wanted = (-(-num_rows // block), -(-width // block))
    if scales.shape[-2:] != wanted:
        raise ValueError(
            f"a weight of {num_rows} x {width} has {wanted[0]} x {wanted[1]} blocks of "
            f"{block}, got {tuple(scales.shape[-2:])} scales"
        )
    spread = repeat(scales, "... m k -> ... (m i) (k j)", i=block, j=block)
    return decode(codes) * spread[..., :num_rows, :width]


def _padded(x: Tensor, num_rows: int, num_columns: int) -> Tensor:
    # `pad` copies even where there is nothing to add.
    return F.pad(x, (0, num_columns, 0, num_rows)) if num_rows or num_columns else x
