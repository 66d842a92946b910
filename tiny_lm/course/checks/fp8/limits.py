"""Task 4.2, second half: where a format ends, near zero and far from it.

Chapter: 04_fp8/eight_bits
Source: fp8_formats
"""

import torch
from torch import Generator, Tensor

from tiny_lm.course.checks.case import case, drawn
from tiny_lm.course.checks.fp8.round_to import e4m3, task_4_2

FLUSHED = (
    "What lies below the smallest normal number became zero. Between it and zero the "
    "format has seven numbers more, in equal steps."
)
SHRINKS = (
    "The steps go on shrinking towards zero. Below 2 ** lowest, the smallest normal "
    "number, they stay as wide as they are there: the exponent field has ended."
)

task_4_2.asks(
    "near zero the steps stop shrinking",
    e4m3(3 / 512, 3.2 / 512, note="3/512 is a number of E4M3, 3.2/512 is none"),
    e4m3(0.4 / 512, 0.5 / 512, 0.6 / 512, 1.5 / 512, 7.6 / 512),
    e4m3(0.0, -1e-9, 1e-40, 8.7 / 512),
    case(torch.tensor([1.0, 3.3, 0.4]) * 2.0**-16, 5, 2, 57344.0, note="E5M2"),
    mistakes={
        "return steps * step => return torch.where(x.abs() < 2.0**lowest, 0.0, steps "
        "* step)": FLUSHED,
        ".clamp(min=lowest) => ": SHRINKS,
        "return steps * step => return torch.where(x.abs() < 2.0**lowest, "
        "x.sign() * 2.0**lowest, steps * step)": "What lies below the smallest normal "
        "number was raised to it. Between it and zero the format has more numbers, "
        "and zero itself.",
        "2 - 2 ** (exponent_bits - 1) => 1 - 2 ** (exponent_bits - 1)": "The steps "
        "stop shrinking one doubling too late. The exponent field 1 is the lowest "
        "with its own power: 1 − bias.",
        "2 - 2 ** (exponent_bits - 1) => 3 - 2 ** (exponent_bits - 1)": "The steps "
        "stop shrinking one doubling too early. The lowest power is 1 − bias.",
        "return steps * step => return x.to(torch.float8_e4m3fn).float()": "This is "
        "E4M3, whatever format was asked for.",
        "2 - 2 ** (exponent_bits - 1) => -6": "The lowest power stands there as a "
        "number. It follows from exponent_bits: 1 − bias.",
        "2 - 2 ** (exponent_bits - 1) => 2 - 2 ** (exponent_bits - 1) - "
        "fraction_bits": "The lowest power was taken for that of the smallest of all "
        "numbers. Steps stop shrinking at the smallest *normal* number.",
    },
)

INFINITE = "Infinity became NaN. What is too large becomes the largest number."
NOT_CLAMPED = (
    "The format ends at `largest`. What lies beyond it has to become ±largest, or a "
    "cast makes of it what its version likes."
)

task_4_2.asks(
    "what is too large becomes the largest; NaN stays NaN",
    e4m3(448.0, 460.0, 470.0, 1e6, -1e6),
    e4m3(torch.inf, -torch.inf, note="infinity is too large, too"),
    e4m3(torch.nan, 3.1),
    case(torch.tensor([-7e4, 6e4, 65536.0]), 5, 2, 57344.0, note="E5M2"),
    mistakes={
        "x = x.clamp(-largest, largest) => x = x": NOT_CLAMPED,
        "x.clamp(-largest, largest) => x.clamp(max=largest)": "Numbers far below zero "
        "were not held back: they end at −largest.",
        "x.clamp(-largest, largest) => x.clamp(-448, 448)": "448 is the end of E4M3. "
        "The end is handed over as `largest`.",
        "x.clamp(-largest, largest) => torch.where(x.abs() > largest, torch.nan, x)": (
            "What is too large became NaN. It becomes the largest."
        ),
        "x.clamp(-largest, largest) => torch.where(x.abs() > largest, x.sign() * "
        "torch.inf, x)": INFINITE,
        "x.clamp(-largest, largest) => torch.where(x.isinf(), torch.nan, x)."
        "clamp(-largest, largest)": INFINITE,
        "x.clamp(-largest, largest) => torch.where(x.isinf(), x, x.clamp(-largest, "
        "largest))": "Infinity was left as it is. It is too large as well, and becomes "
        "the largest number.",
        "x.clamp(-largest, largest) => torch.where(x.abs() > largest, 0.0, x)": "What "
        "is too large became 0. It becomes the largest.",
        "x.clamp(-largest, largest) => x.nan_to_num(0.0).clamp(-largest, largest)": (
            "NaN became a number. It says that something went wrong, and has to go on "
            "saying so."
        ),
        "x.clamp(-largest, largest) => x.nan_to_num(largest).clamp(-largest, "
        "largest)": "NaN became the largest number. It says that something went "
        "wrong, and has to go on saying so.",
    },
)


def _wide(generator: Generator, *shape: int, spread: float = 6) -> Tensor:
    return torch.randn(shape, generator=generator) * torch.exp2(
        spread * torch.randn(shape, generator=generator)
    )


task_4_2.asks(
    "equals the definition on 2,000 numbers of all sizes",
    drawn(lambda g: (_wide(g, 20, 100), 4, 3, 448.0)),
    drawn(lambda g: (_wide(g, 2000, spread=12), 5, 2, 57344.0)),
    drawn(lambda g: (_wide(g, 1, 1, 3), 4, 3, 448.0)),
    drawn(lambda g: (_wide(g, 50), 2, 1, 6.0), note="E2M1, a format of four bits"),
)


@task_4_2.accepts
def by_adding(x, exponent_bits, fraction_bits, largest):
    x = x.clamp(-largest, largest)
    smallest = 2.0 ** (2 - 2 ** (exponent_bits - 1))
    size = (x.view(torch.int32) & 0x7F800000).view(torch.float32).clamp(min=smallest)
    shift = 1.5 * 2.0 ** (23 - fraction_bits) * size
    return (x + shift) - shift


@task_4_2.accepts
def by_logarithm(x, exponent_bits, fraction_bits, largest):
    x = torch.clip(x.double(), -largest, largest)
    bias = 2 ** (exponent_bits - 1) - 1
    power = torch.floor(torch.log2(x.abs()))
    step = torch.exp2(torch.clamp(power, min=1 - bias) - fraction_bits)
    return torch.round(x / step) * step


@task_4_2.accepts
def nearest_in_a_table(x, exponent_bits, fraction_bits, largest):
    bias, parts = 2 ** (exponent_bits - 1) - 1, 2**fraction_bits
    codes = torch.arange(2 ** (exponent_bits + fraction_bits))
    e, f = codes // parts, codes % parts
    values = torch.where(e > 0, parts + f, f) * 2.0 ** (e.clamp(min=1) - bias)
    values = (values / parts)[values / parts <= largest].double()
    size = x.abs().double().clamp(max=largest)
    above = torch.searchsorted(values, size.nan_to_num(0)).clamp(max=len(values) - 1)
    below = (above - 1).clamp(min=0)
    far, near = values[above] - size, size - values[below]
    up = (far < near) | ((far == near) & (above % 2 == 0))
    found = torch.where(up, values[above], values[below])
    return torch.where(x.isnan(), x.double(), x.sign() * found)
