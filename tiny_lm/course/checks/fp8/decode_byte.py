"""Task 4.1: the number that a byte of E4M3 or E5M2 stands for.

Chapter: 04_fp8/eight_bits
Source: fp8_formats
"""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from tiny_lm.course.checks.case import Case, case
from tiny_lm.course.checks.task import Task


def decode_byte(
    codes: UInt8[Tensor, " n"], exponent_bits: int, fraction_bits: int
) -> Float[Tensor, " n"]:
    """The number of each byte: sign, then exponent field, then fraction field."""
    bits = codes.int()
    sign = 1 - 2 * (bits >> 7)
    e = (bits >> fraction_bits) & (2**exponent_bits - 1)
    share = (bits & (2**fraction_bits - 1)) / 2**fraction_bits
    bias = 2 ** (exponent_bits - 1) - 1
    normal = (1 + share) * 2.0 ** (e - bias)
    subnormal = share * 2.0 ** (1 - bias)
    values = sign * torch.where(e > 0, normal, subnormal)
    highest = e == 2**exponent_bits - 1
    full = share == 1 - 2**-fraction_bits
    if exponent_bits == 4:
        return values.masked_fill(highest & full, torch.nan)
    values = values.masked_fill(highest & (share > 0), torch.nan)
    return torch.where(highest & (share == 0), sign * torch.inf, values)


task_4_1 = Task(
    id="4.1",
    lab="04_fp8",
    title="Read a byte",
    name="decode_byte",
    piece="fp8.decode_byte",
    difficulty=2,
    minutes=20,
    points=3,
    reference=decode_byte,
    returns=("values",),
    tolerance=1e-9,
    errors={
        "out of bounds for": "A byte has no room for this number. Go to whole numbers "
        "of more bits first: codes.int().",
        "Integers to negative": "A power with a whole number as its base cannot be "
        "less than 1. Write 2.0 ** …",
        "not implemented for 'Float'": "Shifts and `&` work on whole numbers: take the "
        "fields out before anything is divided.",
    },
    hints=(
        """
        Three fields, and one number of each. Make whole numbers of more than eight bits
        first. Which bits are left if you shift a byte to the right by fraction_bits?
        Which does `&` keep?
        """,
        """
        With bits = codes.int(): the sign is bits >> 7, the exponent field is
        (bits >> fraction_bits) & (2**exponent_bits - 1), the fraction field is
        bits & (2**fraction_bits - 1). The bias is 7 for E4M3 and 15 for E5M2:
        2 ** (exponent_bits - 1) - 1. Where the exponent field is 0 there is no leading
        1, and the power is that of the field 1.
        """,
        """
        normal = (1 + share) * 2.0 ** (e - bias)
        subnormal = share * 2.0 ** (1 - bias)
        with share = fraction field / 2**fraction_bits. torch.where(e > 0, normal,
        subnormal) takes the right one; times 1 - 2 * sign. Then write torch.nan where
        both fields are full (E4M3), or, in E5M2, torch.nan where the exponent field is
        full, and sign * torch.inf where moreover the fraction is 0.
        """,
    ),
)


def byte(*codes: int, e: int = 4, f: int = 3, note: str = "") -> Case:
    """Some codes of E4M3, or of another format; the note shows their bits."""
    bits = (f"{code:08b}" for code in codes)
    shown = ", ".join(f"{b[0]} {b[1 : e + 1]} {b[e + 1 :]}" for b in bits)
    return case(torch.tensor(codes, dtype=torch.uint8), e, f, note=note or shown)


FIXED = (
    "The steps between these numbers are all the same: that is a whole number, scaled. "
    "Here the exponent field says how far the point moves."
)
POWER = (
    "The power came out wrong by one. From the exponent field the bias is taken off: "
    "2 ** (exponent_bits - 1) - 1, which is 7 for four bits."
)
EIGHT_BITS = (
    "These were whole numbers of eight bits, in which 3 − 7 is 252. Go to more bits "
    "first: codes.int()."
)
NO_FRACTION = "The fraction field is missing: it says what stands behind the point."

task_4_1.asks(
    "sign, power and fraction of an ordinary number",
    byte(0b0_0111_000, note="0 0111 000 has the exponent field 7 and no fraction"),
    byte(0b0_1001_101, note="0 1001 101 has the exponent field 9 and 5 eighths"),
    byte(0b0_1001_101, 0b0_1001_110, 0b0_1010_000, 0b0_0011_001),
    otherwise="An ordinary number is (1 + fraction field / 8) times 2 to the power of "
    "(exponent field − 7). Which of the fields comes out as another number?",
    mistakes={
        "- 1) - 1\n => - 1)\n": POWER,
        "- 1) - 1\n => - 1) - 2\n": POWER,
        "bits = codes.int() => bits = codes": EIGHT_BITS,
        "bits = codes.int() => bits = codes ;; 2.0 ** (e - bias) => 2 ** (e - bias)": (
            EIGHT_BITS
        ),
        "bits = codes.int() => bits = codes ;; (bits >> 7) => (bits >> 7).int()": (
            EIGHT_BITS
        ),
        "e = (bits >> fraction_bits) & => e = bits & ;; (bits & (2**fraction_bits => "
        "(bits >> exponent_bits & (2**fraction_bits": "The fields were taken in the "
        "wrong order. Behind the sign stands the exponent, at the end the fraction.",
        "& (2**exponent_bits - 1)\n => & exponent_bits\n ;; & (2**fraction_bits - 1)) "
        "=> & fraction_bits)": "`&` keeps bits, and needs a one for each: four ones "
        "are 2**4 - 1.",
        "/ 2**fraction_bits\n => // 2**fraction_bits\n": "The fraction was divided by "
        "`//`, which leaves nothing of it. Use `/`.",
        "1 - 2 * (bits >> 7) => 2 * (bits >> 7) - 1": "The signs are the wrong way "
        "round: 1 is minus.",
        "(e - bias) => e": "The bias was not taken off. Without it no number would "
        "be less than 1.",
        "(1 + share) => share": "The leading 1 is missing. It is not written down, and "
        "is there in every ordinary number.",
        "(1 + share) * 2.0 => 2.0": NO_FRACTION,
        "(e - bias) => (bias - e)": "The power has the wrong sign: a larger field "
        "makes a larger number.",
        "(bits & (2**fraction_bits - 1)) / 2**fraction_bits => "
        "(bits & (2**fraction_bits - 1))": "The fraction field was taken as a whole "
        "number. It counts eighths: divide by 2**fraction_bits.",
        "(bits & (2**fraction_bits - 1)) / 2**fraction_bits => "
        "(bits & (2**fraction_bits - 1)) / 10": "The fraction field was read as "
        "digits of tenths. Three bits count eighths.",
        "share = (bits & (2**fraction_bits - 1)) / 2**fraction_bits => "
        "share = (bits & (2**fraction_bits - 1)) / (2**fraction_bits - 1)": "The "
        "fraction was divided by the largest that it can be, so that a full one is "
        "a whole 1. There are eight steps to the next power, not seven.",
        "torch.where(e > 0, normal, subnormal) => "
        "(bits & 127) * 2.0 ** (1 - bias - fraction_bits)": FIXED,
        "torch.where(e > 0, normal, subnormal) => (bits & 127) / 2**fraction_bits": (
            FIXED
        ),
        "(1 + share) * 2.0 ** => (1 + share) * 10.0 **": "The power is one of ten. "
        "This exponent counts doublings.",
    },
)

NO_SIGN = (
    "A byte whose first bit is 1 stands for a number below zero. What is the sign "
    "bit used for?"
)

task_4_1.asks(
    "the first bit is the sign, and nothing else",
    byte(0b1_1001_101, note="the byte of 6.5 with its first bit set"),
    byte(0b1_0111_000, 0b0_0111_000, 0b1_0010_011),
    mistakes={
        "sign * torch.where => torch.where": NO_SIGN,
        "& (2**exponent_bits - 1)\n => \n": "The sign bit was read as part of the "
        "exponent field. `& (2**exponent_bits - 1)` keeps its own bits.",
        "sign = 1 - 2 * (bits >> 7) => sign = 1 - (bits >> 7)": "With the sign bit set "
        "the number became 0. It is minus that number.",
        "bits = codes.int() => bits = torch.where(codes > 127, 255 - codes.int() + 128,"
        " codes.int())": "Negative bytes were read from the end, as whole numbers are "
        "(two's complement). Here all other bits mean the same with either sign.",
    },
)

FLUSHED = (
    "The numbers next to zero became zero. Where the exponent field is 0 the leading 1 "
    "is gone, but the fraction still counts."
)

task_4_1.asks(
    "an exponent field of 0: no leading 1, and the power of field 1",
    byte(0b0_0000_000, note="eight bits of 0"),
    byte(0b0_0000_001, 0b0_0000_111, note="0 0000 001 is 1/512, 0 0000 111 is 7/512"),
    byte(0b0_0000_111, 0b0_0001_000, 0b1_0000_100, 0b1_0000_000),
    mistakes={
        "torch.where(e > 0, normal, subnormal) => torch.where(e > 0, normal, 0.0)": (
            FLUSHED
        ),
        "torch.where(e > 0, normal, subnormal) => normal": "These have a leading 1. "
        "The exponent field 0 means that it is not there; else no byte would be zero.",
        "torch.where(e > 0, normal, subnormal) => torch.where(bits & 127 > 0, normal, "
        "0.0)": "Zero was made an exception, and the other numbers with exponent field "
        "0 kept their leading 1. They have none.",
        "share * 2.0 ** (1 - bias) => share * 2.0 ** (0 - bias)": "Without the leading "
        "1 the power was −bias. It stays at 1 − bias, so that the steps go on as wide "
        "as those of field 1.",
        "share * 2.0 ** (1 - bias) => share * 2.0 ** (2 - bias)": "Without the leading "
        "1 the power was 2 − bias, one too high: it is that of field 1.",
        "share * 2.0 ** (1 - bias) => (1 + share) * 2.0 ** (1 - bias)": "The power of "
        "field 0 is right, but a leading 1 was added. There is none.",
        "share * 2.0 ** (1 - bias) => (bits & (2**fraction_bits - 1)) * 2.0 ** (1 - "
        "bias)": "The fraction field was taken as a whole number. It counts eighths "
        "here too.",
        "share * 2.0 ** (1 - bias) => share": "The fraction field is there, but "
        "not its power, which is that of the exponent field 1.",
    },
)
