"""BF16 products of FP32 parameters, so that long runs fit on a GPU.

Chapter: 02_moe/conditional_computation
Source: course

On a GPU, PyTorch's grouped product is fast in BF16 alone. Inputs are rounded on the
way into each product, and sums are kept in FP32 inside it. All else stays FP32:
parameters and their gradients, norms, attention, router, head and loss.
The CPU multiplies in FP32 throughout.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tiny_lm.layers import PLAIN, Products, grouped_linear

# The weight gradient cuts its inputs along the rows: each cut must lie at a multiple
# of 16 bytes, or the kernel refuses.
ROW_MULTIPLE = 8


def linear(
    x: Float[Tensor, "... K"], weight: Float[Tensor, "M K"]
) -> Float[Tensor, "... M"]:
    """`x @ weight.T` of rounded inputs; the result has the dtype of `x`."""
    return F.linear(x.bfloat16(), weight.bfloat16()).to(x.dtype)


def grouped(
    rows: Float[Tensor, "R K"],
    weight: Float[Tensor, "E M K"],
    ends: Int[Tensor, " E"],
) -> Float[Tensor, "R M"]:
    """Each expert's rows times its weight, of rounded inputs.

    Args:
        ends: where each expert's rows end, multiples of `ROW_MULTIPLE`.
    """
    return grouped_linear(rows.bfloat16(), weight.bfloat16(), ends).to(rows.dtype)


BF16 = Products(linear=linear, grouped=grouped, row_multiple=ROW_MULTIPLE)


def products_for(device: str) -> Products:
    """What a model is handed to multiply with on that kind of device."""
    return BF16 if device == "cuda" else PLAIN


def precision(device: str) -> str:
    """The same, as a record says it."""
    return "bf16 products" if products_for(device) is BF16 else "fp32"


def check_grouped(products: Products, device: str) -> None:
    """Compare the grouped product and both gradients with a loop over the experts.

    Raises:
        RuntimeError: they differ by more than rounding: this build's kernel is wrong.
    """
    generator = torch.Generator().manual_seed(0)
    counts = torch.tensor([24, 0, 8, 32])
    ends = counts.cumsum(0).to(torch.int32).to(device)
    rows = torch.randn(64, 128, generator=generator).to(device).requires_grad_()
    weight = torch.randn(4, 48, 128, generator=generator).to(device).requires_grad_()
    found = _with_gradients(products.grouped(rows, weight, ends), rows, weight)
    parts = zip(rows.split(counts.tolist()), weight, strict=True)
    wanted = _with_gradients(torch.cat([r @ w.T for r, w in parts]), rows, weight)
    for one, other in zip(found, wanted, strict=True):
        if not (one - other).norm() < 0.02 * other.norm():
            raise RuntimeError(
                f"the grouped product of torch {torch.__version__} on {device} "
                "differs from a loop over the experts"
            )


def _with_gradients(y: Tensor, *inputs: Tensor) -> list[Tensor]:
    return [y.detach(), *torch.autograd.grad((y * y).sum() / 2, inputs)]
