"""How a tensor core adds: products lined up on the largest, and their low bits cut off.

Chapter: 04_fp8/adding_up
Source: deepseek_v3, section 3.3.2; tensor_core_models

A product of two FP8 numbers is exact. Its sum with thousands of others is not, on
Hopper, even though the accumulator is called FP32. One instruction takes 32 products
and the accumulator, finds the largest exponent among the 33, shifts all of them to it,
and cuts each off 13 fraction bits below. The sum keeps 13 fraction bits too.

Cutting is not rounding: it always goes toward zero. With numbers of both signs the
errors cancel in part. With numbers of one sign they pile up, and once the accumulator
has grown, a product below 2^-13 of it no longer counts at all.

DeepSeek-V3 therefore moves the accumulator into an FP32 register every 128 products,
where the scales of the tiles are applied anyhow, and starts again from zero.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tiny_lm.formats import E4M3, E5M2

FORMATS = {E4M3.dtype: E4M3, E5M2.dtype: E5M2}
PRODUCTS_PER_STEP = 32
FRACTION_BITS = 13
NO_EXPONENT = -1000  # of a zero: never the largest


def tensor_core_matmul(
    a: Float[Tensor, "M K"], b: Float[Tensor, "N K"], promote_every: int | None = 128
) -> Float[Tensor, "M N"]:
    """`a @ b.T` of FP8 codes, added up as Hopper's tensor cores do.

    Equal, bit for bit, to what is known of an H100's results.

    Args:
        a: E4M3 or E5M2 codes; `b` as well, not necessarily the same.
        promote_every: add the accumulator to an FP32 sum after this many products, a
            multiple of 32; None leaves everything to the tensor core.

    Raises:
        TypeError: not codes.
        ValueError: the widths differ, or `promote_every` is no multiple of 32.
    """
    _check(a, b, promote_every)
    total = torch.zeros(len(a), len(b), device=a.device)
    width = a.shape[1]
    stride = promote_every or max(width, PRODUCTS_PER_STEP)
    for start in range(0, width, stride):
        part = slice(start, start + stride)
        total += _accumulate(a[:, part], b[:, part])
    return total


ORDERS = ("fused", "scale, add", "one by one")  # the first is an H100's


def scaled_matmul(
    a: Float[Tensor, "M K"],
    scale_a: Float[Tensor, "M k"],
    b: Float[Tensor, "N K"],
    scale_b: Float[Tensor, "n k"],
    group: int = 128,
    order: str = "fused",
) -> Float[Tensor, "M N"]:
    """The product of what 1 x group tiles and group x group blocks stand for.

    Every `group` products the accumulator is multiplied by the scales of its tile and
    its block, and added to an FP32 sum: the promotion comes with the scaling. In the
    default order it equals, bit for bit, an H100's block-scaled product.

    Args:
        order: how FP32 rounds on the way. "fused": the two scales are multiplied with
            each other, and their product with the accumulator rounds once, together
            with the addition; "scale, add": it rounds before the addition too; "one by
            one": the accumulator is multiplied by each scale.

    Raises:
        TypeError: not codes.
        ValueError: widths differ, `group` is no multiple of 32, or an unknown order.
    """
    _check(a, b, group)
    if order not in ORDERS:
        raise ValueError(f"unknown order {order!r}; there are: {', '.join(ORDERS)}")
    total = torch.zeros(len(a), len(b), device=a.device)
    of_rows = scale_b.repeat_interleave(group, 0)[: len(b)]
    for number, start in enumerate(range(0, a.shape[1], group)):
        part = slice(start, start + group)
        sums = _accumulate(a[:, part], b[:, part])
        sa, sb = scale_a[:, number, None], of_rows[None, :, number]
        if order == "fused":
            total = (sums.double() * (sa * sb).double() + total.double()).float()
        elif order == "one by one":
            total = total + sums * sa * sb
        else:
            total = total + sums * (sa * sb)
    return total


def _accumulate(a: Float[Tensor, "M K"], b: Float[Tensor, "N K"]) -> Tensor:
    """The accumulator after all products, 32 at a time, from zero."""
    accumulator = torch.zeros(len(a), len(b), device=a.device)
    steps = (x.split(PRODUCTS_PER_STEP, dim=1) for x in (a, b))
    for a_step, b_step in zip(*steps, strict=True):
        accumulator = _step(a_step, b_step, accumulator)
    return accumulator


def _step(
    a: Float[Tensor, "M K"], b: Float[Tensor, "N K"], accumulator: Float[Tensor, "M N"]
) -> Float[Tensor, "M N"]:
    """One instruction. FP32 holds everything in it exactly."""
    products = a.float()[:, None] * b.float()[None]
    exponents = _exponents(a)[:, None] + _exponents(b)[None]
    exponents = exponents.masked_fill_(products == 0, NO_EXPONENT)
    largest = torch.maximum(exponents.amax(-1), _fp32_exponents(accumulator))
    unit = _power_of_two(largest.clamp_(min=-100) - FRACTION_BITS)
    total = (products / unit[..., None]).trunc_().sum(-1)
    total += (accumulator / unit).trunc_()
    return _keep_fraction_bits(total * unit)


def _exponents(codes: Float[Tensor, "N K"]) -> Tensor:
    """Exponents as the format stores them: a subnormal has that of the smallest normal.

    So a product's exponent is the sum of its factors', whatever their fractions.
    """
    smallest = FORMATS[codes.dtype].min_exponent
    return _fp32_exponents(codes.float()).clamp_(min=smallest)


def _fp32_exponents(x: Tensor) -> Tensor:
    return torch.where(x == 0, NO_EXPONENT, torch.frexp(x).exponent - 1)


def _power_of_two(exponent: Tensor) -> Tensor:
    return ((exponent + 127) << 23).view(torch.float32)


def _keep_fraction_bits(x: Tensor) -> Tensor:
    dropped = 23 - FRACTION_BITS
    return (x.view(torch.int32) >> dropped << dropped).view(torch.float32)


def _check(a: Tensor, b: Tensor, promote_every: int | None) -> None:
    for codes in (a, b):
        if codes.dtype not in FORMATS:
            raise TypeError(f"expected codes of {list(FORMATS)}, got {codes.dtype}")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"a is {a.shape[1]} wide, b {b.shape[1]}")
    if promote_every is not None and (
        promote_every < 1 or promote_every % PRODUCTS_PER_STEP
    ):
        raise ValueError(
            f"promote_every must be a positive multiple of {PRODUCTS_PER_STEP}, "
            f"got {promote_every}"
        )
