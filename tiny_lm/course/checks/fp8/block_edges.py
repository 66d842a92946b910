"""Task 4.4, second half: which block is whose, zeros, and sides of any length.

Chapter: 04_fp8/scaling
Source: deepseek_v3, section 3.3
"""

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from tiny_lm.course.checks.case import case, family
from tiny_lm.course.checks.fp8.blocks import quantize_blocks, task_4_4

SQUARE = [[1.0, 1.0, 2.0, 2.0], [1.0, 1.0, 2.0, 2.0], [4, 4, 8, 8], [4, 4, 8, 8]]

whose = task_4_4.asks(
    "each block has its own scale, in its own place",
    case(SQUARE, 2, note="scales are 1, 2, 4 and 8 times 1/448"),
    case([[1.0, 3.0, 90.0, 30.0, 5.0, 7.0], [2.0, 0.3, 10.0, 20.0, 6.0, 0.1]], 2),
    mistakes={
        "amax = blocks.abs().amax(dim=(1, 3)) => amax = blocks.abs().amax(dim=(1, 3))\n"
        "    amax = amax.max().expand_as(amax)": "All blocks have the same scale, "
        "though each has a largest number of its own.",
        "amax = blocks.abs().amax(dim=(1, 3)) => amax = blocks.abs().amax(dim=(1, 3))\n"
        "    amax = amax.amax(1, keepdim=True).expand_as(amax)": "Blocks beside each "
        "other share a scale. Each has its own.",
        "amax = blocks.abs().amax(dim=(1, 3)) => amax = blocks.abs().amax(dim=(1, 3))\n"
        "    amax = amax.amax(0, keepdim=True).expand_as(amax)": "Blocks below each "
        "other share a scale. Each has its own.",
    },
)


@whose.mistake(
    "The codes come block by block, so numbers have changed places. Bring the dims "
    "back into the order of rows and columns before they are joined."
)
def block_by_block(w, size):
    codes, scales = quantize_blocks(w, size)
    pad = F.pad(codes.float(), (0, -w.shape[1] % size, 0, -w.shape[0] % size))
    blocks = pad.unflatten(1, (-1, size)).unflatten(0, (-1, size)).transpose(1, 2)
    flat = blocks.reshape(pad.shape)[: w.shape[0], : w.shape[1]]
    return flat.to(codes.dtype), scales


@whose.mistake(
    "The numbers were cut into runs of size times size in reading order, row after "
    "row. A block is a square."
)
def runs(w, size):
    M, K = w.shape
    padded = F.pad(w, (0, -K % size, 0, -M % size))
    cut = padded.reshape(-1, size * size)
    scales = cut.abs().amax(-1) / 448
    scales = torch.where(scales == 0, 1.0, scales)
    codes = (cut / scales[:, None]).view(padded.shape)[:M, :K]
    return codes.to(torch.float8_e4m3fn), scales.view(-(-M // size), -1)


NAN = "A block of zeros became NaN: 0 / 0. Such a block needs a scale that is not 0."

task_4_4.asks(
    "a block of zeros stays zeros, and small numbers count",
    case([[0.0, 0.0, 3.0, -6.0], [0.0, 0.0, 1.0, 1.0]], 2),
    case([[3e-7, -1e-7], [2e-8, 5e-8]], 2),
    mistakes={
        "torch.where(amax == 0, 1.0, amax / 448) => amax / 448": NAN,
        "torch.where(amax == 0, 1.0, amax / 448) => (amax + 1e-8) / 448": "Something "
        "keeps the scale from being small: a number that is added, or a floor. Treat "
        "the 0 apart.",
        "amax == 0, 1.0, amax / 448) => amax < 1e-6, 1.0, amax / 448)": "Blocks of "
        "small numbers were treated like blocks of zeros, and became that.",
    },
)

ONES = (
    "What the blocks at the edges were filled up with is larger than what they hold. "
    "Zeros change no largest magnitude."
)

task_4_4.asks(
    "blocks at the edges hold what is there",
    case([[1.0, 2.0, 8.0]], 2, note="a block of 1 x 2 and one of 1 x 1"),
    case([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, 0.9]], 2),
    case([[0.3], [0.1], [0.2]], 8),
    otherwise="Blocks begin at row 0 and column 0, and the last of each side holds "
    "what is left. There are as many codes as numbers.",
    mistakes={
        "[:M, :K], scales => , scales": "What was filled up came back as well. Cut the "
        "codes to the rows and columns that came in.",
        "0, -M % size)) => 0, -M % size), value=1.0)": ONES,
        "(0, -K % size, 0, -M % size) => (0, -M % size, 0, -K % size)": "Rows were "
        "filled up as columns need it, and columns as rows. F.pad begins with the last "
        "dim.",
        "F.pad(w, (0, -K % size, 0, -M % size)) => w[: M // size * size, : K // size "
        "* size]": "Rows and columns that fill no whole block were dropped. They make "
        "smaller blocks.",
        "(0, -K % size, 0, -M % size) => (-K % size, 0, -M % size, 0)": "Zeros were "
        "put in front, so every block begins elsewhere.",
    },
)


def _draw(generator: Generator, M: int, K: int, size: int) -> tuple[Tensor, int]:
    spread = torch.exp2(6 * torch.randn(M, K, generator=generator))
    return spread * torch.randn(M, K, generator=generator), size


task_4_4.asks(
    "equals the definition on numbers of all sizes",
    family(_draw, {"M": 70, "K": 50, "size": 32}, ones=["M", "K", "size"]),
    family(_draw, {"M": 64, "K": 96, "size": 32}),
)


@task_4_4.accepts
def block_after_block(w, size):
    codes = torch.empty(w.shape, dtype=torch.float8_e4m3fn)
    scales = []
    for i in range(0, w.shape[0], size):
        scales.append([])
        for j in range(0, w.shape[1], size):
            block = w[i : i + size, j : j + size]
            scale = block.abs().max().item() / 448 or 1.0
            scales[-1].append(scale)
            codes[i : i + size, j : j + size] = (block / scale).clamp(-448, 448)
    return codes, torch.tensor(scales)


@task_4_4.accepts
def spread_out(w, size):
    amax = torch.stack(
        [
            torch.stack([block.abs().max() for block in band.split(size, dim=1)])
            for band in w.split(size)
        ]
    )
    scales = torch.where(amax > 0, amax / 448, torch.ones_like(amax))
    each = scales.repeat_interleave(size, 0).repeat_interleave(size, 1)
    each = each[: len(w), : w.shape[1]]
    return (w / each).clamp(min=-448, max=448).to(torch.float8_e4m3fn), scales


@task_4_4.accepts
def by_pooling(w, size):
    pooled = F.max_pool2d(w.abs()[None], size, ceil_mode=True)[0]
    scales = pooled.clamp(min=1e-25) / 448
    grown = torch.kron(scales, torch.ones(size, size))[: w.shape[0], : w.shape[1]]
    return (w / grown).clamp(-448, 448).to(torch.float8_e4m3fn), scales
