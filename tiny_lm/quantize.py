"""Numbers of eight bits: formats, scales, and tensors rounded to them.

Chapter: 04_fp8
Source: deepseek_v3, section 3.3; fp8_formats

An FP8 number has a sign, a few bits of exponent and even fewer of fraction.
E4M3 spends 4 and 3: it reaches from 2^-9 to 448 with about one correct digit.
A tensor whose values lie elsewhere is scaled into that range: divide by
s = (largest magnitude) / 448, round to codes, multiply by s afterwards.

With one s for a whole tensor, one outlier pushes everything else below the smallest
step. So DeepSeek-V3 gives an s to every *tile*, 1 x 128 neighbours of an activation,
and to every *block*, 128 x 128 entries of a weight. An outlier then costs its own tile.

`quantize_*` makes codes and scales: one byte a value, to be stored or sent.
`fake_quantize_*` returns the FP32 values that those codes stand for, without making
the codes; an ordinary product of such values is what FP8 inputs with FP32 sums give.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from jaxtyping import Float, Float8e4m3fn
from torch import Tensor

FP32_FRACTION_BITS = 23
# A tensor: a plain number would be made into one at every call.
FP32_EXPONENT_MASK = torch.tensor(0x7F800000, dtype=torch.int32, device="cpu")
FP32_SMALLEST_NORMAL = 2.0**-126
CHUNK = 2**17  # values rounded at a time: what is at work on them fits in 2 MiB of L2


@dataclass(frozen=True)
class Format:
    """An eight-bit floating-point format."""

    dtype: torch.dtype
    fraction_bits: int
    min_exponent: int  # of the smallest normal number
    largest: float

    @property
    def smallest_normal(self) -> float:
        """Below it the step between neighbours stops shrinking."""
        return 2.0**self.min_exponent

    @property
    def smallest_subnormal(self) -> float:
        """The step between neighbours near zero; half of it rounds to zero."""
        return 2.0 ** (self.min_exponent - self.fraction_bits)


# E4M3 has no infinity and one NaN of each sign; with IEEE's rules it would end at 240.
E4M3 = Format(torch.float8_e4m3fn, fraction_bits=3, min_exponent=-6, largest=448.0)
E5M2 = Format(torch.float8_e5m2, fraction_bits=2, min_exponent=-14, largest=57344.0)


def round_to(x: Float[Tensor, "..."], to: Format = E4M3) -> Float[Tensor, "..."]:
    """The nearest value of the format, in FP32; ties go to the even code.

    Values beyond the largest become the largest.
    """
    x = x.float().clamp(-to.largest, to.largest)
    return _round_(x, to, torch.empty_like(x))


def _round_(x: Tensor, to: Format, scratch: Tensor) -> Tensor:
    """Round in place, for magnitudes up to the largest, without a cast.

    To x, a number of size 2^e, we add 1.5 * 2^(23 - fraction_bits) * 2^e. The FP32 sum
    has no room for x's low bits, so the adder rounds them away, ties to even; taking
    the number off again leaves the rounded x. Several times faster on a CPU than the
    cast to float8 and back, and equal to it but for the sign of zero.
    """
    bits = scratch.view(torch.int32)
    torch.bitwise_and(x.view(torch.int32), FP32_EXPONENT_MASK, out=bits)
    size = scratch.clamp_(min=to.smallest_normal)
    shift = 1.5 * 2.0 ** (FP32_FRACTION_BITS - to.fraction_bits)
    return x.add_(size, alpha=shift).sub_(size, alpha=shift)


@dataclass(frozen=True)
class ScaleRule:
    """From a region's largest magnitude to the number its values are divided by.

    Args:
        min_amax: largest magnitudes below it count as this. DeepSeek's code has 1e-4;
            in a tiny model half of the early gradients lie below that.
        power_of_two: round scales up to a power of two, so that dividing is exact
            (DeepSeek-V3.1).
    """

    min_amax: float = 0.0
    power_of_two: bool = False

    def scales(self, amax: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """The scale of each region: amax / 448, and 1 for a region of zeros.

        A scale below FP32's smallest normal number would not divide accurately, so
        regions with an amax below 5e-36 count as zeros.
        """
        amax = amax.clamp(min=self.min_amax) if self.min_amax else amax
        scale = torch.threshold(amax / E4M3.largest, FP32_SMALLEST_NORMAL, 1.0)
        if not self.power_of_two:
            return scale
        below = (scale.view(torch.int32) & FP32_EXPONENT_MASK).view(torch.float32)
        return torch.where(below < scale, 2 * below, below)


AMAX = ScaleRule()
DEEPSEEK = ScaleRule(min_amax=1e-4)


def quantize_tiles(
    x: Float[Tensor, "... K"], tile: int, rule: ScaleRule = AMAX
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
    codes = _encode(tiles / scales.unsqueeze(-1)).flatten(-2)
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
    return _decode(codes) * spread[..., : codes.shape[-1]]


def quantize_blocks(
    weight: Float[Tensor, "... M K"], block: int, rule: ScaleRule = AMAX
) -> tuple[Float8e4m3fn[Tensor, "... M K"], Float[Tensor, "... m_blocks k_blocks"]]:
    """E4M3 codes, and one FP32 scale for each `block` x `block` entries.

    Stacked weights of experts, "E M K", are quantised one by one. In released weights
    these scales are called `weight_scale_inv`: they are multiplied, name or no name.
    """
    num_rows, width = weight.shape[-2:]
    padded = _padded(weight.float(), -num_rows % block, -width % block)
    blocks = rearrange(padded, "... (m i) (k j) -> ... m i k j", i=block, j=block)
    scales = rule.scales(blocks.abs().amax((-3, -1)))
    codes = _encode(blocks / rearrange(scales, "... m k -> ... m 1 k 1"))
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
    return _decode(codes) * spread[..., :num_rows, :width]


def _padded(x: Tensor, num_rows: int, num_columns: int) -> Tensor:
    # `pad` copies even where there is nothing to add.
    return F.pad(x, (0, num_columns, 0, num_rows)) if num_rows or num_columns else x


def _encode(y: Float[Tensor, "..."]) -> Float8e4m3fn[Tensor, "..."]:
    # Clamped first: up to torch 2.11 the cast makes NaN of what lies beyond 464.
    return y.clamp_(-E4M3.largest, E4M3.largest).to(E4M3.dtype)


def _decode(codes: Float8e4m3fn[Tensor, "..."]) -> Float[Tensor, "..."]:
    # A table of all 256 values: ten times faster on a CPU than the cast.
    every_code = torch.arange(256, dtype=torch.uint8, device=codes.device)
    values = every_code.view(E4M3.dtype).float()
    bits = codes.contiguous().view(torch.uint8).flatten().int()
    return values.index_select(0, bits).view(codes.shape)


# Along which dims of a matrix the values share a scale.
ALONG_ROWS, ALONG_TOKENS, BLOCKS = (-1,), (0,), (0, -1)
Region = tuple[int, ...]
Regions = tuple[Region, ...]


def fake_quantize_tiles(
    x: Float[Tensor, "... K"], tile: int, dim: int = -1, rule: ScaleRule = AMAX
) -> Float[Tensor, "... K"]:
    """Quantise and dequantise at once: equal to `quantize_tiles`, several times faster.

    Args:
        dim: -1 for 1 x tile; 0 for tile x 1, along the tokens.

    Raises:
        ValueError: another dim.
    """
    if dim not in (0, -1):
        raise ValueError(f"tiles lie along dim -1 or along dim 0, got dim={dim}")
    first, last = (-1, x.shape[-1]) if dim else (len(x), math.prod(x.shape[1:]))
    rows = x.float().reshape(first, last)
    return fake_quantize(rows, tile, ((dim,),), rule)[0].view(x.shape)


def fake_quantize_blocks(
    weight: Float[Tensor, "... M K"], block: int, rule: ScaleRule = AMAX
) -> Float[Tensor, "... M K"]:
    """Quantise and dequantise at once: equal to `quantize_blocks`, but faster."""
    num_rows, width = weight.shape[-2:]
    if weight.dim() > 2 and num_rows % block:  # a block must not span two experts
        return torch.stack([fake_quantize_blocks(w, block, rule) for w in weight])
    rows = weight.float().reshape(-1, width)
    return fake_quantize(rows, block, (BLOCKS,), rule)[0].view(weight.shape)


def fake_quantize(
    x: Float[Tensor, "R K"], size: int, regions: Regions, rule: ScaleRule = AMAX
) -> list[Float[Tensor, "R K"]]:
    """Round a matrix once for each of `regions`, which say what shares a scale.

    Rounding passes eight times over the values. Chunk by chunk, all but the first read
    and the last write stay in the cache, which nearly halves the time.
    """
    outs = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in regions]
    step = size if any(0 in region for region in regions) else 1
    num_rows = min(len(x), max(1, CHUNK // (x.shape[1] * step)) * step)
    scratch = x.new_empty(num_rows, x.shape[1])
    for start in range(0, len(x), max(1, num_rows)):
        rows = slice(start, start + num_rows)
        magnitude = torch.abs(x[rows], out=scratch[: len(x) - start])
        scales = [_scales(magnitude, size, region, rule) for region in regions]
        for out, region, scale in zip(outs, regions, scales, strict=True):
            _round_chunk(x[rows], out[rows], size, region, scale, magnitude)
    return outs


def _scales(magnitude: Tensor, size: int, region: Region, rule: ScaleRule):
    inside = [-1 if dim else 1 for dim in region]
    amaxes = (p.amax(inside, keepdim=True) for p in _parts(magnitude, size, region))
    return [rule.scales(amax) for amax in amaxes]


def _round_chunk(x, out, size: int, region: Region, scales, scratch) -> None:
    scaled = _parts(out, size, region)
    for values, y, scale in zip(_parts(x, size, region), scaled, scales, strict=True):
        torch.div(values, scale, out=y)
    _round_(out, E4M3, scratch)
    for y, scale in zip(scaled, scales, strict=True):
        y.mul_(scale)


def _parts(x: Tensor, size: int, region: Region) -> list[Tensor]:
    """Views of a matrix with each dim of the region split in two: which, and where in.

    The first holds whole tiles or blocks, others the shorter ones at the edges.
    """
    parts = [x]
    for dim in region:
        parts = [short for part in parts for short in _split(part, size, dim)]
    return parts


def _split(x: Tensor, size: int, dim: int) -> list[Tensor]:
    width = x.shape[dim]
    whole = width // size * size
    if whole == width:
        return [x.unflatten(dim, (-1, size))]
    short = x.narrow(dim, whole, width - whole).unsqueeze(dim - 1 if dim else 0)
    if not whole:
        return [short]
    return [x.narrow(dim, 0, whole).unflatten(dim, (-1, size)), short]
