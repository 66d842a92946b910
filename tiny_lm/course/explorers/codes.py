"""Numbers in few bits: one on the line of codes, and a row whose groups share scales.

Chapter: 04_fp8/scaling
Source: deepseek_v3, section 3.3; ocp_mx; nvfp4_training

The reader picks a number, and sees its code, its neighbours and what rounding did to
it. Below, 256 numbers spread evenly over so many doublings, and one of them is an
outlier; the reader says how large it is, and who shares a scale with it.

`codes_model.js` repeats this to the last bit. Numbers are whole multiples of powers of
two, and a quotient or a product of two FP32 numbers, made in a browser's FP64 and then
rounded to FP32, is what FP32 arithmetic gives. Sums are taken in order.
"""

import math
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from tiny_lm.course.explorers.balance import mix
from tiny_lm.course.figures.fp8 import shared_windows
from tiny_lm.course.figures.style import COLORS, Drawing
from tiny_lm.formats import E4M3, FORMATS, Format, all_codes, bits_of, decode, encode
from tiny_lm.parts import require
from tiny_lm.quantize import Quantizer
from tiny_lm.scales import AMAX, NVFP4, OCP_FLOOR, ROUND_UP

EXPONENTS = tuple(range(-18, 17))  # from what is zero in E5M2 to what is too large
PARTS = 64  # of a doubling, where the number can stand
DOUBLINGS = tuple(range(1, 25))  # from the smallest to the largest of the row
OUTLIERS = (*(m * 10**n for n in range(6) for m in (1, 2, 5)), 10**6)
NUM_NUMBERS = 256
OUTLIER_AT = 72  # in the first of two tiles
FATES = ("kept", "faint", "zero", "cut")


@dataclass(frozen=True)
class NoScale:
    """Numbers are cast as they are."""

    num_bytes: ClassVar[int] = 0
    of_whole_tensor: ClassVar[bool] = False
    cuts_off: ClassVar[bool] = True

    def scales(
        self,
        amax: Float[Tensor, "..."],
        to: Format = E4M3,
        whole: Float[Tensor, ""] | None = None,
    ) -> Float[Tensor, "..."]:
        return torch.ones_like(amax)


RULES = {
    "none": NoScale(),
    "amax": AMAX,
    "floor": OCP_FLOOR,
    "up": ROUND_UP,
    "two_level": NVFP4,
}
WAYS = {  # name, how many neighbours share a scale, and its rule
    "none": ("no scale", NUM_NUMBERS, "none"),
    "row": ("one for all", NUM_NUMBERS, "amax"),
    "tile": ("1 × 128", 128, "amax"),
    "floor": ("32, 2ⁿ (OCP)", 32, "floor"),
    "up": ("32, 2ⁿ (up)", 32, "up"),
    "e4m3": ("16, in E4M3", 16, "two_level"),
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where the controls stand; the number is (1 + part / 64) * 2^exponent.

    Args:
        doublings: the row's numbers lie between 2^-doublings and 1.
        outlier: this many times the largest of the others.

    Raises:
        ValueError: a control has no such place.
    """

    format: str = "e4m3"
    negative: bool = False
    exponent: int = 2
    part: int = 43
    way: str = "row"
    doublings: int = 12
    outlier: int = 2000

    def __post_init__(self) -> None:
        for name, allowed in places().items():
            value = getattr(self, name)
            wanted = f"{name} must be one of {list(allowed)}, got {value!r}"
            require(value in allowed, wanted)

    @property
    def to(self) -> Format:
        return FORMATS[self.format]

    @property
    def number(self) -> float:
        sign = -1.0 if self.negative else 1.0
        return sign * (1 + self.part / PARTS) * 2.0**self.exponent


def places() -> dict[str, tuple]:
    """Where each control can stand."""
    return {
        "format": tuple(FORMATS),
        "negative": (False, True),
        "exponent": EXPONENTS,
        "part": tuple(range(PARTS)),
        "way": tuple(WAYS),
        "doublings": DOUBLINGS,
        "outlier": OUTLIERS,
    }


def limit(of: Format) -> float:
    """From here on a number is cut by more than half a step."""
    return of.largest + 2.0 ** (math.frexp(of.largest)[1] - 2 - of.fraction_bits)


def fate(scaled: float, value: float, to: Format) -> str:
    """What becomes of a number: whole digits, fewer digits, zero, or cut off."""
    if value == 0:
        return "zero"
    if abs(scaled) > limit(to):
        return "cut"
    return "faint" if abs(value) < to.smallest_normal else "kept"


# --- one number ---


@dataclass(frozen=True, kw_only=True)
class Read:
    """A number and its code; `below` and `above` are sizes, without the sign.

    above: None beyond the largest
    """

    code: int
    value: float
    below: float
    above: float | None
    fate: str


def read(s: Setting) -> Read:
    """The number where the controls stand, rounded."""
    code = encode(torch.tensor([s.number]), s.to)
    value = decode(code, s.to).item()
    size = abs(s.number)
    codes = positive(s.to)
    return Read(
        code=int(bits_of(code).item()),
        value=value,
        below=max(v for v in codes if v <= size),
        above=min((v for v in codes if v >= size), default=None),
        fate=fate(s.number, value, s.to),
    )


@cache
def positive(of: Format) -> tuple[float, ...]:
    """Zero and all positive numbers of a format, in order."""
    values = decode(all_codes(of)[: of.sign_bit], of).tolist()
    return tuple(v for v in values if math.isfinite(v))


# --- a row of numbers ---


@cache
def draws() -> list[int]:
    """Where each number of the row lies in its range, from 0 to 65,535."""
    return (mix(torch.arange(1, NUM_NUMBERS + 1)) >> 16).tolist()


def numbers(s: Setting) -> list[float]:
    """The row: 256 places in each doubling, so that every number is exact."""
    at = [draw * 256 * s.doublings >> 16 for draw in draws()]
    row = [(256 + u % 256) * 2.0 ** -(9 + u // 256) for u in at]
    row[OUTLIER_AT] = float(s.outlier)
    return row


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one way to share scales makes of the row.

    kept: what the codes stand for; fates: of each number
    error: length of all changes over length of the numbers, the outlier left out
    """

    scales: list[float]
    kept: list[float]
    fates: list[str]
    error: float

    def share(self, of: str) -> float:
        """The part of all numbers that met this fate."""
        return self.fates.count(of) / len(self.fates)


def quantize(s: Setting, way: str) -> Row:
    """Hold the row in few bits."""
    _, group, rule = WAYS[way]
    quantizer = Quantizer(s.to, (1, group), RULES[rule])
    row = torch.tensor([numbers(s)])
    codes, scales = quantizer.quantize(row)
    scaled = row / scales.repeat_interleave(group, dim=-1)
    pairs = zip(scaled[0].tolist(), decode(codes, s.to)[0].tolist(), strict=True)
    kept = quantizer.dequantize(codes, scales)[0].tolist()
    return Row(
        scales=scales[0].tolist(),
        kept=kept,
        fates=[fate(x, value, s.to) for x, value in pairs],
        error=_error(numbers(s), kept),
    )


def _error(row: list[float], kept: list[float]) -> float:
    changed = size = 0.0
    for place, (x, y) in enumerate(zip(row, kept, strict=True)):
        if place != OUTLIER_AT:
            changed += (y - x) * (y - x)
            size += x * x
    return math.sqrt(changed / size)


# --- what a page gets ---


def _format(of: Format) -> dict[str, Any]:
    return {
        "name": of.name.upper(),
        "exponent_bits": (of.sign_bit.bit_length() - 1) - of.fraction_bits,
        "fraction_bits": of.fraction_bits,
        "min_exponent": of.min_exponent,
        "largest": of.largest,
        "limit": limit(of),
    }


def fixed() -> dict[str, Any]:
    """All that the browser needs and must not know by itself."""
    return {
        "places": places(),
        "formats": {name: _format(of) for name, of in FORMATS.items()},
        "scale_format": NVFP4.held_as.name,
        "ways": {
            key: {"name": name, "group": group, "rule": rule}
            for key, (name, group, rule) in WAYS.items()
        },
        "draws": draws(),
        "outlier_at": OUTLIER_AT,
        "parts": PARTS,
        "fates": FATES,
        "color": COLORS["fp8"],
    }


def picture(s: Setting) -> Drawing:
    """The row, and the window of each group, for a page without JavaScript."""
    found = quantize(s, s.way)
    lost = [became in ("zero", "cut") for became in found.fates]
    return shared_windows(numbers(s), lost, found.scales, s.to)


def alternative(s: Setting) -> str:
    """What `picture` shows, in words."""
    found = quantize(s, s.way)
    name = WAYS[s.way][0]
    said = {"faint": "lose digits", "zero": "become zero", "cut": "are cut off"}
    shares = [f"{found.share(one):.0%} {words}" for one, words in said.items()]
    return (
        f"{NUM_NUMBERS} numbers between 1 and one {2**s.doublings:,}th, and an "
        f"outlier of {s.outlier:,}, in {s.to.name.upper()}; scales: {name}. "
        f"Of all numbers {', '.join(shares)}; the error of all but the outlier is "
        f"{found.error:.1%}."
    )
