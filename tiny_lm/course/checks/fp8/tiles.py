"""Task 4.3: a scale for each tile, and the codes of what is divided by it.

Chapter: 04_fp8/scaling
Source: deepseek_v3, section 3.3
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Float8e4m3fn
from torch import Tensor

from tiny_lm.course.checks.case import case
from tiny_lm.course.checks.fp8.groups import CODES, SCALES, seen
from tiny_lm.course.checks.task import Task


def quantize_tiles(
    x: Float[Tensor, "N K"], width: int
) -> tuple[Float8e4m3fn[Tensor, "N K"], Float[Tensor, "N tiles"]]:
    """Codes, and one scale for each `width` neighbours of a row."""
    N, K = x.shape
    padded = F.pad(x, (0, -K % width))
    tiles = padded.reshape(N, -1, width)
    amax = tiles.abs().amax(dim=-1)
    scales = torch.where(amax == 0, 1.0, amax / 448)
    values = tiles / scales[..., None]
    codes = values.clamp(-448, 448).to(torch.float8_e4m3fn)
    return codes.reshape(N, -1)[:, :K], scales


task_4_3 = Task(
    id="4.3",
    lab="04_fp8",
    title="Scale a tile",
    name="quantize_tiles",
    piece="fp8.quantize_tiles",
    difficulty=2,
    minutes=20,
    points=3,
    reference=quantize_tiles,
    returns=(CODES, SCALES),
    view=lambda result, x, width: seen(*result, x, (1, width)),
    tolerance=1e-6,
    errors={
        "must match the size": "Scales, (N, tiles), stand beside tiles, "
        "(N, tiles, width): give them a last dim of 1, scales[..., None].",
        "is invalid for input of size": "K need not be a multiple of `width`: fill the "
        "rows up with zeros first, and take them off at the end.",
    },
    hints=(
        """
        Cut each row into tiles: a dim of its own for what stands in a tile. Then three
        steps: the largest magnitude of a tile, its scale, the tile over its scale.
        """,
        """
        F.pad(x, (0, -K % width)) fills rows up with zeros, and .reshape(N, -1, width)
        makes tiles. The scale is amax / 448, and 1 where amax is 0. Codes are
        (tiles / scale), clamped to ±448, then .to(torch.float8_e4m3fn). At the end take
        the first K again.
        """,
        """
        tiles = F.pad(x, (0, -K % width)).reshape(N, -1, width)
        amax = tiles.abs().amax(-1)
        scales = torch.where(amax == 0, 1.0, amax / 448)
        The codes are those of tiles / scales[..., None], reshaped to (N, -1) and cut to
        [:, :K].
        """,
    ),
)

HAND = [[0.5, -2.0, 1.0, 0.25]]

sizes = task_4_3.asks(
    "a byte for each number, a scale for each tile",
    case(HAND, 4),
    case([[0.5, -2.0, 1.0, 0.25], [1.0, 1.0, 3.0, 3.0]], 2),
    only=(),
    mistakes={
        ".to(torch.float8_e4m3fn) => ": "These numbers take four bytes each. Codes of "
        "E4M3 take one: `.to(torch.float8_e4m3fn)`.",
        ".to(torch.float8_e4m3fn) => .round().to(torch.int8)": "These are whole "
        "numbers. Codes of E4M3 are wanted, `.to(torch.float8_e4m3fn)`.",
        ".to(torch.float8_e4m3fn) => .to(torch.float8_e5m2)": "These are codes of "
        "E5M2, which has a bit of fraction less.",
        "reshape(N, -1, width) => reshape(N, width, -1)": "There are as many scales in "
        "a row as a tile is wide. `width` is the number of neighbours in a tile; how "
        "many tiles there are follows from it.",
        "amax(dim=-1) => amax(dim=1)": "The largest was taken over the tiles of a row. "
        "It is taken over what stands in a tile, the last dim.",
        "amax(dim=-1) => amax()": "One scale came for everything. Each tile has its "
        "own.",
        "F.pad(x, (0, -K % width)) => F.pad(x, (0, width - K % width))": "Where K is "
        "a multiple of the width a whole tile of zeros was added. Add -K % width, "
        "which is then 0.",
    },
)


@sizes.mistake(
    "These tiles go down the columns. An activation's tiles lie along its rows: along "
    "the dim that the product sums over."
)
def down_the_columns(x, width):
    codes, scales = quantize_tiles(x.T, width)
    return codes.T, scales.T


@sizes.mistake(
    "The numbers were cut in reading order, row after row, and the scales stand in one "
    "long line. Each row is cut for itself, and scales are (N, tiles)."
)
def in_one_line(x, width):
    codes, scales = quantize_tiles(x.reshape(1, -1), width)
    return codes.view(x.shape), scales[0]


@sizes.mistake(
    "There is a scale for each number. One for each tile is kept: they are (N, tiles)."
)
def a_scale_for_each(x, width):
    codes, scales = quantize_tiles(x, width)
    return codes, scales.repeat_interleave(width, dim=1)[:, : x.shape[1]]


UPSIDE_DOWN = (
    "This is what comes out when the scale is used upside down. Which of x / scale and "
    "x * scale takes the largest number to 448?"
)

task_4_3.asks(
    "the largest magnitude of each tile becomes 448",
    case(HAND, 4, note="the largest magnitude is 2"),
    case([[-3.0, 0.01]], 2),
    case([[7.0, -0.3, 1.0]], 3),
    otherwise="The scale is the largest magnitude of a tile over 448, and codes stand "
    "for the tile's numbers over their scale. Which of the two is another here?",
    mistakes={
        "tiles / scales[..., None] => tiles * scales[..., None]": UPSIDE_DOWN,
        "amax / 448) => 448 / amax)": UPSIDE_DOWN,
        "[:, :K], scales => [:, :K], 1 / scales": "The codes are right, and the scales "
        "upside down: codes times scale is to give back x.",
        "tiles.abs().amax => tiles.amax": "The largest number was taken, and a larger "
        "one below zero not seen. Take the largest magnitude.",
        "tiles.abs().amax(dim=-1) => tiles.amax(dim=-1).abs()": "The largest number "
        "was taken, and its sign away. Take away signs first, then the largest.",
        "tiles.abs().amax(dim=-1) => tiles.amin(dim=-1).abs()": "The least number was "
        "taken, and its sign away. Take away signs first, then the largest.",
        "tiles.abs().amax => tiles.abs().mean": "The mean magnitude was taken: what "
        "is larger than the mean is then cut off. Take the largest.",
        "tiles.abs().amax(dim=-1) => (tiles.amax(dim=-1) - tiles.amin(dim=-1))": "The "
        "way from the least number to the largest was taken. This format is as wide "
        "on both sides of zero: take the largest magnitude.",
        "tiles.abs().amax(dim=-1) => tiles.square().sum(dim=-1).sqrt()": "The length "
        "of the tile was taken. Take its largest magnitude.",
        "amax / 448) => amax)": "The largest became 1, so all numbers between 1 and "
        "448 stay unused. The scale is amax / 448.",
        "amax / 448) => amax / 127)": "127 is the end of whole numbers of eight bits. "
        "E4M3 ends at 448.",
        "amax / 448) => amax / 240)": "240 would be the end by the usual rule for the "
        "last exponent field. E4M3 ends at 448.",
        "amax / 448) => amax / 57344)": "57,344 is the end of E5M2. E4M3 ends at 448.",
        "amax / 448) => (amax / 448).log2().ceil().exp2())": "The scales were rounded "
        "up to powers of two. Here they are amax / 448 as it is.",
        "values = tiles / scales[..., None] => values = tiles": "These are codes of "
        "the numbers as they came. Divide by the scale first.",
        "values = tiles / scales[..., None] => values = (tiles / scales[..., None])"
        ".round()": "These were rounded to whole numbers first. The cast rounds to "
        "E4M3, and should find the quotient as it is.",
        "values = tiles / scales[..., None] => values = (tiles / scales[..., None])"
        ".to(torch.float8_e4m3fn).float() * scales[..., None]": "These were "
        "multiplied back: what is kept are the codes, divided by the scale.",
        "values = tiles / scales[..., None] => values = tiles.abs() / scales[..., "
        "None]": "The signs are lost. Magnitudes are for the scale alone.",
    },
)
