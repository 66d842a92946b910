"""Task 4.6, the way back: two more products, whose tiles lie another way.

Chapter: 04_fp8/scaling
Source: deepseek_v3, section 3.3
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tiny_lm.course.checks.fp8.linear import (
    BY_W,
    BY_X,
    SMALL,
    by_hand,
    drawn_at,
    in_blocks,
    in_tiles,
    task_4_6,
)
from tiny_lm.quantize import (
    dequantize_blocks,
    dequantize_tiles,
    quantize_blocks,
    quantize_tiles,
)

BACK = by_hand(
    [[1.0, 1.0]],
    [[448.0, 0.0], [0.0, 1.1]],
    [[448.0, 17.0]],
    2,
    ";\nboth scales are 1, 17 becomes 16 and 1.1 becomes 1.125",
)
by_x = task_4_6.asks(
    "the gradient by x: what comes back in tiles, times weight in blocks",
    BACK,
    SMALL,
    only=(BY_X,),
    otherwise="The gradient by x is grad @ weight, an eight-bit product like that of "
    "the forward pass: grad in tiles, the weight as its blocks hold it.",
    mistakes={
        "in_tiles(grad, size) @ w => grad @ w": "What came back was left in FP32. It "
        "is rounded in tiles before it is multiplied.",
        "save_for_backward(kept, w) => save_for_backward(kept, weight)": "The weight "
        "itself was used on the way back. Its rounded blocks serve here too.",
        "in_tiles(grad, size) @ w => in_blocks(grad, size) @ w": "What came back was "
        "rounded in blocks, so that tokens share a scale. Gradients of activations "
        "have tiles: with blocks DeepSeek's model diverged.",
        "in_tiles(grad, size) @ w => in_tiles(grad.mT, size).mT @ w": "The tiles of "
        "the gradient lie along the tokens. This product adds up over the output "
        "width, and so do its tiles lie.",
        "in_tiles(grad, size) @ w => in_tiles(grad, size) @ in_tiles(w.mT, size).mT": (
            "The weight was rounded once more, in tiles. Blocks are square: those of "
            "the forward pass serve on their side as they are."
        ),
        "save_for_backward(kept, w) => save_for_backward(x, weight) ;; "
        "in_tiles(grad, size) @ w => grad @ w": "Nothing was rounded on the way back: "
        "grad and weight went into this product as they were.",
        "return grad_x, => return in_tiles(grad_x, size),": "The gradient was rounded "
        "once more after the product. Only what goes into a product is.",
    },
)


@by_x.mistake(
    "autograd found its own way back, through the rounding: this has no backward of "
    "yours. A rounding has no useful slope; a torch.autograd.Function says what to do."
)
def without_a_backward(x, weight, size):
    return in_tiles(x, size) @ in_blocks(weight, size).mT


@by_x.mistake(
    "What came back is not rounded: the products of the way back are autograd's own, "
    "of FP32 gradients. They are eight-bit products too."
)
def straight_through(x, weight, size):
    rounded = [z + (r - z).detach() for z, r in _pairs(x, weight, size)]
    return rounded[0] @ rounded[1].mT


def _pairs(x: Tensor, weight: Tensor, size: int) -> list[tuple[Tensor, Tensor]]:
    with torch.no_grad():
        return [(x, in_tiles(x, size)), (weight, in_blocks(weight, size))]


TALL = "two tokens; along them, 17 beside 448 becomes 16"
GRADIENT_ROWS = (
    "The gradient has its tiles along the output width, as for the gradient by x. This "
    "product adds up over the tokens: turn it on its side, then round."
)
X_ROWS = (
    "x came as the forward product had it, in tiles along the width. This product adds "
    "up over the tokens: turn it on its side, and round again."
)
task_4_6.asks(
    "the gradient by weight: both rounded anew, in tiles along the tokens",
    by_hand([[1.0], [1.0]], [[1.0]], [[448.0], [17.0]], 2, f";\n{TALL}"),
    by_hand([[448.0], [17.0]], [[1.0]], [[1.0], [1.0]], 2, f";\n{TALL}"),
    only=(BY_W,),
    otherwise="The gradient by weight is grad.T @ x, a sum over the tokens: both are "
    "laid on their side and get tiles along the tokens.",
    mistakes={
        "in_tiles(grad.mT, size) @ by => grad.mT @ by": "What came back was left in "
        "FP32 in the gradient by weight. It is rounded here too, along the tokens.",
        "in_tiles(grad.mT, size) @ by => in_tiles(grad, size).mT @ by": GRADIENT_ROWS,
        "return grad_x, grad_weight => return grad_x, grad_weight / len(grad)": "The "
        "gradient by weight was divided by the number of tokens. It is a sum over "
        "them; where a loss is a mean, grad has been divided already.",
        "by_token = in_tiles(x.mT, size) => by_token = x.mT": X_ROWS,
        "by_token = in_tiles(x.mT, size) => by_token = in_tiles(x, size).mT": X_ROWS,
        "in_tiles(grad.mT, size) @ by => in_tiles(grad, size).mT @ by ;; "
        "by_token = in_tiles(x.mT, size) => by_token = x.mT": "Both still have the "
        "tiles of the other two products. This one adds up over the tokens: turn both "
        "on their side, and round them there.",
        "save_for_backward(kept, w) => save_for_backward(x, w) ;; "
        "in_tiles(x.mT, size) => x.mT": "x went into the gradient by weight as it "
        "came in. It is the kept, rounded one, rounded again along the tokens.",
        "in_tiles(grad.mT, size) @ by => grad.mT @ by ;; "
        "by_token = in_tiles(x.mT, size) => by_token = x.mT": "The gradient by weight "
        "is an FP32 product of what came back. Both its inputs are rounded, in tiles "
        "along the tokens.",
    },
)

task_4_6.asks(
    "x in it is the rounded x that the forward pass kept",
    by_hand(
        [[448.0, 17.0]],
        [[1.0, 1.0]],
        [[1.0]],
        2,
        ";\none token: forward, 17 becomes 16; alone along the tokens, 16 stays",
    ),
    SMALL,
    only=(BY_W,),
    otherwise="Keep what forward multiplied; it is what backward turns and rounds.",
    mistakes={
        "save_for_backward(kept, w) => save_for_backward(x, w)": "The x that came in "
        "was kept, in four bytes a number. Keep what forward multiplied, which takes "
        "one, and round that again.",
        "in_tiles(grad.mT, size) @ by => "
        "in_tiles(in_tiles(grad, size).mT, size) @ by": (
            "What came back was rounded twice, along the width and then along the "
            "tokens. Unlike x it is still there in full: round it from that."
        ),
        "in_tiles(grad.mT, size) @ by => in_blocks(grad.mT, size) @ by": "What came "
        "back was rounded in blocks. It has tiles along the tokens.",
        "by_token = in_tiles(x.mT, size) => by_token = in_blocks(x.mT, size)": "x was "
        "rounded again in blocks. It has tiles along the tokens.",
        "return grad_x, grad_weight => return grad_x, in_blocks(grad_weight, size)": (
            "The gradient by weight was rounded at the end. The optimizer reads it, in "
            "FP32."
        ),
    },
)

task_4_6.asks(
    "equals the definition on matrices of all sizes",
    drawn_at(33, 20, 17, 8),
    *[
        drawn_at(**{"N": 9, "M": 6, "K": 7, "size": 4} | {n: 1})
        for n in ("N", "M", "K")
    ],
    drawn_at(5, 5, 5, 1),
)


@task_4_6.accepts
def with_codes_kept(x, weight, size):
    class Product(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight):
            of_x, of_w = quantize_tiles(x, size), quantize_blocks(weight, size)
            ctx.save_for_backward(*of_x, *of_w)
            return dequantize_tiles(*of_x, size) @ dequantize_blocks(*of_w, size).T

        @staticmethod
        def backward(ctx, grad):
            *of_x, w, scales = ctx.saved_tensors
            x = in_tiles(dequantize_tiles(*of_x, size).T, size).T
            by_token = in_tiles(grad.T, size)
            return (
                in_tiles(grad, size) @ dequantize_blocks(w, scales, size),
                torch.einsum("mn,nk->mk", by_token, x),
            )

    return Product.apply(x, weight)


@task_4_6.accepts
def with_sizes_handed_over(x, weight, size):
    class Three(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight, size):
            ctx.size = size
            ctx.x, ctx.w = in_tiles(x, size), in_blocks(weight, size)
            return torch.nn.functional.linear(ctx.x, ctx.w)

        @staticmethod
        def backward(ctx, grad: Float[Tensor, "N M"]):
            turned = in_tiles(grad.T.contiguous(), ctx.size)
            x = in_tiles(ctx.x.T.contiguous(), ctx.size).T
            return in_tiles(grad, ctx.size) @ ctx.w, turned @ x, None

    return Three.apply(x, weight, size)
