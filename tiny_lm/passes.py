"""A norm and causal attention in few passes over memory, forward and backward.

Chapter: 06_together/full_model
Source: rmsnorm; attention, eq. 1

On a CPU most operations of a small model wait for memory, not for arithmetic. PyTorch
derives a backward pass from the forward one operation by operation, and each of them
reads and writes everything once. Written by hand, a pass uses again what another has
made: the normalised rows serve as output, as a factor of the scale's gradient, and in
the gradient of the rows themselves.

Causal attention wins more by not doing things: half of all scores belong to the future.
Queries are taken in blocks, and each block meets only the keys up to its own end.

Both are taken for FP32 and FP64 on a CPU where a gradient is wanted. Their twins,
`torch.nn.functional.rms_norm` and `attention.attend`, do the rest.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 64  # queries; with 128 positions a quarter of the scores is left out


def suit(*tensors: Tensor) -> bool:
    """Whether a gradient is wanted of tensors that these functions are for."""
    return (
        torch.is_grad_enabled()
        and any(x.requires_grad for x in tensors)
        and all(x.device.type == "cpu" for x in tensors)
        and {x.dtype for x in tensors} in ({torch.float32}, {torch.float64})
        and not torch.is_autocast_enabled("cpu")
    )


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps):
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        inverse = length.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        normed = x * inverse
        ctx.save_for_backward(normed, inverse, weight)
        return normed * weight

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        normed, inverse, weight = ctx.saved_tensors
        product = (grad * normed).view(-1, len(weight))
        along = (product @ weight).div_(len(weight)).view_as(inverse)
        grad_x = (grad * weight).addcmul_(normed, along, value=-1).mul_(inverse)
        return grad_x, product.sum(0), None


def rms_norm(
    x: Float[Tensor, "... D"], weight: Float[Tensor, " D"], eps: float
) -> Float[Tensor, "... D"]:
    """Each row divided by its root mean square, then scaled."""
    return _RMSNorm.apply(x, weight, eps)


class _CausalAttention(torch.autograd.Function):
    """All heads of all sequences are one batch: "N T qk"."""

    @staticmethod
    def forward(ctx, q, k, v, scale):
        future = q.new_full((BLOCK, BLOCK), float("-inf")).triu_(1)
        y, weights = q.new_empty(*q.shape[:2], v.shape[2]), []
        for a in range(0, q.shape[1], BLOCK):
            rows = q[:, a : a + BLOCK]
            size = rows.shape[1]
            b = a + size
            scores = torch.bmm(rows, k[:, :b].mT).mul_(scale)
            scores[:, :, a:] += future[:size, :size]
            weights.append(scores.softmax(dim=-1))
            torch.bmm(weights[-1], v[:, :b], out=y[:, a:b])
        ctx.save_for_backward(q, k, v, *weights)
        ctx.scale = scale
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        q, k, v, *weights = ctx.saved_tensors
        grad_q = torch.empty_like(q)
        grad_k, grad_v = torch.zeros_like(k), torch.zeros_like(v)
        for n, w in enumerate(weights):
            a, b = n * BLOCK, w.shape[2]
            of_y = grad[:, a:b]
            grad_v[:, :b].baddbmm_(w.mT, of_y)
            of_scores = torch.bmm(of_y, v[:, :b].mT)
            # The gradient of a softmax, in place.
            of_scores -= (of_scores * w).sum(-1, keepdim=True)
            of_scores.mul_(w).mul_(ctx.scale)
            torch.bmm(of_scores, k[:, :b], out=grad_q[:, a:b])
            grad_k[:, :b].baddbmm_(of_scores.mT, q[:, a:b])
        return grad_q, grad_k, grad_v, None


def causal_attention(
    q: Float[Tensor, "B H T qk"],
    k: Float[Tensor, "B H T qk"],
    v: Float[Tensor, "B H T v"],
    scale: float,
) -> Float[Tensor, "B H T v"]:
    """Each position mixes the values of the positions up to its own."""
    flat = (x.flatten(0, 1).contiguous() for x in (q, k, v))
    return _CausalAttention.apply(*flat, scale).view(*q.shape[:3], -1)
