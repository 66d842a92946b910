"""Task 4.3, second half: whose scale, tiles of zeros, small numbers, shorter tiles.

Chapter: 04_fp8/scaling
Source: deepseek_v3, section 3.3
"""

import torch
from torch import Generator, Tensor

from tiny_lm.course.checks.case import case, family
from tiny_lm.course.checks.fp8.tiles import quantize_tiles, task_4_3

SHARED = (
    "All tiles of a row have the same scale. Each has its own, so that a large number "
    "costs only its neighbours."
)
FOR_ALL = "All tiles have the same scale, though each has a largest number of its own."

task_4_3.asks(
    "each tile has its own scale, and tiles lie along the rows",
    case([[1.0, 2.0, 100.0, 200.0]], 2),
    case([[1.0, 2.0, 8.0, 4.0], [70.0, 60.0, 9.0, 3.0]], 2),
    mistakes={
        "amax = tiles.abs().amax(dim=-1) => amax = tiles.abs().amax(dim=-1)\n"
        "    amax = amax.amax(dim=1, keepdim=True).expand_as(amax)": SHARED,
        "amax = tiles.abs().amax(dim=-1) => amax = tiles.abs().amax(dim=-1)\n"
        "    amax = amax.max().expand_as(amax)": FOR_ALL,
        "amax = tiles.abs().amax(dim=-1) => amax = tiles.abs().amax(dim=-1)\n"
        "    amax = amax.amax(dim=0, keepdim=True).expand_as(amax)": "Tiles that stand "
        "below each other share a scale. In each row they have their own.",
        "reshape(N, -1, width)\n => reshape(N, width, -1).mT\n": "Every so-many-th "
        "number went into a tile. A tile holds neighbours: reshape to "
        "(N, tiles, width).",
    },
)


NAN = "A tile of zeros became NaN: 0 / 0. Such a tile needs a scale that is not 0."

task_4_3.asks(
    "a tile of zeros stays zeros",
    case([[0.0, 0.0, 3.0, -6.0]], 2),
    case([[0.0, 0.0]], 1),
    mistakes={
        "torch.where(amax == 0, 1.0, amax / 448) => amax / 448": NAN,
        "torch.where(amax == 0, 1.0, amax / 448) => torch.where((amax == 0).any(), "
        "torch.ones_like(amax), amax / 448)": "One tile of zeros, and all scales "
        "became 1. Ask of each tile.",
        "torch.where(amax == 0, 1.0, amax / 448) => torch.where(amax == 0, torch.inf, "
        "amax / 448)": "The scale of a tile of zeros became infinite, and infinity "
        "times 0 is NaN when the codes are multiplied back.",
    },
)

FLOOR = (
    "Something keeps the scale from being small: a number that is added, or a floor. "
    "Gradients are this small, and lose their digits by it. Treat the 0 apart."
)

task_4_3.asks(
    "small numbers are scaled like any others",
    case([[3e-7, -1e-7, 2e-8, 5e-8]], 4, note="gradients can be this small"),
    case([[1e-10, 6.81e-11]], 2),
    otherwise=FLOOR,
    mistakes={
        "amax == 0, 1.0, amax / 448) => amax < 1e-6, 1.0, amax / 448)": (
            "Tiles of small numbers were treated like tiles of zeros, and became that. "
            "Only where amax is 0 is there nothing to scale."
        ),
        "torch.where(amax == 0, 1.0, amax / 448) => amax.clamp(min=1e-4) / 448": FLOOR,
        "torch.where(amax == 0, 1.0, amax / 448) => (amax + 1e-8) / 448": FLOOR,
        "torch.where(amax == 0, 1.0, amax / 448) => (amax + 1e-12) / 448": FLOOR,
        "torch.where(amax == 0, 1.0, amax / 448) => (amax / 448).clamp(min=1e-8)": (
            FLOOR
        ),
        "torch.where(amax == 0, 1.0, amax / 448) => amax / 448 + 1e-8": FLOOR,
    },
)

SWALLOWED = (
    "Where x is no number a number came back. NaN and infinity say that something went "
    "wrong, and have to be found again in codes times scales."
)

task_4_3.asks(
    "NaN and infinity can still be found",
    case([[torch.nan, 1.0, 2.0, 4.0]], 2),
    case([[1.0, 2.0, 5.0, -torch.inf]], 2, note="codes times scale is read"),
    otherwise=SWALLOWED,
    mistakes={
        "tiles = padded => tiles = padded.nan_to_num()": SWALLOWED,
        "amax == 0, 1.0, amax / 448) => (amax > 0) & amax.isfinite(), amax / 448, "
        "1.0)": "A tile with an infinity got the scale 1, and infinity was cut to 448, "
        "a number like others. Let its scale be infinite too.",
    },
)

shorter = task_4_3.asks(
    "the last tile of a row may be shorter",
    case([[1.0, 2.0, 8.0, 4.0, 0.5]], 2, note="the last tile holds 0.5 alone"),
    case([[0.1, 0.2], [0.4, 0.3]], 128),
    otherwise="The last tile holds what is left, and its scale comes from that alone. "
    "Of the codes there are as many as of the numbers.",
    mistakes={
        "[:, :K], scales => , scales": "What the rows were filled up with came back as "
        "well. Cut the codes to the K that came in.",
        "F.pad(x, (0, -K % width)) => x[:, : K // width * width]": "What is left over "
        "at the end of a row was dropped. It makes a tile of its own.",
        "F.pad(x, (0, -K % width)) => F.pad(x, (0, -K % width), value=1.0)": "The "
        "last tile was filled up with ones, which can be larger than all in it. Zeros "
        "change no largest magnitude.",
    },
)


@shorter.mistake(
    "Rows were filled up at their beginning, so every tile begins elsewhere. The "
    "shorter tile is the last."
)
def shorter_first(x, width):
    codes, scales = quantize_tiles(x.flip(-1), width)
    return codes.float().flip(-1).to(codes.dtype), scales.flip(-1)


@shorter.mistake(
    "The rows were joined before they were cut, so a tile can span two of them. Each "
    "row is cut for itself."
)
def over_the_end_of_a_row(x, width):
    if x.shape[1] % width == 0:
        return quantize_tiles(x, width)
    codes, scales = quantize_tiles(x.reshape(1, -1), width)
    rows = -(-x.shape[1] // width)
    return codes.view(x.shape), scales[0].repeat(2 * len(x))[: len(x) * rows].view(
        len(x), rows
    )


def _draw(generator: Generator, N: int, K: int, width: int) -> tuple[Tensor, int]:
    size = torch.exp2(8 * torch.randn(N, K, generator=generator))
    return size * torch.randn(N, K, generator=generator), width


task_4_3.asks(
    "equals the definition on numbers of all sizes",
    family(_draw, {"N": 7, "K": 300, "width": 128}, ones=["N", "K", "width"]),
    family(_draw, {"N": 32, "K": 64, "width": 32}),
)


@task_4_3.accepts
def tile_by_tile(x, width):
    codes = torch.empty(x.shape, dtype=torch.float8_e4m3fn)
    scales = []
    for i, row in enumerate(x):
        scales.append([])
        for start in range(0, len(row), width):
            tile = row[start : start + width]
            scale = tile.abs().max() / 448
            scale = scale if scale else torch.tensor(1.0)
            scales[-1].append(scale)
            codes[i, start : start + width] = (tile / scale).clamp(-448, 448)
    return codes, torch.tensor(scales)


@task_4_3.accepts
def spread_out(x, width):
    parts = x.split(width, dim=-1)
    amax = torch.stack([part.abs().amax(-1) for part in parts], dim=-1)
    scales = amax / 448 + (amax == 0)
    each = scales.repeat_interleave(width, dim=-1)[:, : x.shape[1]]
    return torch.clamp(x / each, -448, 448).type(torch.float8_e4m3fn), scales


@task_4_3.accepts
def with_a_small_floor(x, width):
    tiles = torch.nn.functional.pad(x, (0, -x.shape[1] % width)).unflatten(
        -1, (-1, width)
    )
    scales = tiles.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 448
    codes = (tiles / scales).clamp(-448, 448).to(torch.float8_e4m3fn)
    return codes.flatten(1)[:, : x.shape[1]], scales.squeeze(-1)
