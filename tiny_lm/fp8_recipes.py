"""FP8 products other than DeepSeek-V3's: which inputs are rounded, and how.

Chapter: 04_fp8
Source: deepseek_v3, section 3.3; fp8_formats; mxfp8_recipes

A layer multiplies three times in training, and each product has two inputs:

    Fprop   Y  = X W^T     X along the width          W along the width
    Dgrad   dX = dY W      dY along the width         W along the output width
    Wgrad   dW = dY^T X    dY along the tokens        X along the tokens

A `Recipe` says for each of the six whether and how it is rounded. `fp8` is the one that
DeepSeek-V3 published, fast and charged as kernels of a GPU; this module is every other,
so that a run can show what one choice is worth. Its default equals `fp8`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from tiny_lm.config import FP8Config
from tiny_lm.fake_quantize import (
    ALONG_ROWS,
    ALONG_TOKENS,
    BLOCKS,
    Region,
    Rounding,
    fake_quantize,
    fake_quantize_stack,
)
from tiny_lm.formats import FORMATS
from tiny_lm.layers import Products, grouped_linear
from tiny_lm.matmul import grouped_outer, outer, times
from tiny_lm.scales import AMAX, OCP_FLOOR, ROUND_UP

RULES = {"fp32": AMAX, "round_up": ROUND_UP, "ocp_floor": OCP_FLOOR}


@dataclass(frozen=True)
class Inputs:
    """How the two inputs of a product are rounded; None: not at all."""

    first: Rounding | None = None
    second: Rounding | None = None


@dataclass(frozen=True)
class Recipe:
    """How the inputs of the three products are rounded.

    `keep` is what of X the forward pass keeps for Wgrad: what Fprop multiplied, or X.
    """

    fprop: Inputs
    dgrad: Inputs
    wgrad: Inputs
    keep: Callable[[Tensor, Tensor], Tensor]


def recipe(config: FP8Config) -> Recipe:
    """What a config asks for."""
    rule, c = RULES[config.scales], config
    gradient_format = FORMATS[c.gradient_format]

    def rounding(shared: str, along: Region, **format_of: object) -> Rounding:
        sizes = {"tiles": (along, c.tile), "blocks": (BLOCKS, c.block)}
        region, size = sizes.get(shared, (BLOCKS, None))
        return Rounding(region, size, rule, **format_of)

    gradient = partial(rounding, c.gradients, to=gradient_format)
    fprop = Inputs(rounding(c.activations, ALONG_ROWS), rounding(c.weights, ALONG_ROWS))
    dgrad = Inputs(gradient(ALONG_ROWS), rounding(c.weights, ALONG_TOKENS))
    wgrad = Inputs(gradient(ALONG_TOKENS), rounding(c.activations, ALONG_TOKENS))
    twice = c.forward and c.weight_gradient and c.round_twice
    return Recipe(
        fprop if c.forward else Inputs(),
        dgrad if c.input_gradient else Inputs(),
        wgrad if c.weight_gradient else Inputs(),
        _keep_rounded if twice else _keep_original,
    )


def _keep_rounded(original: Tensor, rounded: Tensor) -> Tensor:
    return rounded


def _keep_original(original: Tensor, rounded: Tensor) -> Tensor:
    return original


def products(config: FP8Config) -> Products:
    """What a model is handed to multiply as the config says."""
    how = recipe(config)
    return Products(
        linear=partial(matmul, how=how),
        grouped=partial(grouped, how=how),
        row_multiple=config.tile,
    )


def matmul(
    x: Float[Tensor, "... K"], weight: Float[Tensor, "M K"], how: Recipe
) -> Float[Tensor, "... M"]:
    """`x @ weight.T` and its gradients, with inputs rounded and FP32 sums."""
    rows = x.reshape(-1, x.shape[-1]).float()
    y = _Product.apply(rows, weight, None, how)
    return y.view(*x.shape[:-1], weight.shape[0]).to(x.dtype)


def grouped(
    rows: Float[Tensor, "R K"],
    weight: Float[Tensor, "E M K"],
    ends: Int[Tensor, " E"],
    how: Recipe,
) -> Float[Tensor, "R M"]:
    """Each expert's rows times its weight.

    Args:
        rows: sorted by expert; each expert has whole tiles of rows, perhaps none. With
            a scale per tensor, all experts' rows share it.
    """
    return _Product.apply(rows.float(), weight, ends, how).to(rows.dtype)


class _Product(torch.autograd.Function):
    """The three products; the plain twin of `fp8`'s."""

    @staticmethod
    def forward(ctx, rows, weight, ends, how):
        x, w = _rounded(rows, how.fprop.first), _rounded(weight, how.fprop.second)
        ctx.save_for_backward(how.keep(rows, x), weight, ends)
        ctx.how = how
        return _times(x, w, ends)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (x, weight, ends), how = ctx.saved_tensors, ctx.how
        wants_rows, wants_weight = ctx.needs_input_grad[:2]
        grad_rows = grad_weight = None
        if wants_rows:
            w = _rounded(weight, how.dgrad.second)
            grad_rows = _times(_rounded(grad, how.dgrad.first), w.mT, ends)
        if wants_weight:
            columns = _rounded(x, how.wgrad.second)
            grad_weight = _outer(_rounded(grad, how.wgrad.first), columns, ends)
        return grad_rows, grad_weight, None, None


def _rounded(x: Tensor, rounding: Rounding | None) -> Tensor:
    if rounding is None:
        return x
    if x.dim() == 3:
        return fake_quantize_stack(x, rounding)
    return fake_quantize(x, rounding)[0]


def _times(x: Tensor, w: Tensor, ends: Tensor | None) -> Tensor:
    return times(x, w) if ends is None else grouped_linear(x, w, ends)


def _outer(grad: Tensor, x: Tensor, ends: Tensor | None) -> Tensor:
    if ends is None:
        return outer(grad, x)
    if len(x) == 0:
        return x.new_zeros(len(ends), grad.shape[1], x.shape[1])
    return grouped_outer(grad, x, ends)


@runtime_checkable
class Steps(Protocol):
    """An optimizer that tells when a step is done, as torch's do."""

    def register_step_post_hook(self, hook: Callable[..., object]) -> object:
        """Have this called after each step."""


def hold_weights(
    optimizer: Steps, weights: Iterable[Tensor], config: FP8Config
) -> None:
    """Keep these weights in the precision of `config.masters`, now and after each step.

    An update smaller than half a step of that precision is lost; that is what FP32
    masters are for.
    """
    rounding = recipe(config).fprop.second or Rounding(BLOCKS, config.block)
    round_one = {
        "bf16": lambda w: w.bfloat16().float(),
        "fp8": lambda w: _rounded(w, rounding),
    }[config.masters]
    weights = list(weights)

    @torch.no_grad()
    def after_step(*_: object) -> None:
        for weight in weights:
            weight.copy_(round_one(weight))

    after_step()
    optimizer.register_step_post_hook(after_step)
