"""FP8 products by the learner's pieces.

Chapter: 06_together/full_model
Source: deepseek_v3, section 3.3

In training a layer is `fp8.linear`, with its own way back. Where no gradient is wanted,
in validation and when text is written, it is what a chip would do: codes of tiles and
of blocks, and their scaled product.
"""

from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.weak import WeakTensorKeyDictionary

from tiny_lm import fp8
from tiny_lm.config import FP8Config
from tiny_lm.course.assembly.chosen import Chosen
from tiny_lm.fake_quantize import ALONG_ROWS, ALONG_TOKENS
from tiny_lm.fp8_kernels import ProductKernels, weight_rounding
from tiny_lm.kernels import emulation
from tiny_lm.layers import Products

TRAINED = ("fp8.linear",)
CODED = ("fp8.quantize_tiles", "fp8.quantize_blocks", "fp8.scaled_product")
One = Callable[[Tensor, Tensor], Tensor]
Codes = tuple[Tensor, Tensor]  # with their scales
_by_tensor = WeakTensorKeyDictionary


def products(mine: Chosen, config: FP8Config) -> Products:
    """What a model is handed to multiply in FP8."""
    given, multiply = fp8.products(config), Multiply(mine, config)
    head = {"head": multiply} if config.head else {}
    return replace(given, linear=multiply, grouped=multiply.grouped, **head)


class Multiply:
    """A product of two matrices, or of each expert's rows with its own."""

    def __init__(self, mine: Chosen, config: FP8Config) -> None:
        self.mine, self.size = mine, config.tile
        self._apart: MutableMapping[Tensor, tuple[Tensor, ...]] = _by_tensor()
        self._codes: MutableMapping[Tensor, tuple[Tensor, Codes]] = _by_tensor()

    def __call__(
        self, x: Float[Tensor, "... K"], weight: Float[Tensor, "M K"]
    ) -> Float[Tensor, "... M"]:
        rows = x.reshape(-1, x.shape[-1]).float()
        y = self._multiply(rows, weight, None)
        return y.view(*x.shape[:-1], len(weight)).to(x.dtype)

    def grouped(
        self,
        rows: Float[Tensor, "R K"],
        weight: Float[Tensor, "E M K"],
        ends: Int[Tensor, " E"],
    ) -> Float[Tensor, "R M"]:
        return self._multiply(rows.float(), weight, ends).to(rows.dtype)

    def _multiply(self, rows: Tensor, weight: Tensor, ends: Tensor | None) -> Tensor:
        if torch.is_grad_enabled():
            return _Layer.apply(rows, weight, ends, self._trained, self.size)
        if ends is not None:  # the same tensors at every call, so that codes are found
            if weight not in self._apart:
                self._apart[weight] = weight.detach().unbind()
            weight = self._apart[weight]
        return each(self._coded, rows, weight, ends)

    def _trained(self, x: Tensor, weight: Tensor) -> Tensor:
        if self.mine.has(*TRAINED):
            return self.mine("fp8.linear")(x, weight, self.size).to(x)
        return fp8.matmul(x, weight, self.size, self.size)

    def _coded(self, x: Tensor, weight: Tensor) -> Tensor:
        if not self.mine.has(*CODED):
            return fp8.matmul(x, weight, self.size, self.size)
        of_x = self.mine("fp8.quantize_tiles")(x, self.size)
        product = self.mine("fp8.scaled_product")
        return product(*of_x, *self._blocks(weight), self.size).to(x)

    def _blocks(self, weight: Tensor) -> Codes:
        """A weight's codes, made once until it changes."""
        held = self._codes.get(weight)
        if held is None or not torch.equal(held[0], weight):
            codes = self.mine("fp8.quantize_blocks")(weight.detach(), self.size)
            held = self._codes[weight] = weight.detach().clone(), tuple(codes)
        return held[1]


def each(
    one: One, rows: Tensor, weight: Tensor | Sequence[Tensor], ends: Tensor | None
) -> Tensor:
    """One product, or one for each expert that has rows."""
    if ends is None:
        return one(rows, weight)
    counts = ends.diff(prepend=ends.new_zeros(1)).tolist()
    pairs = zip(rows.split(counts), weight, strict=True)
    parts = [one(part, w) for part, w in pairs if len(part)]
    return torch.cat(parts) if parts else rows.new_zeros(0, len(weight[0]))


class _Layer(torch.autograd.Function):
    """The same product, charged as the kernels that a GPU would run for it."""

    @staticmethod
    def forward(ctx, rows, weight, ends, one, size):
        on_chip = ctx.on_chip = ProductKernels(rows, weight, ends, size, size)
        with on_chip.round_rows():
            x = rows.detach().requires_grad_()
        with weight_rounding(weight, size):
            w = weight.detach().requires_grad_()
        with on_chip.fprop(), torch.enable_grad():
            y = each(one, x, w, ends)
        ctx.inside = x, w, y
        return y.detach()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, w, y = ctx.inside
        if not y.requires_grad:  # no expert had a row
            return torch.zeros_like(x), torch.zeros_like(w), None, None, None
        on_chip = ctx.on_chip
        for kernel in (
            on_chip.round_gradient((ALONG_ROWS, ALONG_TOKENS)),
            on_chip.dgrad(),
            on_chip.round_columns(),
            on_chip.wgrad(),
        ):
            with kernel:
                pass
        with emulation():
            of_x, of_w = torch.autograd.grad(y, (x, w), grad)
        return of_x, of_w, None, None, None
