"""Round a matrix to what its codes stand for, without making codes: the training path.

Chapter: 04_fp8
Source: deepseek_v3, section 3.3

`fake_quantize` gives the FP32 values that `quantize.Quantizer` gives, bit for bit but
for the sign of zero, and several times faster. Products of such values with FP32 sums
are what FP8 inputs with FP32 sums give.

A matrix is often needed twice: rounded along its rows, and along its tokens. Both come
out of one reading.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tiny_lm.formats import E4M3, Format, round_
from tiny_lm.scales import AMAX, Rule

CHUNK = 2**17  # values rounded at a time: what is at work on them fits in 2 MiB of L2

# Along which dims of a matrix the values share a scale.
ALONG_ROWS, ALONG_TOKENS, BLOCKS = (-1,), (0,), (0, -1)
Region = tuple[int, ...]
Regions = tuple[Region, ...]


class Rounding(NamedTuple):
    """How a matrix is rounded.

    `size` neighbours along each dim of `region` share a scale; None, all of them do.
    """

    region: Region
    size: int | None
    rule: Rule = AMAX
    to: Format = E4M3

    @property
    def per_tensor(self) -> bool:
        """Whether there is one scale."""
        return self.size is None and len(self.region) == 2

    @property
    def of_whole_tensor(self) -> bool:
        """Whether a value's scale depends on all others."""
        return self.per_tensor or self.rule.of_whole_tensor


def fake_quantize_tiles(
    x: Float[Tensor, "... K"], tile: int, dim: int = -1, rule: Rule = AMAX
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
    return fake_quantize(rows, Rounding((dim,), tile, rule))[0].view(x.shape)


def fake_quantize_blocks(
    weight: Float[Tensor, "... M K"], block: int, rule: Rule = AMAX
) -> Float[Tensor, "... M K"]:
    """Quantise and dequantise at once: equal to `quantize_blocks`, but faster."""
    return fake_quantize_stack(weight, Rounding(BLOCKS, block, rule))


def fake_quantize_stack(
    weight: Float[Tensor, "... M K"], rounding: Rounding
) -> Float[Tensor, "... M K"]:
    """The same for one matrix or for a stack of them, each with its own scales."""
    num_rows, width = weight.shape[-2:]
    across = 0 in rounding.region  # a region must not span two experts
    fits = rounding.size and num_rows % rounding.size == 0
    if weight.dim() > 2 and (rounding.of_whole_tensor or (across and not fits)):
        return torch.stack([fake_quantize_stack(w, rounding) for w in weight])
    rows = weight.float().reshape(-1, width)
    return fake_quantize(rows, rounding)[0].view(weight.shape)


def fake_quantize(
    x: Float[Tensor, "R K"], *roundings: Rounding
) -> list[Float[Tensor, "R K"]]:
    """Round a matrix in each of the ways.

    Rounding passes eight times over the values. Chunk by chunk, all but the first read
    and the last write stay in a CPU's cache, which nearly halves the time.
    """
    dense = torch.contiguous_format
    outs = [torch.empty_like(x, memory_format=dense) for _ in roundings]
    whole = None
    if x.numel() and any(rounding.of_whole_tensor for rounding in roundings):
        whole = _largest_magnitude(x)
    num_rows = _rows_at_a_time(x, roundings)
    scratch = x.new_empty(num_rows, x.shape[1])
    for start in range(0, len(x), max(1, num_rows)):
        rows = slice(start, start + num_rows)
        magnitude = torch.abs(x[rows], out=scratch[: len(x) - start])
        scales = [_scales(magnitude, rounding, whole) for rounding in roundings]
        for out, rounding, scale in zip(outs, roundings, scales, strict=True):
            _round_chunk(x[rows], out[rows], rounding, scale, magnitude)
    return outs


def _largest_magnitude(x: Tensor) -> Tensor:
    low, high = torch.aminmax(x)
    return torch.maximum(-low, high)


def _rows_at_a_time(x: Tensor, roundings: Sequence[Rounding]) -> int:
    """Whole tiles or blocks of all roundings, as many as a CPU's cache holds."""
    if x.device.type != "cpu":
        return len(x)
    across = [r for r in roundings if 0 in r.region and not r.per_tensor]
    step = math.lcm(*(r.size or max(len(x), 1) for r in across))
    return min(len(x), max(1, CHUNK // (x.shape[1] * step)) * step)


def _scales(magnitude: Tensor, rounding: Rounding, whole: Tensor | None):
    region, size, rule, to = rounding
    if rounding.per_tensor:
        return [rule.scales(whole, to, whole)]
    inside = [-1 if dim else 1 for dim in region]
    amaxes = (p.amax(inside, keepdim=True) for p in _parts(magnitude, size, region))
    return [rule.scales(amax, to, whole) for amax in amaxes]


def _round_chunk(x, out, rounding: Rounding, scales, scratch) -> None:
    region, size, rule, to = rounding
    scaled = _parts(out, size, region)
    for values, y, scale in zip(_parts(x, size, region), scaled, scales, strict=True):
        torch.div(values, scale, out=y)
    if rule.cuts_off:
        out.clamp_(-to.largest, to.largest)
    round_(out, to, scratch)
    for y, scale in zip(scaled, scales, strict=True):
        y.mul_(scale)


def _parts(x: Tensor, size: int | None, region: Region) -> list[Tensor]:
    """Views of a matrix with each dim of the region split in two: which, and where in.

    The first holds whole tiles or blocks, others the shorter ones at the edges.
    """
    if size is None and len(region) == 2:
        return [x]
    parts = [x]
    for dim in region:
        parts = [short for part in parts for short in _split(part, size, dim)]
    return parts


def _split(x: Tensor, size: int | None, dim: int) -> list[Tensor]:
    width = x.shape[dim]
    size = size or max(width, 1)
    whole = width // size * size
    if whole == width:
        return [x.unflatten(dim, (-1, size))]
    short = x.narrow(dim, whole, width - whole).unsqueeze(dim - 1 if dim else 0)
    if not whole:
        return [short]
    return [x.narrow(dim, 0, whole).unflatten(dim, (-1, size)), short]
