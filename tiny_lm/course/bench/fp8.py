"""What emulating FP8 costs: of a training step, and beside the machine's memory.

Chapter: 04_fp8
Source: course

The limit of a quantisation is the time to read the values and to write as many. PyTorch
rounds in ten passes over values in the cache, each at about the speed of a copy between
caches; without a compiler it does not come to two copies from and to memory.
"""

from dataclasses import replace

import torch

from tiny_lm.config import tiny
from tiny_lm.course.bench.training import our_step, wide
from tiny_lm.course.bench.turns import ROUNDS, Result, in_turns
from tiny_lm.fake_quantize import ALONG_ROWS, Rounding, fake_quantize
from tiny_lm.formats import E2M1
from tiny_lm.scales import NVFP4, OCP_FLOOR

SIDE = 4096
WAYS = {
    "tiles of 128": Rounding(ALONG_ROWS, 128),
    "MXFP8": Rounding(ALONG_ROWS, 32, OCP_FLOOR),
    "NVFP4": Rounding(ALONG_ROWS, 16, NVFP4, E2M1),
}


def fp8_against_fp32() -> list[Result]:
    """What emulating FP8 costs, as a multiple of the FP32 step."""
    results = []
    presets = (("tiny", tiny(), "≤ 1.5"), ("width 512", wide(), "≤ 1.25"))
    for name, config, aim in presets:
        plain = replace(config, fp8=None)
        steps = {"fp8": our_step(config), "fp32": our_step(plain)}
        seconds = in_turns(steps, rounds=7 if name != "tiny" else ROUNDS)
        ratio = seconds["fp8"] / seconds["fp32"]
        results.append(Result(f"fp8 / fp32 step, {name}", ratio, "x", aim))
    return results


def quantisation_against_memory(side: int = SIDE) -> list[Result]:
    """Rounding a matrix, as a multiple of copying it; the finer scales of tiles'."""
    x = torch.randn(side, side, generator=torch.Generator().manual_seed(0))
    target = torch.empty_like(x)
    workloads = {"copy": lambda: target.copy_(x)} | {
        name: lambda way=way: fake_quantize(x, way) for name, way in WAYS.items()
    }
    seconds = in_turns(workloads)
    moved = 2 * x.nbytes / seconds["copy"] / 1e9
    tiles = seconds["tiles of 128"]
    limit = f"copied at {moved:.1f} GB/s"
    first = Result("tiles of 128 / copy", tiles / seconds["copy"], "x", "≤ 2", limit)
    others = [name for name in WAYS if name != "tiles of 128"]
    return [first] + [
        Result(f"{name} / tiles of 128", seconds[name] / tiles, "x", "≤ 1.5")
        for name in others
    ]
