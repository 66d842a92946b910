"""Task 4.1, second half: the codes that are no numbers, and right answers.

Chapter: 04_fp8/eight_bits
Source: fp8_formats
"""

import torch
from torch import Generator

from tiny_lm.course.checks.case import case, drawn
from tiny_lm.course.checks.fp8.decode_byte import byte, task_4_1

LIKE_E5M2 = (
    "E4M3 gives up a single code of each sign: 1111 111. The others with a full "
    "exponent field are the numbers from 256 to 448."
)

task_4_1.asks(
    "E4M3 has one NaN of each sign, and no infinity",
    byte(0b0_1111_110, note="0 1111 110 is the largest number, 448"),
    byte(0b0_1111_111, 0b1_1111_111, 0b0_1111_000, 0b1_1111_110, 0b0_1110_111),
    mistakes={
        "masked_fill(highest & full, torch.nan) => masked_fill(highest, torch.nan)": (
            LIKE_E5M2
        ),
        "masked_fill(highest & full, torch.nan) => masked_fill(highest & (share > 0), "
        "torch.nan).masked_fill(highest & (share == 0), torch.inf)": LIKE_E5M2,
        "return values.masked_fill(highest & full, torch.nan) => return values": "480 "
        "is no number of E4M3: where all bits but the sign are 1 stands NaN.",
        "highest = e == 2**exponent_bits - 1 => return values": "No code was kept for "
        "what is no number. In E4M3 that is the full byte of each sign, NaN; in E5M2 "
        "all with a full exponent field, which are NaN or infinity.",
        "masked_fill(highest & full, torch.nan) => masked_fill(highest & full, "
        "torch.inf)": "E4M3 has no infinity. The full byte is NaN.",
        "masked_fill(highest & full, torch.nan) => masked_fill(highest & full & "
        "(bits < 128), torch.nan)": "NaN has a code of each sign. One was read as a "
        "number.",
        "masked_fill(highest & full, torch.nan) => masked_fill(highest & full, 0.0)": (
            "The full byte became 0. It is NaN: no number."
        ),
        "masked_fill(highest & full, torch.nan) => clamp(-448, 448)": "The full byte "
        "became 448, as if it had been too large. It is NaN: no number.",
    },
)

task_4_1.asks(
    "E5M2 has both: a full exponent field is infinity, or NaN",
    byte(0b0_01111_00, 0b0_11110_11, 0b1_01110_10, e=5, f=2),
    byte(0b0_00000_01, 0b0_00001_00, e=5, f=2),
    byte(0b0_11111_00, 0b1_11111_00, 0b0_11111_01, 0b1_11111_11, e=5, f=2),
    otherwise="In E5M2 the fields are five and two bits wide, the bias is 15, and a "
    "full exponent field is no number: infinity with fraction 0, else NaN.",
    mistakes={
        "bias = 2 ** (exponent_bits - 1) - 1 => bias = 7": "The bias is 7 here too. It "
        "belongs to the format: 2 ** (exponent_bits - 1) - 1.",
        "/ 2**fraction_bits\n => / 8\n": "The fraction counts eighths here too. With "
        "two bits it counts quarters.",
        "exponent_bits == 4 => exponent_bits > 3": "The special codes are those of "
        "E4M3. E5M2 keeps its whole last exponent field for infinity and NaN.",
        "(1 - bias) => (1 - 7)": "The power of the smallest numbers stands there as a "
        "number. It follows from the bias, which is another in E5M2.",
        "sign * torch.inf => torch.inf": "Infinity has lost its sign.",
        "values = values.masked_fill(highest & (share > 0), torch.nan) => values = "
        "values ;; highest & (share == 0), => highest,": "All of these became "
        "infinity. With a full exponent field only the fraction 0 is; others are NaN.",
        "(share > 0), torch.nan) => (share > 2), torch.nan)": "With a full exponent "
        "field and a fraction that is not 0 a code of E5M2 is NaN.",
        "return torch.where(highest & (share == 0), sign * torch.inf, values) => "
        "return values": "65,536 is no number of E5M2: with a full exponent field and "
        "a fraction of 0 stands infinity.",
        "(share > 0), torch.nan) => (share >= 0), torch.nan) ;; "
        "torch.where(highest & (share == 0), sign * torch.inf, values) => values": (
            "All of these became NaN. With a fraction of 0 stands infinity."
        ),
        "(share > 0), torch.nan) => full, torch.nan)": "Only the full byte became NaN. "
        "In E5M2 every fraction but 0 is NaN beside a full exponent field.",
    },
)

EVERY = torch.arange(256, dtype=torch.uint8)


def _some(generator: Generator) -> tuple:
    return torch.randint(256, (1,), generator=generator).to(torch.uint8), 4, 3


task_4_1.asks(
    "all 256 codes of both formats",
    case(EVERY, 4, 3),
    case(EVERY, 5, 2),
    drawn(_some, note="a single byte"),
)


@task_4_1.accepts
def bit_strings(codes, exponent_bits, fraction_bits):
    def one(code):
        bits = f"{code:08b}"
        e, f = int(bits[1 : 1 + exponent_bits], 2), int(bits[1 + exponent_bits :], 2)
        bias, top = 2 ** (exponent_bits - 1) - 1, 2**exponent_bits - 1
        if e == top and exponent_bits == 5:
            size = float("nan") if f else float("inf")
        elif e == top and f == 7:
            size = float("nan")
        else:
            size = ((e > 0) + f / 2**fraction_bits) * 2.0 ** (max(e, 1) - bias)
        return -size if bits[0] == "1" else size

    return torch.tensor([one(code) for code in codes.tolist()])


@task_4_1.accepts
def as_the_cast_does(codes, exponent_bits, fraction_bits):
    dtype = torch.float8_e4m3fn if fraction_bits == 3 else torch.float8_e5m2
    return codes.view(dtype).double()


@task_4_1.accepts
def by_division(codes, exponent_bits, fraction_bits):
    code = codes.long()
    negative, code = code >= 128, code % 128
    e, f = code // 2**fraction_bits, code % 2**fraction_bits
    power = e.clamp(min=1) - 2 ** (exponent_bits - 1) + 1
    x = ((e > 0) + f / 2**fraction_bits) * torch.exp2(power)
    if exponent_bits == 4:
        x[code == 127] = torch.nan
    else:
        x[(code > 124)] = torch.nan
        x[code == 124] = torch.inf
    return torch.where(negative, -x, x)
