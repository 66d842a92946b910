"""Matrix products on a CPU, by the fastest library that PyTorch carries.

Chapter: 06_together/full_model
Source: onednn

PyTorch carries two libraries for FP32 products on a CPU. MKL is the one behind `@`.
oneDNN was up to twice as fast in products of this course's shapes, on the AMD processor
where we compared them; on Intel's we did not. Its operator was made for PyTorch's
compiler: like a layer, it multiplies by the transpose of its second matrix.

Everything here has a plain twin, which is taken on a GPU, for other dtypes and where
PyTorch was built without oneDNN. Sums are added in another order, so the two differ in
the last bits.
"""

from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from tiny_lm.kernels import Work, kernel, num_bytes, precision

HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(
    torch.ops.mkldnn, "_linear_pointwise"
)


def times(a: Float[Tensor, "N K"], b: Float[Tensor, "M K"]) -> Float[Tensor, "N M"]:
    """`a @ b.T`, without gradients."""
    if not _is_fast(a, b):
        return a @ b.T
    with kernel("mm", partial(_work, a, b)):  # as PyTorch calls it: tapes are alike
        return torch.ops.mkldnn._linear_pointwise(a, b, None, "none", [], "")


def _work(a: Tensor, b: Tensor) -> Work:
    (n, k), m = a.shape, len(b)
    return Work(2 * n * k * m, num_bytes(a, b) + n * m * a.itemsize, precision(a.dtype))


def outer(a: Float[Tensor, "N M"], b: Float[Tensor, "N K"]) -> Float[Tensor, "M K"]:
    """`a.T @ b`, without gradients: a weight's gradient, summed over rows.

    oneDNN copies its first matrix where it is a transpose, so the narrower of the two
    goes first.
    """
    if not _is_fast(a, b):
        return a.T @ b
    if a.shape[1] < b.shape[1]:
        return times(a.T, b.T)
    return times(b.T, a.T).T


def _is_fast(a: Tensor, b: Tensor) -> bool:
    return (
        HAS_ONEDNN
        and a.device.type == "cpu"
        and a.dtype == b.dtype == torch.float32
        and a.numel() > 0
        and b.numel() > 0
    )


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, weight):
        ctx.save_for_backward(rows, weight)
        return times(rows, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        rows, weight = ctx.saved_tensors
        wants_rows, wants_weight = ctx.needs_input_grad
        return (
            times(grad, weight.T) if wants_rows else None,
            outer(grad, rows) if wants_weight else None,
        )


def linear(
    x: Float[Tensor, "... K"], weight: Float[Tensor, "M K"]
) -> Float[Tensor, "... M"]:
    """`F.linear` without a bias, forward and backward."""
    if not _is_fast(x, weight):
        return F.linear(x, weight)
    y = _Linear.apply(x.reshape(-1, x.shape[-1]), weight)
    return y.view(*x.shape[:-1], weight.shape[0])
