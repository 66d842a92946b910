"""Task 4.2: the nearest number of a format, without a cast.

Chapter: 04_fp8/eight_bits
Source: fp8_formats
"""

import torch
from jaxtyping import Float
from torch import Tensor

from tiny_lm.course.checks.case import Case, case
from tiny_lm.course.checks.task import Task


def round_to(
    x: Float[Tensor, "..."], exponent_bits: int, fraction_bits: int, largest: float
) -> Float[Tensor, "..."]:
    """The nearest numbers of the format; what is too large becomes the largest."""
    x = x.clamp(-largest, largest)
    lowest = 2 - 2 ** (exponent_bits - 1)
    power = (torch.frexp(x).exponent - 1).clamp(min=lowest)
    step = 2.0 ** (power - fraction_bits)
    steps = (x / step).round()
    return steps * step


task_4_2 = Task(
    id="4.2",
    lab="04_fp8",
    title="Round without the cast",
    name="round_to",
    piece="fp8.round_to",
    difficulty=2,
    minutes=25,
    points=3,
    reference=round_to,
    returns=("rounded",),
    tolerance=1e-9,
    errors={
        "exponent' does not exist": "frexp gives a mantissa and an exponent: "
        "torch.frexp(x).exponent is the second.",
        "Integers to negative": "A power with a whole number as its base cannot be "
        "less than 1. Write 2.0 ** …",
        "not implemented for 'Int'": "The exponents from frexp are whole numbers, and "
        "this needs real ones.",
    },
    hints=(
        """
        Around x the numbers of the format stand one step apart. How wide is a step
        between 1 and 2, if three bits say what stands behind the point? Between 2 and
        4? If you know the step, counting in steps and rounding to a whole count is all.
        """,
        """
        Clamp x to ±largest. torch.frexp(x).exponent - 1 is the power p with
        2**p <= |x| < 2**(p+1). The step is 2.0 ** (p - fraction_bits), but steps stop
        shrinking at the smallest normal number: p is at least
        2 - 2 ** (exponent_bits - 1).
        """,
        """
        power = (torch.frexp(x).exponent - 1).clamp(min=2 - 2 ** (exponent_bits - 1))
        step = 2.0 ** (power - fraction_bits)
        The result is (x / step).round() * step, with the clamped x. torch.round takes
        middles to the even count, and NaN passes through all of it.
        """,
    ),
)


def e4m3(*x: float, note: str = "") -> Case:
    """Some numbers to be rounded to E4M3."""
    return case(torch.tensor(x), 4, 3, 448.0, note=note)


FIXED = (
    "All steps are equally wide: this rounds as whole numbers do. The width of a step "
    "has to follow from the size of each number."
)
TWICE = "The steps are twice as wide as they should be: count the doublings again."
HALF = "The steps are half as wide as they should be: count the doublings again."

task_4_2.asks(
    "steps are as wide as a number's size says",
    e4m3(1.05, note="from 1 to 2 the steps are 1/8: 1 or 1.125?"),
    e4m3(9.3, note="from 8 to 16 the steps are 1: 9 or 10?"),
    e4m3(1.02, 0.255, 5.1, 1.9, 97.0, 300.0),
    e4m3(8.0, 1.0, 0.5, 12.0, note="these are numbers of the format"),
    otherwise="The step is 2.0 ** (power − fraction_bits), where the power is that of "
    "the doubling in which the number lies. Which step was taken here?",
    mistakes={
        "return steps * step => return x.mul(8).round() / 8": FIXED,
        "return steps * step => return x.round()": "These are whole numbers. Those of "
        "a format lie closer together near zero, and farther apart where they are "
        "large.",
        "return steps * step => return (x / 3.5).round() * 3.5": FIXED,
        "return steps * step => return steps": "These are counts of steps. How wide is "
        "one?",
        ".exponent - 1) => .exponent)": TWICE,
        ".exponent - 1) => .exponent - 2)": HALF,
        "torch.frexp(x).exponent - 1 => x.abs().log2().round()": "The power was "
        "rounded to the nearest: 1.9 lies between 2^0 and 2^1, so its power is 0. "
        "Take the power below.",
        "torch.frexp(x).exponent - 1 => torch.frexp(x.abs().max()).exponent - 1 "
        "+ 0 * torch.frexp(x).exponent": "One step was taken for all, that of the "
        "largest number. Each has its own.",
        "(x / step).round() => (x / step).ceil()": "Everything was rounded up. It goes "
        "to the nearest number, above or below.",
        "(x / step).round() => 2 * (x / step / 2).round()": "All counts of steps are "
        "even, so the steps are twice as wide as they should be. Of two neighbours the "
        "even one is taken at a middle, and nowhere else.",
        "2.0 ** (power - fraction_bits) => 2.0 ** power": "Between two powers of two "
        "there are 2**fraction_bits steps, not one.",
        "2.0 ** (power - fraction_bits) => 2.0**power / fraction_bits": "Three bits "
        "count eight steps to a doubling, not three.",
        "2.0 ** (power - fraction_bits) => 10.0 ** (power - fraction_bits)": "Steps "
        "grow by doublings here, not by tens.",
    },
)

DOWN = (
    "Everything was rounded towards zero. It goes to the nearest number, above or "
    "below."
)

task_4_2.asks(
    "to the nearest, on both sides of zero",
    e4m3(9.3, 9.7, -9.3, -9.7),
    e4m3(-1.05, -0.3, -300.0),
    mistakes={
        "(x / step).round() => (x / step).trunc()": DOWN,
        "(x / step).round() => (x / step).floor()": "Everything was rounded down. It "
        "goes to the nearest number, above or below.",
        "torch.frexp(x).exponent - 1 => x.log2().floor()": "The logarithm of a number "
        "below zero is NaN. The power is that of x.abs().",
        "return steps * step => return steps.abs() * step": "The sign is lost.",
        "torch.frexp(x).exponent - 1 => torch.frexp(x.clamp(min=1e-30)).exponent - 1": (
            "Numbers below zero got another step: their size is that of x.abs()."
        ),
    },
)

UP = (
    "Middles were rounded up, as in school. Half of them go down: of two neighbours "
    "the one with an even count of steps is taken."
)

task_4_2.asks(
    "a middle goes to the even neighbour",
    e4m3(17.0, 19.0, note="from 16 to 32 the steps are 2: 16, 18, 20"),
    e4m3(8.5, 9.5, -8.5, -9.5),
    mistakes={
        "(x / step).round() => (x / step + 0.5).floor()": UP,
        "(x / step).round() => (x.abs() / step + 0.5).floor() * x.sign()": "Middles "
        "were rounded away from zero. Half of them go towards it: of two neighbours "
        "the one with an even count of steps is taken.",
        "(x / step).round() => (x / step - 0.5).ceil()": "Middles were rounded down. "
        "Of two neighbours the one with an even count of steps is taken.",
        "(x / step).round() => (x.abs() / step - 0.5).ceil() * x.sign()": "Middles "
        "were rounded towards zero. Of two neighbours the one with an even count of "
        "steps is taken.",
    },
)
