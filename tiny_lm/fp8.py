"""Matrix products of eight-bit inputs, forward and backward.

Chapter: 04_fp8
Source: deepseek_v3, section 3.3

Half the bytes of BF16 cross the wires, and tensor cores multiply FP8 at twice the
rate. The price is a number with one correct digit; `quantize` says how scales make it
enough. This module puts such numbers into a layer.

Y = X W^T is three products in training, and each sums over another dim. A scale can
only be taken out of a sum if it stays the same along it, so tiles lie along the dim
that is summed over:

    Fprop   Y  = X W^T     over the input width    X in 1 x tile, W in blocks
    Dgrad   dX = dY W      over the output width   dY in 1 x tile, the same blocks
    Wgrad   dW = dY^T X    over the tokens         dY and X in tile x 1

Blocks are square, so W serves both ways and is quantised once a step. Activations are
not so lucky. X was kept as Fprop rounded it, and Wgrad rounds that again, along the
tokens; dY is rounded twice from the original. Sums, outputs and gradients are FP32.

What is emulated is arithmetic, never speed or memory. The products run in FP32 on
rounded values, and X is kept in four bytes a value where FP8 codes take one.
`accumulator` shows what is lost where tensor cores add in fewer than 32 bits.
"""

from collections.abc import MutableMapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary

from tiny_lm import fp8_recipes
from tiny_lm.config import FP8Config
from tiny_lm.fake_quantize import (
    ALONG_ROWS,
    ALONG_TOKENS,
    Rounding,
    fake_quantize,
    fake_quantize_blocks,
)
from tiny_lm.fp8_kernels import ProductKernels, weight_rounding
from tiny_lm.kernels import emulation
from tiny_lm.layers import Products, grouped_linear
from tiny_lm.matmul import grouped_outer, outer, times


class _Rounded(NamedTuple):
    original: Tensor
    block: int
    rounded: Tensor


# Of each weight, for as long as the weight itself lives.
_rounded_weights: MutableMapping[Tensor, _Rounded] = WeakTensorKeyDictionary()


def products(config: FP8Config) -> Products:
    """What a model is handed to multiply in FP8.

    Each expert's rows must be padded to whole tiles, so that no tile along the tokens
    takes its scale from two experts.
    """
    given = fp8_recipes.products(config)
    if config.is_published:
        sizes = {"tile": config.tile, "block": config.block}
        linear, of_experts = partial(matmul, **sizes), partial(grouped, **sizes)
        given = replace(given, linear=linear, grouped=of_experts)
    gate = {"gate": given.linear} if config.gate else {}
    head = {"head": given.linear} if config.head else {}
    return replace(given, **gate, **head)


def matmul(
    x: Float[Tensor, "... K"],
    weight: Float[Tensor, "M K"],
    tile: int = 128,
    block: int = 128,
) -> Float[Tensor, "... M"]:
    """`x @ weight.T` and its gradients, with FP8 inputs and FP32 sums.

    Inputs of another dtype are taken as FP32, and the result returns in theirs.

    Raises:
        ValueError: the widths differ.
    """
    _require_equal_widths(x, weight)
    rows = x.reshape(-1, x.shape[-1]).float()
    y = _Product.apply(rows, weight, None, tile, block)
    return y.view(*x.shape[:-1], weight.shape[0]).to(x.dtype)


def grouped(
    rows: Float[Tensor, "R K"],
    weight: Float[Tensor, "E M K"],
    ends: Int[Tensor, " E"],
    tile: int = 128,
    block: int = 128,
) -> Float[Tensor, "R M"]:
    """Each expert's rows times its weight: `matmul` for all experts in one call.

    Args:
        rows: sorted by expert; each expert has a multiple of `tile` rows, perhaps none.
        ends: where each expert's rows end; the last entry is R.

    Raises:
        ValueError: the widths differ, or R is no multiple of `tile`.
    """
    _require_equal_widths(rows, weight)
    if len(rows) % tile:
        raise ValueError(
            f"each expert's rows must be padded to a multiple of tile={tile}, "
            f"got {len(rows)} rows"
        )
    return _Product.apply(rows.float(), weight, ends, tile, block).to(rows.dtype)


def rounded_weight(
    weight: Float[Tensor, "... M K"], block: int
) -> Float[Tensor, "... M K"]:
    """The weight as its FP8 blocks hold it, rounded once until the weight changes.

    Micro-batches, recomputation and generation reuse it. Whether the weight changed is
    asked of its values, for PyTorch's count of versions misses fused optimizers and
    writes through `weight.data`. A comparison costs less than half a rounding.
    """
    held = _rounded_weights.get(weight)
    with emulation():
        valid = held and held.block == block and torch.equal(held.original, weight)
    if not valid:
        # Made as ordinary tensors even while generating in inference mode, so that the
        # next training step may keep them for its backward pass.
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            weight_rounding(weight, block),
        ):
            rounded = fake_quantize_blocks(weight, block)
            held = _Rounded(weight.detach().clone(), block, rounded)
        _rounded_weights[weight] = held
    return held.rounded


class _Product(torch.autograd.Function):
    """Fprop, Dgrad and Wgrad. `ends` is None for a layer that reads every row."""

    @staticmethod
    def forward(ctx, rows, weight, ends, tile, block):
        on_chip = ProductKernels(rows, weight, ends, tile, block)
        with on_chip.round_rows():
            (x,) = fake_quantize(rows, Rounding(ALONG_ROWS, tile))
        w = rounded_weight(weight, block)
        ctx.save_for_backward(x, w, ends)
        ctx.tile, ctx.on_chip = tile, on_chip
        with on_chip.fprop():
            return times(x, w) if ends is None else grouped_linear(x, w, ends)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, w, ends = ctx.saved_tensors
        wants_rows, wants_weight = ctx.needs_input_grad[:2]
        regions = (ALONG_ROWS,) * wants_rows + (ALONG_TOKENS,) * wants_weight
        with ctx.on_chip.round_gradient(regions):
            ways = (Rounding(region, ctx.tile) for region in regions)
            gradients = fake_quantize(grad, *ways)
        grad_rows = grad_weight = None
        if wants_rows:
            with ctx.on_chip.dgrad():
                grad_rows = _input_gradient(gradients[0], w, ends)
        if wants_weight:
            with ctx.on_chip.round_columns():
                (columns,) = fake_quantize(x, Rounding(ALONG_TOKENS, ctx.tile))
            with ctx.on_chip.wgrad():
                grad_weight = _weight_gradient(gradients[-1], columns, ends)
        return grad_rows, grad_weight, None, None, None


def _input_gradient(grad: Tensor, w: Tensor, ends: Tensor | None) -> Tensor:
    if ends is None:
        return times(grad, w.T)
    return grouped_linear(grad, w.transpose(1, 2), ends)


def _weight_gradient(grad: Tensor, x: Tensor, ends: Tensor | None) -> Tensor:
    if ends is None:
        return outer(grad, x)
    if len(x) == 0:
        return x.new_zeros(len(ends), grad.shape[1], x.shape[1])
    return grouped_outer(grad, x, ends)


def _require_equal_widths(x: Tensor, weight: Tensor) -> None:
    if x.shape[-1] != weight.shape[-1]:
        raise ValueError(
            f"x is {x.shape[-1]} wide, but the weight takes {weight.shape[-1]}"
        )
