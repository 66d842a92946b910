"""What is compared of codes and scales, whoever shares a scale.

Chapter: 04_fp8/scaling
Source: course
"""

import torch
import torch.nn.functional as F
from torch import Tensor

CODES, SCALES, SPOILT = "codes", "scales", "where x is NaN or infinite:"
Size = tuple[int, int]


def amax_of(x: Tensor, group: Size) -> Tensor:
    """The largest magnitude of each group of rows and columns."""
    rows, columns = group
    padded = F.pad(x, (0, -x.shape[1] % columns, 0, -x.shape[0] % rows)).abs()
    return padded.unflatten(1, (-1, columns)).unflatten(0, (-1, rows)).amax((1, 3))


def spread(scales: Tensor, group: Size, like: Tensor) -> Tensor:
    """The scale of each number."""
    for dim in (0, 1):
        scales = scales.repeat_interleave(group[dim], dim)
    return scales[: like.shape[0], : like.shape[1]]


def seen(codes: Tensor, scales: Tensor, x: Tensor, group: Size) -> dict:
    """Codes and scales; a group without a scale of its own may have any finite one.

    That is a group of zeros. Where a group holds NaN or infinity it is only asked
    whether they can still be found in what comes back.
    """
    amax = amax_of(x.double(), group)
    if scales.shape != amax.shape or codes.shape != x.shape:
        return {CODES: codes.double(), SCALES: scales.double(), SPOILT: ""}
    again = codes.double() * spread(scales.double(), group, x)
    lost = ~x.isfinite() & again.isfinite()
    told = {SPOILT: "numbers as good as any" if lost.any() else "no numbers"}
    usual = spread(amax.isfinite(), group, x)
    free = ~amax.isfinite() | ((amax == 0) & scales.isfinite())
    shown = torch.where(usual, codes.double(), 0.0)
    return {CODES: shown, SCALES: torch.where(free, 1.0, scales.double())} | told
