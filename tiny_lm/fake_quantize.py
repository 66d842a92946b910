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
from functools import lru_cache
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from tiny_lm.formats import E4M3, Format, round_
from tiny_lm.scales import AMAX, Rule

CHUNK = 2**18  # values rounded at a time: what is at work on them stays in the cache

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
        chunk = x[start : start + num_rows]
        magnitude = torch.abs(chunk, out=scratch[: len(chunk)])
        scales = [_scales(magnitude, rounding, whole) for rounding in roundings]
        for out, rounding, scale in zip(outs, roundings, scales, strict=True):
            _round_chunk(
                chunk, out[start : start + num_rows], rounding, scale, magnitude
            )
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
    # Bits of numbers that are not negative are in order as integers, NaN above all, and
    # integers are compared up to five times as fast.
    bits = magnitude.view(torch.int32)
    parts = ((cut.of(bits), cut.inside) for cut in _cuts(*bits.shape, size, region))
    amaxes = (part.amax(inside, keepdim=True) for part, inside in parts)
    return [rule.scales(amax.view(torch.float32), to, whole) for amax in amaxes]


def _round_chunk(x, out, rounding: Rounding, scales, scratch) -> None:
    region, size, rule, to = rounding
    cuts = (_EVERYTHING,) if rounding.per_tensor else _cuts(*x.shape, size, region)
    scaled = [cut.of(out) for cut in cuts]
    for cut, y, scale in zip(cuts, scaled, scales, strict=True):
        torch.div(cut.of(x), scale, out=y)
    if rule.cuts_off:
        out.clamp_(-to.largest, to.largest)
    round_(out, to, scratch)
    for y, scale in zip(scaled, scales, strict=True):
        y.mul_(scale)


class _Cut(NamedTuple):
    """A part of a matrix, with the dims of a region split in two: which, and where in.

    Whole tiles or blocks are one part, the shorter ones at the edges others.
    """

    rows: slice | None
    columns: slice | None
    shape: tuple[int, ...] | None
    inside: tuple[int, ...] = ()

    def of(self, x: Tensor) -> Tensor:
        """A view of it."""
        if self.rows is not None:
            x = x[self.rows, self.columns]
        return x if self.shape is None else x.view(self.shape)


_EVERYTHING = _Cut(None, None, None)


@lru_cache(maxsize=4096)  # it is asked at every chunk
def _cuts(
    num_rows: int, width: int, size: int | None, region: Region
) -> tuple[_Cut, ...]:
    rows = _pieces(num_rows, size, 0 in region)
    columns = _pieces(width, size, -1 in region)
    inside = tuple(-1 if dim else 1 for dim in region)
    return tuple(
        _Cut(
            None if len(rows) == len(columns) == 1 else of_rows,
            of_columns,
            row_shape + column_shape,
            inside,
        )
        for of_rows, row_shape in rows
        for of_columns, column_shape in columns
    )


def _pieces(
    length: int, size: int | None, split: bool
) -> list[tuple[slice, tuple[int, ...]]]:
    """Where one dim is cut, and the shape of each piece."""
    if not split:
        return [(slice(0, length), (length,))]
    size = size or max(length, 1)
    whole = length // size * size
    pieces = [(slice(0, whole), (whole // size, size))] if whole or not length else []
    if whole < length:
        pieces.append((slice(whole, length), (1, length - whole)))
    return pieces
