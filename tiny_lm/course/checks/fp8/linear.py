"""Task 4.6: a linear map whose three products all read eight-bit numbers.

Chapter: 04_fp8/scaling
Source: deepseek_v3, section 3.3
"""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from tiny_lm.course.checks.answer import Answer
from tiny_lm.course.checks.case import Probe, drawn
from tiny_lm.course.checks.task import Task
from tiny_lm.quantize import quantize_blocks, quantize_tiles


def _dequantize(codes: Tensor, scales: Tensor, rows: int, columns: int) -> Tensor:
    spread = scales.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    return codes.float() * spread[: codes.shape[0], : codes.shape[1]]


def in_tiles(x: Float[Tensor, "N K"], size: int) -> Float[Tensor, "N K"]:
    """What is left of x after 1 x size tiles."""
    return _dequantize(*quantize_tiles(x, size), 1, size)


def in_blocks(w: Float[Tensor, "M K"], size: int) -> Float[Tensor, "M K"]:
    """What is left of w after size x size blocks."""
    return _dequantize(*quantize_blocks(w, size), size, size)


def fp8_linear(
    x: Float[Tensor, "N K"], weight: Float[Tensor, "M K"], size: int
) -> Float[Tensor, "N M"]:
    """x @ weight.T, where it and both gradients are products of eight-bit numbers."""

    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            kept, w = in_tiles(x, size), in_blocks(weight, size)
            ctx.save_for_backward(kept, w)
            return kept @ w.mT

        @staticmethod
        def backward(ctx, grad):
            x, w = ctx.saved_tensors
            grad_x = in_tiles(grad, size) @ w
            by_token = in_tiles(x.mT, size)
            grad_weight = in_tiles(grad.mT, size) @ by_token.mT
            return grad_x, grad_weight

    return Product.apply(x, weight)


Y, BY_X, BY_W = "y", "gradient by x:", "gradient by weight:"
UNFIT = (
    "Two shapes do not fit. y is (N, M), x @ weight.T; the gradient by x is (N, K), "
    "grad @ weight; the gradient by weight is (M, K), grad.T @ x."
)

task_4_6 = Task(
    id="4.6",
    lab="04_fp8",
    title="A linear map, forward and backward",
    name="fp8_linear",
    piece="fp8.linear",
    difficulty=3,
    minutes=35,
    points=5,
    reference=fp8_linear,
    returns=("y",),
    errors={
        "cannot be multiplied": UNFIT,
        "must match the size": UNFIT,
        "an incorrect number of gradients": "backward returns one gradient for each "
        "argument of apply, in their order, None for what is no tensor.",
        "returned an invalid gradient": UNFIT,
        "not enough values to unpack": "ctx.saved_tensors holds what forward gave to "
        "ctx.save_for_backward, as many and in that order.",
        "missing 1 required positional argument: 'ctx'": "forward and backward need "
        "@staticmethod above them.",
        "Legacy autograd function": "forward and backward need @staticmethod above "
        "them, and the class is used as Product.apply(…).",
        "does not require grad": "The result has no way back to x and weight: it is "
        "Product.apply(x, weight) that lays one.",
    },
    hints=(
        """
        Write the three products as FP32 would have them: x @ w.T, grad @ w and
        grad.T @ x. Then look at each of them: over which dim does it add up? Tiles lie
        along that dim.
        """,
        """
        Forward: x in tiles, weight in blocks, and both rounded ones are kept. Backward:
        grad in tiles times the kept weight. For the weight's gradient the sum runs over
        the tokens, so both are turned on their side first and tiled there:
        in_tiles(grad.T, size), and the kept x likewise.
        """,
        """
        grad_x = in_tiles(grad, size) @ w
        grad_weight = in_tiles(grad.T, size) @ in_tiles(x.T, size).T, where x and w are
        ctx.saved_tensors: what in_tiles and in_blocks gave in forward.
        """,
    ),
)


def pulled(answer: Answer, x: Tensor, weight: Tensor, size: int, grad: Tensor) -> dict:
    """The result, and the gradients where `grad` comes back from behind.

    The way back runs inside the guarded call, so that an error there is told like any
    other, and a weight that it changes is seen.
    """
    forward, given = answer.function, (x.requires_grad_(), weight.requires_grad_())

    def there_and_back(x: Tensor, weight: Tensor, size: int) -> tuple[Tensor, ...]:
        y = forward(x, weight, size)
        found = torch.autograd.grad(y, given, grad, allow_unused=True)
        pairs = zip(found, given, strict=True)
        return y, *(torch.zeros_like(z) if g is None else g for g, z in pairs)

    answer.function = there_and_back
    try:
        return dict(zip((Y, BY_X, BY_W), answer(*given, size), strict=True))
    finally:
        answer.function = forward


def by_hand(x: list, weight: list, grad: list, size: int, note: str = "") -> Probe:
    """All three on numbers that a person can follow."""

    def use(answer: Answer, generator: Generator) -> dict:
        return pulled(answer, *map(torch.tensor, (x, weight)), size, torch.tensor(grad))

    told = f"x = {x}, weight = {weight}, size {size}"
    behind = f",\nand {grad} comes back from behind"
    return Probe(use, f"{told}{behind}{note}")


def drawn_at(N: int, M: int, K: int, size: int) -> Probe:
    """All three on rows and columns of very different sizes."""

    def use(answer: Answer, generator: Generator) -> dict:
        x = torch.randn(N, K, generator=generator)
        x = x * 10.0 ** torch.randint(-2, 3, (N, 1), generator=generator)
        weight = torch.randn(M, K, generator=generator)
        grad = torch.randn(N, M, generator=generator)
        grad = grad * 10.0 ** torch.randint(-6, -1, (N, 1), generator=generator)
        return pulled(answer, x, weight, size, 1e3 * grad)

    return Probe(use, f"random x ({N}, {K}) and weight ({M}, {K}), size {size}")


SMALL = drawn_at(6, 5, 7, 3)
task_4_6.asks(
    "y is (N, M), one row for each row of x",
    drawn(
        lambda g: (torch.randn(6, 7, generator=g), torch.randn(5, 7, generator=g), 3)
    ),
    only=(),
    mistakes={
        "return kept @ w.mT => return (kept @ w.mT).mT": "The result lies on its side: "
        "rows of x are its rows.",
        "return kept @ w.mT => return kept @ w": UNFIT,
    },
)

FORWARD = by_hand(
    [[448.0, 17.0]],
    [[448.0, 0.0], [0.0, 1.1]],
    [[1.0, 1.0]],
    2,
    ";\nboth scales are 1, 17 becomes 16 and 1.1 becomes 1.125",
)
forward = task_4_6.asks(
    "forward: x in tiles times weight in blocks",
    FORWARD,
    SMALL,
    only=(Y,),
    otherwise="Both inputs are rounded, x in tiles and weight in blocks, and their "
    "product is left as it comes out.",
    mistakes={
        "in_tiles(x, size), in_blocks(weight, size) => x, in_blocks(weight, size)": (
            "x went into the forward product as it was. It is rounded too, in tiles."
        ),
        "in_tiles(x, size), in_blocks(weight, size) => in_tiles(x, size), weight": (
            "weight went into the forward product as it was. It is rounded too, in "
            "blocks."
        ),
        "in_tiles(x, size), in_blocks(weight, size) => x, weight": "Nothing was "
        "rounded before the forward product.",
        "in_blocks(weight, size) => in_tiles(weight, size)": "The weight was rounded "
        "in tiles, like an activation. Weights have blocks: a block serves this "
        "product and, on its side, the one of the backward pass.",
        "kept, w = in_tiles(x, size) => kept, w = in_blocks(x, size)": "x was rounded "
        "in blocks, so that tokens share a scale. Activations have tiles.",
        "kept, w = in_tiles(x, size) => kept, w = in_tiles(x.mT, size).mT": "The tiles "
        "of x lie along the tokens. This product adds up over the width, and so do its "
        "tiles lie.",
        "return kept @ w.mT => return in_tiles(kept @ w.mT, size)": "The result was "
        "rounded as well. Only what goes into a product is.",
    },
)


@forward.mistake("This is FP32, forward and backward: nothing was rounded at all.")
def in_fp32(x, weight, size):
    return x @ weight.mT
