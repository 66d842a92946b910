"""Task 4.4: a scale for each block of a weight, and blocks that end early.

Chapter: 04_fp8/scaling
Source: deepseek_v3, section 3.3
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float8e4m3fn
from torch import Tensor

from tiny_lm.course.checks.case import case
from tiny_lm.course.checks.fp8.groups import CODES, SCALES, seen
from tiny_lm.course.checks.fp8.tiles import quantize_tiles
from tiny_lm.course.checks.task import Task


def quantize_blocks(
    w: Float[Tensor, "M K"], size: int
) -> tuple[Float8e4m3fn[Tensor, "M K"], Float[Tensor, "m k"]]:
    """Codes, and one scale for each `size` x `size` entries."""
    M, K = w.shape
    padded = F.pad(w, (0, -K % size, 0, -M % size))
    blocks = padded.unflatten(1, (-1, size)).unflatten(0, (-1, size))
    amax = blocks.abs().amax(dim=(1, 3))
    scales = torch.where(amax == 0, 1.0, amax / 448)
    values = blocks / scales[:, None, :, None]
    codes = values.clamp(-448, 448).to(torch.float8_e4m3fn)
    return codes.flatten(2).flatten(0, 1)[:M, :K], scales


task_4_4 = Task(
    id="4.4",
    lab="04_fp8",
    title="Scale a block",
    name="quantize_blocks",
    piece="fp8.quantize_blocks",
    difficulty=2,
    minutes=20,
    points=3,
    reference=quantize_blocks,
    returns=(CODES, SCALES),
    view=lambda result, w, size: seen(*result, w, (size, size)),
    tolerance=1e-6,
    errors={
        "must match the size": "Scales, (m, k), stand beside blocks, (m, size, k, "
        "size): scales[:, None, :, None].",
        "is invalid for input of size": "Neither M nor K need be a multiple of `size`: "
        "fill up rows and columns with zeros first, and take them off at the end.",
        "don't multiply up to the size": "Neither M nor K need be a multiple of "
        "`size`: fill up rows and columns with zeros first, and take them off at the "
        "end.",
    },
    hints=(
        """
        As in 4.3, with two dims cut in two. Fill up both with zeros, and give the
        place in a block a dim of its own, once for rows and once for columns.
        """,
        """
        F.pad(w, (0, -K % size, 0, -M % size)) fills up columns, then rows. Cut, it is
        (m, size, k, size): block row, row in the block, block column, column in the
        block. The largest magnitude is over the dims 1 and 3.
        """,
        """
        blocks = padded.unflatten(1, (-1, size)).unflatten(0, (-1, size))
        amax = blocks.abs().amax((1, 3))
        Scales as before. The codes are those of blocks / scales[:, None, :, None], then
        .flatten(2).flatten(0, 1) joins the dims again, and [:M, :K] cuts.
        """,
    ),
)

FOUR = [[1.0, -2.0], [0.5, 4.0]]

sizes = task_4_4.asks(
    "a byte for each number, a scale for each block",
    case(FOUR, 2),
    case(torch.ones(2, 6), 2, note="one block below the other would be two"),
    only=(),
    mistakes={
        ".to(torch.float8_e4m3fn) => ": "These numbers take four bytes each. Codes of "
        "E4M3 take one: `.to(torch.float8_e4m3fn)`.",
        "amax(dim=(1, 3)) => amax()": "One scale came for the whole weight. Each "
        "block has its own.",
        "scales[:, None, :, None] => scales[None, :, None, :]": "The scales stood "
        "beside the places in a block, not beside the blocks. Which of the four dims "
        "count blocks?",
        "amax(dim=(1, 3)) => amax(dim=(0, 2))": "The largest was taken over the "
        "blocks, for each place in a block. It is taken over the places, for each "
        "block.",
        "[:M, :K], scales => [:M, :K], scales.flatten()": "The scales stand in one "
        "long line. They are (m, k): a row for each row of blocks.",
        "(0, -K % size, 0, -M % size) => (0, size - K % size, 0, size - M % size)": (
            "Where a side is a multiple of the size, a whole row of blocks of zeros "
            "was added. Add -K % size, which is then 0."
        ),
    },
)


@sizes.mistake(
    "These are tiles, with a scale for each piece of a row. Rows of a weight share it, "
    "`size` at a time: a block is a square."
)
def tiled(w, size):
    return quantize_tiles(w, size)


@sizes.mistake(
    "These blocks are lines of a column. A block is a square, `size` rows and `size` "
    "columns."
)
def tiled_down(w, size):
    codes, scales = quantize_tiles(w.T, size)
    return codes.T, scales.T


@sizes.mistake("One scale came for each row of blocks. Cut the columns as well.")
def bands(w, size):
    values = [band / (band.abs().max() / 448) for band in w.split(size)]
    scales = torch.stack([band.abs().max() / 448 for band in w.split(size)])
    return torch.cat(values).to(torch.float8_e4m3fn), scales[:, None]


@sizes.mistake(
    "The scales are there, but turned over: the one of block row i and block column j "
    "stands at [j, i]."
)
def turned_over(w, size):
    codes, scales = quantize_blocks(w, size)
    return codes, scales.T


@sizes.mistake(
    "There is a scale for each number. One for each block is kept: they are (m, k)."
)
def a_scale_for_each(w, size):
    codes, scales = quantize_blocks(w, size)
    each = scales.repeat_interleave(size, 0).repeat_interleave(size, 1)
    return codes, each[: len(w), : w.shape[1]]


@sizes.mistake(
    "A scale came for each row of a block. All rows of a block share one: the largest "
    "is over both dims, 1 and 3."
)
def row_by_row(w, size):
    codes, scales = quantize_tiles(w, size)
    missing = -w.shape[0] % size
    return codes, F.pad(scales, (0, 0, 0, missing)).unflatten(0, (-1, size))


UPSIDE_DOWN = (
    "This is what comes out when the scale is used upside down. Which of w / scale and "
    "w * scale takes the largest number to 448?"
)

task_4_4.asks(
    "the largest magnitude of each block becomes 448",
    case(FOUR, 2, note="the largest magnitude is 4"),
    case([[-3.0, 0.01], [2.0, 1.0]], 2),
    otherwise="The scale is the largest magnitude of a block over 448, and codes stand "
    "for the block's numbers over their scale. Which of the two is another here?",
    mistakes={
        "blocks / scales[:, None, :, None] => blocks * scales[:, None, :, None]": (
            UPSIDE_DOWN
        ),
        "amax / 448) => 448 / amax)": UPSIDE_DOWN,
        "[:M, :K], scales => [:M, :K], 1 / scales": "The codes are right, and the "
        "scales upside down: codes times scale is to give back w.",
        "blocks.abs().amax => blocks.amax": "The largest number was taken, and a "
        "larger one below zero not seen. Take the largest magnitude.",
        "blocks.abs().amax(dim=(1, 3)) => blocks.amax(dim=(1, 3)).abs()": "The largest "
        "number was taken, and its sign away. Take away signs first, then the largest.",
        "blocks.abs().amax => blocks.abs().mean": "The mean magnitude was taken: what "
        "is larger than the mean is then cut off. Take the largest.",
        "blocks.abs().amax(dim=(1, 3)) => blocks.square().sum(dim=(1, 3)).sqrt()": (
            "The length of the block was taken. Take its largest magnitude."
        ),
        "blocks.abs().amax(dim=(1, 3)) => blocks.abs().amax(1).mean(-1)": "The largest "
        "of each column was taken, and of these the mean. Take the largest of all.",
        "blocks.abs().amax(dim=(1, 3)) => blocks.abs().sum(1).amax(-1)": "Columns were "
        "added up before the largest was taken. It is the largest of single numbers.",
        "amax / 448) => amax)": "The largest became 1, so all numbers between 1 and "
        "448 stay unused. The scale is amax / 448.",
        "amax / 448) => (amax / 448).log2().ceil().exp2())": "The scales were rounded "
        "up to powers of two. Here they are amax / 448 as it is.",
        "values = blocks / scales[:, None, :, None] => values = blocks": "These are "
        "codes of the numbers as they came. Divide by the scale first.",
        "values = blocks / scales[:, None, :, None] => values = (blocks / "
        "scales[:, None, :, None]).round()": "These were rounded to whole numbers "
        "first. The cast rounds to E4M3, and should find the quotient as it is.",
        "values = blocks / scales[:, None, :, None] => values = blocks.abs() / "
        "scales[:, None, :, None]": "The signs are lost. Magnitudes are for the scale "
        "alone.",
    },
)
