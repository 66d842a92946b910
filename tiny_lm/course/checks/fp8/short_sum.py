"""Task 4.7: add up as a tensor core of an H100 does, and rescue the sum in time.

Chapter: 04_fp8/adding_up
Source: deepseek_v3, section 3.3.2; tensor_core_models
"""

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from tiny_lm.course.checks.case import Case, case
from tiny_lm.course.checks.task import Task
from tiny_lm.formats import E4M3, encode

OF_ZERO = -100  # the exponent that stands for none


def exponent_of(x: Float[Tensor, "..."]) -> Int[Tensor, "..."]:
    """e, where |x| lies in [2^e, 2^(e+1)); -100 for zero."""
    return torch.where(x == 0, OF_ZERO, torch.frexp(x).exponent - 1)


def short_sum(
    products: Float[Tensor, " K"], exponents: Int[Tensor, " K"], promote_every: int
) -> Float[Tensor, ""]:
    """The sum, 32 products a step in 14 bits, moved to FP32 every so many products."""

    def cut(x, top):
        column = 2.0 ** (top - 13)
        return (x / column).trunc() * column

    total, held = torch.zeros(()), torch.zeros(())
    for start in range(0, len(products), 32):
        step = slice(start, start + 32)
        top = torch.maximum(exponents[step].max(), exponent_of(held))
        added = cut(products[step], top).sum() + cut(held, top)
        held = cut(added, exponent_of(added))
        if (start + 32) % promote_every == 0:
            total = total + held
            held = torch.zeros(())
    return total + held


task_4_7 = Task(
    id="4.7",
    lab="04_fp8",
    title="The short accumulator",
    name="short_sum",
    piece="fp8.short_sum",
    difficulty=3,
    minutes=30,
    points=4,
    reference=short_sum,
    returns=("sum",),
    tolerance=1e-6,
    errors={
        "Boolean value of Tensor": "A comparison of a whole tensor is no yes or no: "
        "`.max()` gives one number.",
        "expected Tensor as element": "torch.maximum and torch.stack take tensors "
        "alone; `max(…)` of Python takes numbers.",
        "must be Tensor, not": "torch.maximum and torch.frexp take tensors alone: "
        "torch.tensor(0.0) is a zero to begin with.",
    },
    hints=(
        """
        In each step: which of the 33 numbers has the largest exponent? Its last column
        is 13 places below. What does each of the others keep of itself?
        """,
        """
        Walk in steps of 32. top is the larger of exponents[start : start + 32].max()
        and the accumulator's own exponent_of. A column is 2.0 ** (top - 13); (x /
        column).trunc() * column keeps whole columns, of the products and of the
        accumulator. Add, and cut the sum by its own exponent. After promote_every
        products the accumulator joins an FP32 total and is 0 again.
        """,
        """
        held = cut(added, exponent_of(added)), where
        added = cut(products[step], top).sum() + cut(held, top).
        if (start + 32) % promote_every == 0: total, held = total + held, 0 · held.
        At the end, total + held.
        """,
    ),
)

NEVER = 4096


def row(*numbers: float, every: int = NEVER, note: str = "") -> Case:
    """Products that are powers of two times a factor of two bits, small enough."""
    products = torch.tensor(numbers)
    return case(products, exponent_of(products), every, note=note)


def draw(generator: Generator, K: int, every: int, mean: float) -> tuple:
    """Products of two rows of E4M3 codes, and the sums of their exponents."""
    x = torch.randn(2, K, generator=generator) + mean
    a, b = encode(x * 10.0 ** (mean - 1)).float()
    exponents = sum(exponent_of(z).clamp(min=E4M3.min_exponent) for z in (a, b))
    return a * b, torch.where(a * b == 0, OF_ZERO, exponents), every


task_4_7.asks(
    "the sum of a few products of one size is exact",
    row(1.0, 2.0, -0.5),
    row(3.0),
    row(0.0, 0.0),
    otherwise="Nothing is cut here: the last column is far below all of them.",
    mistakes={
        "return total + held => return total": "What is still in the accumulator at "
        "the end is missing.",
        "column = 2.0 ** (top - 13) => column = 2.0 ** top": "The columns end at the "
        "largest exponent. There are 13 more below it.",
        "column = 2.0 ** (top - 13) => column = 2.0 ** (top + 13)": "The last column "
        "is 13 places below the largest exponent, not above it.",
        "(x / column).trunc() * column => (x / column).trunc()": "Numbers were left in "
        "units of the last column. Multiply by the column again.",
        "(x / column).trunc() * column => (x * column).trunc() / column": "The column "
        "was multiplied with where it divides: x / column counts the columns in x.",
    },
)

DISPLAY = "16,384 is 2^14: the last column is 2^1"
IN_FULL = (
    "The products were added in full, and at most the sum was cut. Each is cut first, "
    "at the last column of the *largest* of them all."
)
columns = task_4_7.asks(
    "the largest exponent sets the columns, and the rest is cut toward zero",
    row(16384.0, 3.0, note=DISPLAY),
    row(16384.0, -3.0, note=DISPLAY),
    row(16384.0, 1.0, 1.0, 1.0, note=DISPLAY),
    row(-16384.0, -1.5, 16384.0, note=DISPLAY),
    otherwise="Count each number's whole columns, 2^(e - 13) wide, and drop the rest.",
    mistakes={
        "(x / column).trunc() => (x / column).round()": "This was rounded to the "
        "nearest column. A tensor core cuts, always toward zero.",
        "(x / column).trunc() => (x / column).floor()": "Negative numbers were cut "
        "downwards. Cutting goes toward zero, whatever the sign.",
        "(x / column).trunc() => (x / column).ceil()": "This was cut upwards. Cutting "
        "goes toward zero.",
        "2.0 ** (top - 13) => 2.0 ** (top - 14)": "One fraction bit too many: 13 lie "
        "below the largest exponent.",
        "2.0 ** (top - 13) => 2.0 ** (top - 12)": "One fraction bit too few: 13 lie "
        "below the largest exponent.",
        "cut(products[step], top).sum() => products[step].sum()": IN_FULL,
        "cut(products[step], top) => cut(products[step], exponents[step])": IN_FULL,
        "torch.maximum(exponents[step].max(), exponent_of(held)) => "
        "exponents[step].min()": IN_FULL,
    },
)


@columns.mistake("Nothing was cut at all: this is the sum in FP32.")
def in_fp32(products, exponents, promote_every):
    return products.sum()
