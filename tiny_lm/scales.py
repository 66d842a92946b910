"""Scales: by what number the values of a region are divided before they are rounded.

Chapter: 04_fp8/scaling
Source: deepseek_v3, section 3.3; ocp_mx; mxfp8_recipes; nvfp4_training

A rule goes from the largest magnitude of each region, its *amax*, to the scale of the
region. The rules differ in how a scale is held:

    AMAX        amax / 448 as it is, in FP32: the largest value gets the largest code
    DEEPSEEK    the same, but an amax below 1e-4 counts as 1e-4
    ROUND_UP    amax / 448, rounded up to a power of two: nothing is ever cut off
    OCP_FLOOR   amax's own power of two over that of 448, which is 256; an amax of 449
                to 511 times it then lies beyond 448 and is cut off
    NVFP4       an E4M3 number times one FP32 number for the whole tensor

A power of two takes one byte, UE8M0: eight bits of exponent and nothing else. Dividing
by it changes no fraction bit, so the codes of the codes are the codes.
"""

from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from tiny_lm.formats import (
    E4M3,
    FP32_EXPONENT_MASK,
    FP32_SMALLEST_NORMAL,
    Format,
    round_to,
)


@runtime_checkable
class Rule(Protocol):
    """From each region's amax to its scale.

    `num_bytes` is what one scale takes; `of_whole_tensor` says that a scale depends on
    the largest magnitude of the whole tensor too, given as `whole`; `cuts_off`, that a
    value divided by its scale may lie beyond the largest of the format.
    """

    num_bytes: int
    of_whole_tensor: bool
    cuts_off: bool

    def scales(
        self,
        amax: Float[Tensor, "..."],
        to: Format = E4M3,
        whole: Float[Tensor, ""] | None = None,
    ) -> Float[Tensor, "..."]: ...


@dataclass(frozen=True)
class ScaleRule:
    """The largest magnitude over the largest code, and 1 for a region of zeros.

    A scale below FP32's smallest normal number would not divide accurately, so
    regions with an amax below 5e-36 (448 * 2^-126) count as zeros.

    Args:
        min_amax: largest magnitudes below it count as this. DeepSeek's code has 1e-4;
            in a tiny model half of the early gradients lie below that.
        power_of_two: round scales up to a power of two, so that dividing is exact
            (DeepSeek-V3.1).
    """

    min_amax: float = 0.0
    power_of_two: bool = False
    of_whole_tensor: ClassVar[bool] = False
    cuts_off: ClassVar[bool] = False

    @property
    def num_bytes(self) -> int:
        return 1 if self.power_of_two else 4

    def scales(
        self,
        amax: Float[Tensor, "..."],
        to: Format = E4M3,
        whole: Float[Tensor, ""] | None = None,
    ) -> Float[Tensor, "..."]:
        amax = amax.clamp(min=self.min_amax) if self.min_amax else amax
        scale = torch.threshold(_over(amax, to.largest), FP32_SMALLEST_NORMAL, 1.0)
        if not self.power_of_two:
            return scale
        below = power_of_two_below(scale)
        return torch.where(below < scale, 2 * below, below)


@dataclass(frozen=True)
class FloorRule:
    """As the OCP's MX specification has it: powers of two, of amax over of the format.

    Of two numbers with the same leading bit the larger is not seen: scaled, it can lie
    up to 512 and is then cut to 448, an error of an eighth.
    """

    num_bytes: ClassVar[int] = 1
    of_whole_tensor: ClassVar[bool] = False
    cuts_off: ClassVar[bool] = True

    def scales(
        self,
        amax: Float[Tensor, "..."],
        to: Format = E4M3,
        whole: Float[Tensor, ""] | None = None,
    ) -> Float[Tensor, "..."]:
        of_format = float(power_of_two_below(torch.tensor(to.largest)))
        scale = power_of_two_below(amax) / of_format
        return torch.threshold(scale, FP32_SMALLEST_NORMAL, 1.0)


@dataclass(frozen=True)
class TwoLevelRule:
    """A small number for each region, times one FP32 number for the whole tensor.

    The latter brings the largest scale to the largest value that a scale can have. A
    scale that would round to zero becomes the smallest one.
    """

    held_as: Format = E4M3
    num_bytes: ClassVar[int] = 1
    of_whole_tensor: ClassVar[bool] = True
    cuts_off: ClassVar[bool] = True

    def scales(
        self,
        amax: Float[Tensor, "..."],
        to: Format = E4M3,
        whole: Float[Tensor, ""] | None = None,
    ) -> Float[Tensor, "..."]:
        if not amax.numel():
            return amax
        held_as = self.held_as
        whole = amax.max() if whole is None else whole
        common = _over(whole, held_as.largest * to.largest)
        common = torch.threshold(common, FP32_SMALLEST_NORMAL, 1.0)
        held = round_to(_over(amax, to.largest) / common, held_as)
        return held.clamp(min=held_as.smallest_subnormal) * common


AMAX = ScaleRule()
DEEPSEEK = ScaleRule(min_amax=1e-4)
ROUND_UP = ScaleRule(power_of_two=True)
OCP_FLOOR = FloorRule()
NVFP4 = TwoLevelRule()


def _over(amax: Tensor, number: float) -> Tensor:
    """The quotient, rounded once.

    By a plain number a GPU would not divide but multiply with its inverse: half of all
    scales then differ from a CPU's in the last bit.
    """
    return amax / _as_tensor(number, amax.device)


@cache
def _as_tensor(number: float, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return torch.tensor(number, device=device)


def power_of_two_below(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Each number's leading bit alone; 0 below 2^-126, infinity for NaN."""
    return (x.view(torch.int32) & FP32_EXPONENT_MASK).view(torch.float32)
