"""Task 4.7, step after step: who lines up with whom, and when the sum is moved.

Chapter: 04_fp8/adding_up
Source: deepseek_v3, section 3.3.2; tensor_core_models
"""

import math

import torch

from tiny_lm.course.checks.case import Case, case, drawn
from tiny_lm.course.checks.fp8.short_sum import (
    NEVER,
    OF_ZERO,
    draw,
    exponent_of,
    row,
    task_4_7,
)


def filled(*pairs: tuple[float, int], every: int = NEVER, note: str = "") -> Case:
    """So many products of each size, one after another."""
    numbers = [number for number, times in pairs for _ in range(times)]
    return row(*numbers, every=every, note=note)


STEPS = (
    "The products were added one after another. A step lines up 32 of them with the "
    "accumulator, adds them all, and cuts the sum once."
)
SUM_IN_FULL = (
    "The sum of a step was kept in full. It may have grown beyond the columns it was "
    "added in: it has 13 fraction bits too, below its own exponent."
)
task_4_7.asks(
    "32 products a step line up with the accumulator, and their sum is cut as well",
    filled((16384.0, 1), (0.0, 31), (1.0, 32), note="16,384 and zeros; then 32 ones"),
    filled((1.0, 1), (0.0, 31), (16384.0, 1), (-16384.0, 1), note="1; then 16,384"),
    filled((8192.0, 2), (1.0, 1), note="16,385 needs 15 bits"),
    filled((8192.0, 2), (1.0, 2), note="one step: in the beginning a column is 1 wide"),
    filled((8192.0, 2), (0.0, 30), (1.0, 2), note="the ones come a step later"),
    filled((1.0, 2), (0.0, 30), (16384.0, 1), note="two ones, a step ahead of 16,384"),
    otherwise="Who sets the columns in each step, and what is cut there? Products, "
    "accumulator, and at last their sum.",
    mistakes={
        "torch.maximum(exponents[step].max(), exponent_of(held)) => "
        "exponents[step].max()": "Only the products set the columns. The accumulator "
        "is one of the 33.",
        "+ cut(held, top) => + held": "The accumulator was not cut where a larger "
        "product came. It is one of the 33 that line up.",
        "held = cut(added, exponent_of(added)) => held = added": SUM_IN_FULL,
        "cut(added, exponent_of(added)) => cut(added, top)": SUM_IN_FULL,
        "range(0, len(products), 32) => range(len(products)) ;; "
        "slice(start, start + 32) => slice(start, start + 1) ;; "
        "(start + 32) % => (start + 1) %": STEPS,
        "range(0, len(products), 32) => range(0, len(products), 128) ;; "
        "slice(start, start + 32) => slice(start, start + 128) ;; "
        "(start + 32) % => (start + 128) %": "A step took 128 products. It takes 32, "
        "four times between two promotions.",
        "(start + 32) % promote_every => start % promote_every": "Promotion comes one "
        "step too early: after a step, start + 32 products have been added.",
        "torch.maximum(exponents[step].max(), exponent_of(held)) => "
        "torch.maximum(exponents.max(), exponent_of(held))": "The largest exponent of "
        "all products set the columns. A step knows its own 32 alone.",
    },
)

FACTORS = case(
    [2.25, *[2.0**-13] * 2],
    torch.tensor([0, -13, -13]),
    NEVER,
    note="2.25 is 1.5 · 1.5, two factors of exponent 0, so it counts as 0",
)
task_4_7.asks(
    "a product counts with the exponent that is handed over",
    FACTORS,
    mistakes={
        "exponents[step].max() => exponent_of(products[step]).max()": "The exponent "
        "was taken from the product itself. A tensor core adds up those of the two "
        "factors, which is what `exponents` holds.",
    },
)

task_4_7.asks(
    "after promote_every products the accumulator joins an FP32 sum and is 0 again",
    filled(
        (16384.0, 1),
        (0.0, 31),
        (1.0, 64),
        every=64,
        note="the first 32 ones come too late for the first 64 products",
    ),
    filled((16384.0, 1), (0.0, 31), (1.0, 1), every=32, note="FP32 has room for both"),
    filled((1.0, 32), (2.0, 3), every=32, note="three are left over"),
    filled(
        (0.0, 64),
        (16384.0, 1),
        (0.0, 31),
        (1.0, 32),
        every=64,
        note="64 zeros, and what comes then is one promotion",
    ),
    otherwise="Promotion comes after a step, when as many products as promote_every "
    "have been added since the last.",
    mistakes={
        "(start + 32) % promote_every => (start + 64) % promote_every": "Promotion "
        "comes one step too early or too late: after a step, start + 32 products have "
        "been added.",
        "(start + 32) % promote_every => (start // 32 + 1) % promote_every": (
            "promote_every was compared with steps. It counts products."
        ),
        "            held = torch.zeros(())\n => ": "The accumulator was not emptied, "
        "so it was added again later.",
        "return total + held => whole = total + held\n    return cut(whole, "
        "exponent_of(whole))": "The whole sum was cut to 13 fraction bits at the end. "
        "What was promoted is FP32, and so is the result.",
        "return total + held => return held": "What was moved to FP32 is missing.",
        "total = total + held => total = held": "The FP32 sum was overwritten. The "
        "accumulator is added to it.",
        "total = total + held => "
        "total = cut(total + held, exponent_of(total + held))": "The sum outside was "
        "cut to 13 fraction bits. It is true FP32.",
        "(start + 32) % promote_every == 0 => start and start % promote_every == 0": (
            "Promotion comes one step late: after a step, start + 32 products have "
            "been added."
        ),
        "(start + 32) % promote_every == 0 => start + 32 >= promote_every": "From the "
        "first promotion on, every step was promoted. It comes after promote_every "
        "products each time.",
        "(start + 32) % promote_every == 0 => False": "Nothing was ever promoted.",
    },
)

task_4_7.asks(
    "equals the definition on random codes",
    *[
        drawn(lambda g, how=how: draw(g, *how))
        for how in (
            (256, 128, 0.0),
            (200, 64, 1.0),
            (1024, NEVER, 0.5),
            (7, 32, 0.0),
            (1100, 32, 0.5),
        )
    ],
    mistakes={
        "range(0, len(products), 32) => range(0, len(products), 16) ;; "
        "slice(start, start + 32) => slice(start, start + 16) ;; "
        "(start + 32) % => (start + 16) %": "A step took 16 products. It takes 32.",
    },
)


@task_4_7.accepts
def in_whole_columns(products, exponents, promote_every):
    total = held = 0.0
    pairs = list(zip(products.tolist(), exponents.tolist(), strict=True))
    for step in range(-(-len(pairs) // 32)):
        part = [*pairs[32 * step : 32 * step + 32], (held, exponent(held))]
        lowest = max(e for _, e in part) - 13
        held = sum(int(p / 2.0**lowest) for p, _ in part) * 2.0**lowest
        last = 2.0 ** (exponent(held) - 13)
        held = int(held / last) * last
        if (step + 1) * 32 % promote_every == 0:
            total, held = total + held, 0.0
    return torch.tensor(total + held)


def exponent(x: float) -> int:
    """The same of a plain number."""
    return math.frexp(x)[1] - 1 if x else OF_ZERO


@task_4_7.accepts
def promotion_outside(products, exponents, promote_every):
    sums = []
    parts = (x.split(promote_every) for x in (products, exponents))
    for some, their in zip(*parts, strict=True):
        held = torch.zeros(())
        for p, e in zip(some.split(32), their.split(32), strict=True):
            both = torch.cat([p, held[None]])
            places = torch.cat([e, exponent_of(held)[None]]).max() - 13
            total = torch.ldexp(torch.ldexp(both, -places).fix().sum(), places)
            own = exponent_of(total) - 13
            held = torch.ldexp(torch.ldexp(total, -own).fix(), own)
        sums.append(held)
    return torch.stack(sums).sum()
