"""Matrix products on a CPU, by the fastest library that PyTorch carries.

Chapter: 06_together/full_model
Source: onednn

PyTorch carries two libraries for FP32 products on a CPU. MKL is the one behind `@`.
oneDNN is reached by an operator that was made for PyTorch's compiler: like a layer, it
multiplies by the transpose of its second matrix. Which is faster depends on the
processor, so `faster_library` chooses, by a rule and not by a stopwatch: all ranks and
all runs on a machine must choose alike, or equal seeds would not give equal bits.

oneDNN builds a program for each shape, half a millisecond of work, and keeps about a
thousand. Experts read another number of rows at every step. So their rows are padded to
a multiple of `ROW_MULTIPLE`, which leaves few shapes, and small products stay with
PyTorch's grouped one, which calls MKL in a loop of its own.

Everything here has a plain twin, which is taken on a GPU, for other dtypes and where
PyTorch was built without oneDNN. Sums are added in another order, so the two differ in
the last bits.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from tiny_lm.kernels import Work, emulation, kernel, num_bytes, precision
from tiny_lm.processor import Processor, this_processor


def _has_onednn() -> bool:
    """Whether this PyTorch has the operator, which is private, as we call it."""
    operator = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if operator is None or not torch.backends.mkldnn.is_available():
        return False
    given = ["X", "W", "B", "attr", "scalars", "algorithm"]
    return [one.name for one in operator.default._schema.arguments] == given


HAS_ONEDNN = _has_onednn()
LIBRARIES = ("plain", "onednn") if HAS_ONEDNN else ("plain",)
ROW_MULTIPLE = 16  # 1.5 % of padding at 16 experts of 512 rows each
# Multiply-adds an expert from which oneDNN won: 16 experts of `tiny` do, 64 do not.
WORTH_A_CALL = 3_000_000
AMD_ZEN_5 = 26  # family


def faster_library(processor: Processor) -> str:
    """ "onednn" where its products are the faster ones, else "plain": PyTorch's `@`.

    On processors that Intel did not make, MKL uses vectors of 256 bits. AMD's cores of
    family 26 (Zen 5) multiply 512 bits at once, and MKL leaves half of them unused:
    213 GFLOP/s against oneDNN's 471 on two cores. AMD's cores before them (Zen 4) take
    512 bits in two halves, so there is nothing to win; on Intel's, MKL uses all. There
    oneDNN loses: it copies a matrix to transpose it, so that the gradients of weights
    take twice as long. All products of a step of `tiny`, on two cores: 66 ms by MKL
    and 97 by oneDNN on Zen 4 (family 25), 55 and 77 on an Intel Xeon with AVX512.
    `python -m tiny_lm.course.bench.libraries` measures both, by shape.
    """
    wide = processor.maker == "AuthenticAMD" and processor.family >= AMD_ZEN_5
    wide = wide and processor.vectors == "AVX512"
    return "onednn" if HAS_ONEDNN and wide else "plain"


_library = faster_library(this_processor())


def library() -> str:
    """The library that FP32 products on this CPU go to: "onednn" or "plain"."""
    return _library


@contextmanager
def multiplying_by(name: str) -> Iterator[None]:
    """Use one library inside the `with`, to compare it; ranks started there do not.

    Raises:
        ValueError: this PyTorch does not have it.
    """
    global _library
    if name not in LIBRARIES:
        raise ValueError(f"no library {name!r} here: {', '.join(LIBRARIES)}")
    before, _library = _library, name
    try:
        yield
    finally:
        _library = before


def times(a: Float[Tensor, "N K"], b: Float[Tensor, "M K"]) -> Float[Tensor, "N M"]:
    """`a @ b.T`, without gradients."""
    if not _by_onednn(a, b):
        return a @ b.T
    with kernel("mm", partial(_work, a, b)):  # as PyTorch calls it: tapes are alike
        return _onednn(a, b)


def _work(a: Tensor, b: Tensor) -> Work:
    (n, k), m = a.shape, len(b)
    return Work(2 * n * k * m, num_bytes(a, b) + n * m * a.itemsize, precision(a.dtype))


def _onednn(a: Tensor, b: Tensor) -> Tensor:
    no_bias, no_activation = None, ("none", [], "")
    return torch.ops.mkldnn._linear_pointwise.default(a, b, no_bias, *no_activation)


def outer(a: Float[Tensor, "N M"], b: Float[Tensor, "N K"]) -> Float[Tensor, "M K"]:
    """`a.T @ b`, without gradients: a weight's gradient, summed over rows.

    oneDNN copies its first matrix where it is a transpose, so the narrower of the two
    goes first.
    """
    if not _by_onednn(a, b):
        return a.T @ b
    if a.shape[1] < b.shape[1]:
        return times(a.T, b.T)
    return times(b.T, a.T).T


def _by_onednn(a: Tensor, b: Tensor) -> bool:
    return (
        _library == "onednn"
        and _is_fp32_on_cpu(a, b)
        and a.numel() > 0
        and b.numel() > 0
    )


def _is_fp32_on_cpu(a: Tensor, b: Tensor) -> bool:
    return a.device.type == "cpu" and a.dtype == b.dtype == torch.float32


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
    if not _by_onednn(x, weight):
        return F.linear(x, weight)
    y = _Linear.apply(x.reshape(-1, x.shape[-1]), weight)
    return y.view(*x.shape[:-1], weight.shape[0])


def grouped_loop(
    rows: Float[Tensor, "R K"],
    weight: Float[Tensor, "E M K"],
    ends: Int[Tensor, " E"],
) -> Float[Tensor, "R M"]:
    """The slow twin of `grouped_linear`: one product an expert."""
    parts = rows.split(_counts(ends))
    return torch.cat([part @ w.T for part, w in zip(parts, weight, strict=True)])


def grouped_linear(
    rows: Float[Tensor, "R K"],
    weight: Float[Tensor, "E M K"],
    ends: Int[Tensor, " E"],
) -> Float[Tensor, "R M"]:
    """All experts in one call, forward and backward.

    Args:
        rows: sorted by expert.
        ends: where each expert's rows end; the last entry is R.
    """
    if rows.dtype == torch.float64 or rows.shape[0] == 0 or _is_odd(weight):
        return grouped_loop(rows, weight, ends)  # the kernel refuses these
    if not _is_fp32_on_cpu(rows, weight):
        return F.grouped_mm(rows, weight.mT, offs=ends)
    return _GroupedLinear.apply(rows, weight, ends)


def _is_odd(weight: Tensor) -> bool:
    """Whether rows of this width, in or out, would begin between two 16th bytes."""
    return any(width * weight.itemsize % 16 for width in weight.shape[1:])


class _GroupedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows, weight, ends):
        ctx.save_for_backward(rows, weight, ends)
        return grouped_times(rows, weight, ends)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        rows, weight, ends = ctx.saved_tensors
        wants_rows, wants_weight, _ = ctx.needs_input_grad
        grad = grad.contiguous()  # the gradient of a sum is one number, repeated
        return (
            grouped_times(grad, weight.mT, ends) if wants_rows else None,
            grouped_outer(grad, rows, ends) if wants_weight else None,
            None,
        )


def grouped_times(
    rows: Float[Tensor, "R K"],
    weight: Float[Tensor, "E M K"],
    ends: Int[Tensor, " E"],
) -> Float[Tensor, "R M"]:
    """`times` for each expert's rows and matrix."""
    with _one_kernel(rows, weight, weight.shape[1]):
        per_expert = len(rows) * weight[0].numel() / len(ends)
        if not _pays(rows, weight, ends, per_expert):
            return F.grouped_mm(rows, weight.mT, offs=ends)
        counts = _counts(ends)
        products = rows.new_empty(len(rows), weight.shape[1])
        groups = zip(products.split(counts), rows.split(counts), weight, strict=True)
        for out, part, w in groups:
            if len(part):
                out.copy_(_onednn(part, w))
        return products


def grouped_outer(
    a: Float[Tensor, "R M"], b: Float[Tensor, "R K"], ends: Int[Tensor, " E"]
) -> Float[Tensor, "E M K"]:
    """`outer` for each expert's rows: the gradients of all experts' weights.

    A product's first matrix is copied here, a transpose, so that it has to be larger
    than one of `grouped_times` before oneDNN wins.
    """
    with _one_kernel(a, b, b.shape[1]):
        per_expert = a.numel() * b.shape[1] / len(ends)
        if not _pays(a, b, ends, per_expert / 2):
            return F.grouped_mm(a.T, b, offs=ends)
        counts = _counts(ends)
        products = a.new_zeros(len(counts), a.shape[1], b.shape[1])
        for out, x, y in zip(products, a.split(counts), b.split(counts), strict=True):
            if len(x):
                out.copy_(_onednn(x.T.contiguous(), y.T))
        return products


def _one_kernel(a: Tensor, b: Tensor, width: int) -> AbstractContextManager[None]:
    """All experts' products, to whoever counts kernels; padding rows are no work."""

    def work() -> Work:
        with emulation():
            num_rows = int(a.any(dim=1).sum())
        moved = num_bytes(a, b) + len(a) * width * a.itemsize
        return Work(2 * num_rows * a.shape[1] * width, moved, precision(a.dtype))

    return kernel("_grouped_mm", work)


def _counts(ends: Tensor) -> list[int]:
    return ends.diff(prepend=ends.new_zeros(1)).tolist()


def _pays(a: Tensor, b: Tensor, ends: Tensor, multiply_adds: float) -> bool:
    """Whether a oneDNN product for each expert beats PyTorch's grouped product."""
    return (
        _by_onednn(a, b)
        and multiply_adds >= WORTH_A_CALL
        and not (ends % ROW_MULTIPLE).any()
    )
