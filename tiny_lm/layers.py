"""The parts that every transformer has: linear maps, norms, positions, a feed-forward.

Chapter: 01_baseline/probability_machine
Source: deepseek_v3, section 2.1; roformer; swiglu

How two matrices are multiplied is an argument.
A `Linear` is handed a `Matmul` and does not know whether the product inside is FP32
or FP8, so the same layer serves the baseline and the full model.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tiny_lm import passes
from tiny_lm.kernels import Work, fused, num_bytes, precision
from tiny_lm.matmul import ROW_MULTIPLE, grouped_linear, library, linear
from tiny_lm.parts import YarnConfig
from tiny_lm.rope import Place, frequencies, place


@runtime_checkable
class Matmul(Protocol):
    """`x @ weight.T`, in whatever precision."""

    def __call__(
        self, x: Float[Tensor, "... K"], weight: Float[Tensor, "M K"]
    ) -> Float[Tensor, "... M"]: ...


@runtime_checkable
class GroupedMatmul(Protocol):
    """Rows `ends[e-1]:ends[e]` times `weight[e].T`, for every expert e."""

    def __call__(
        self,
        rows: Float[Tensor, "R K"],
        weight: Float[Tensor, "E M K"],
        ends: Int[Tensor, " E"],
    ) -> Float[Tensor, "R M"]: ...


def plain(
    x: Float[Tensor, "... K"], weight: Float[Tensor, "M K"]
) -> Float[Tensor, "... M"]:
    """`x @ weight.T` as PyTorch multiplies it."""
    return x @ weight.T


@dataclass(frozen=True)
class Products:
    """How a model multiplies: one product for layers, one for groups of experts.

    `row_multiple` says to what multiple each expert's rows are padded with zeros, so
    that a tile along the tokens never spans two experts. The router's gate and the
    head are few products, and sensitive ones: they stay in full precision.
    """

    linear: Matmul
    grouped: GroupedMatmul
    row_multiple: int = 1
    gate: Matmul = plain
    head: Matmul = linear


PLAIN = Products(linear, grouped_linear, ROW_MULTIPLE if library() == "onednn" else 1)


def at_least_fp32(x: Tensor) -> Tensor:
    """The tensor itself, or FP32 in place of half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def refuse_autocast(x: Tensor) -> None:
    """Which product has which precision is the config's to say.

    Raises:
        ValueError: autocast is on where this tensor is.
    """
    if torch.is_autocast_enabled(x.device.type):
        raise ValueError(
            "autocast is on, and this model chooses the precision of every product "
            "itself: leave autocast; config.fp8 and model.bfloat16() are its own ways"
        )


class FullPrecision(nn.Module):
    """Its buffers move with it, and are never rounded.

    They hold angles, which must be exact at every position, and balance biases, whose
    small steps would vanish: at 0.3 a BF16 number cannot change by 0.001.
    """

    def _apply(self, fn, recurse=True):
        before = [(module, dict(module._buffers)) for module in self.modules()]
        super()._apply(fn, recurse)
        for module, buffers in before:
            for name, old in buffers.items():
                new = module._buffers[name]
                if old is not None and new.dtype != old.dtype:
                    module._buffers[name] = old.to(new.device)
        return self


class Linear(nn.Module):
    """A linear map whose product is chosen from outside."""

    def __init__(
        self, d_in: int, d_out: int, matmul: Matmul = linear, bias: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(d_out, d_in))
        self.bias = nn.Parameter(torch.zeros(d_out)) if bias else None
        self.matmul = matmul

    def forward(self, x: Float[Tensor, "... K"]) -> Float[Tensor, "... M"]:
        y = self.matmul(x, self.weight)
        return y if self.bias is None else y + self.bias


def _norm_work(x: Tensor, weight: Tensor, eps: float) -> tuple[Work, Work]:
    """One pass over x: read and written; backward, x and a gradient read."""
    kind = precision(x.dtype)
    once, scales = num_bytes(x), num_bytes(weight)
    return Work(0, 2 * once + scales, kind), Work(0, 3 * once + 2 * scales, kind)


@fused("norm", _norm_work)
def rms_norm(
    x: Float[Tensor, "... D"], weight: Float[Tensor, " D"], eps: float
) -> Float[Tensor, "... D"]:
    """Each row divided by its root mean square, then scaled."""
    if passes.suit(x, weight):
        return passes.rms_norm(x, weight, eps)
    x = x.view_as(x)  # it is used twice: `kernels.fused` says why
    return F.rms_norm(x, weight.shape, weight, eps)


class RMSNorm(nn.Module):
    """Divide each row by its root mean square; no mean is taken off.

    Source: rmsnorm
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return rms_norm(x, self.weight, self.eps)


def rotary_table(
    d_rope: int, max_len: int, theta: float = 10_000.0, yarn: YarnConfig | None = None
) -> tuple[Float[Tensor, "S half"], Float[Tensor, "S half"]]:
    """Cosine and sine of the angle by which each pair turns at each position.

    Args:
        d_rope: width that is rotated, even; pair i turns by `theta ** (-2i / d_rope)`
            radians a position.
        yarn: stretches the angles for longer sequences.

    Source: roformer
    """
    if d_rope % 2:
        raise ValueError(f"d_rope must be even, got {d_rope}")
    angles = torch.outer(torch.arange(max_len), frequencies(d_rope, theta, yarn))
    return angles.cos(), angles.sin()


class Rotary(FullPrecision):
    """What has a table of angles, and turns vectors by their positions."""

    def keep_angles(
        self, d_rope: int, max_len: int, theta: float, yarn: YarnConfig | None = None
    ) -> None:
        """Make the table, of positions up to `max_len`."""
        cos, sin = rotary_table(d_rope, max_len, theta, yarn)
        self.register_buffer("cos", cos.float(), persistent=False)
        self.register_buffer("sin", sin.float(), persistent=False)

    def place(
        self,
        start: int,
        num: int,
        positions: Int[Tensor, "B T"] | None = None,
        hidden: Bool[Tensor, "B S"] | None = None,
    ) -> Place:
        """Where `num` tokens from `start` stand, or tokens at given positions."""
        return place(self.cos, self.sin, start, num, positions, hidden)


def rotate(
    x: Float[Tensor, "... T rope"],
    cos: Float[Tensor, "... T half"],
    sin: Float[Tensor, "... T half"],
) -> Float[Tensor, "... T rope"]:
    """Turn each pair of neighbours (0, 1), (2, 3), … by the angle of its position.

    A dot product of two rotated vectors depends on the distance of their positions
    alone. Pairs are neighbours, as in DeepSeek's code; Llama pairs (i, i + rope / 2),
    so weights carried over from there need a permutation.
    """
    precise = at_least_fp32(x).contiguous()  # half precision has no complex numbers
    if precise.storage_offset() % 2:  # a slice behind an odd width, already contiguous
        precise = precise.clone()
    pairs = torch.view_as_complex(precise.unflatten(-1, (-1, 2)))
    turned = pairs * torch.complex(cos, sin)  # a turn of the complex plane
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def swiglu(gate_up: Float[Tensor, "... F2"]) -> Float[Tensor, "... F"]:
    """`silu(gate) * up`, where gate and up are the two halves of the last dim."""
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


class SwiGLU(nn.Module):
    """The dense feed-forward: widen to gate and up, multiply them, narrow again.

    Gate and up are one matrix, so that the input is read (and quantised) once.

    Source: swiglu
    """

    def __init__(self, d_model: int, d_ffn: int, matmul: Matmul = linear) -> None:
        super().__init__()
        self.gate_up = Linear(d_model, 2 * d_ffn, matmul)
        self.down = Linear(d_ffn, d_model, matmul)

    def forward(self, x: Float[Tensor, "... D"]) -> Float[Tensor, "... D"]:
        return self.down(swiglu(self.gate_up(x)))


def cross_entropy(
    logits: Float[Tensor, "B T V"], targets: Int[Tensor, "B T"]
) -> Float[Tensor, ""]:
    """Mean over all positions, in at least FP32; nats."""
    return F.cross_entropy(at_least_fp32(logits).flatten(0, 1), targets.flatten())
