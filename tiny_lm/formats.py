"""Floating-point numbers of eight and of four bits, and rounding to them.

Chapter: 04_fp8/eight_bits
Source: deepseek_v3, section 3.3; fp8_formats; ocp_mx

Such a number has a sign, a few bits of exponent and even fewer of fraction. E4M3 spends
4 and 3: it reaches from 2^-9 to 448 with about one correct digit. E5M2 trades a bit of
fraction for range, and E2M1, in four bits, knows 0, 0.5, 1, 1.5, 2, 3, 4 and 6.

`round_to` gives the nearest value of a format, in FP32; `encode` the bits of that value
and `decode` the value of bits. What lies beyond the largest value becomes the largest:
casts differ from each other there, and between versions of PyTorch.
"""

from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

FP32_FRACTION_BITS = 23
FP32_EXPONENT_BITS = 0x7F800000
# A tensor: a plain number would be made into one at every call.
FP32_EXPONENT_MASK = torch.tensor(FP32_EXPONENT_BITS, dtype=torch.int32, device="cpu")
FP32_SMALLEST_NORMAL = 2.0**-126


@dataclass(frozen=True)
class Format:
    """A floating-point format of at most eight bits.

    `dtype` is what PyTorch holds its codes in; for E2M1, which PyTorch knows in pairs
    alone, a byte whose upper half is zero.
    """

    name: str
    dtype: torch.dtype
    fraction_bits: int
    min_exponent: int  # of the smallest normal number
    largest: float

    @property
    def smallest_normal(self) -> float:
        """Below it the step between neighbours stops shrinking."""
        return 2.0**self.min_exponent

    @property
    def smallest_subnormal(self) -> float:
        """The step between neighbours near zero; half of it rounds to zero."""
        return 2.0 ** (self.min_exponent - self.fraction_bits)

    @property
    def sign_bit(self) -> int:
        """Of a code, as a number: 128, and 8 for E2M1."""
        return 8 if self.dtype is torch.uint8 else 128


# E4M3 has no infinity and one NaN of each sign; with IEEE's rules it would end at 240.
E4M3 = Format("e4m3", torch.float8_e4m3fn, 3, min_exponent=-6, largest=448.0)
E5M2 = Format("e5m2", torch.float8_e5m2, 2, min_exponent=-14, largest=57344.0)
E2M1 = Format("e2m1", torch.uint8, 1, min_exponent=0, largest=6.0)
FORMATS = {fmt.name: fmt for fmt in (E4M3, E5M2, E2M1)}


def round_to(x: Float[Tensor, "..."], to: Format = E4M3) -> Float[Tensor, "..."]:
    """The nearest value of the format, in FP32; ties go to the even code.

    Values beyond the largest become the largest.
    """
    x = x.float().clamp(-to.largest, to.largest)
    return round_(x, to, torch.empty_like(x))


def round_(
    x: Float[Tensor, "..."], to: Format, scratch: Float[Tensor, "..."]
) -> Float[Tensor, "..."]:
    """Round in place, for magnitudes up to the largest, without a cast.

    To x, a number of size 2^e, we add 1.5 * 2^(23 - fraction_bits) * 2^e. The FP32 sum
    has no room for x's low bits, so the adder rounds them away, ties to even; taking
    the number off again leaves the rounded x. Several times faster on a CPU than the
    cast to float8 and back, and equal to it but for the sign of zero.
    """
    bits = scratch.view(torch.int32)
    torch.bitwise_and(x.view(torch.int32), FP32_EXPONENT_MASK, out=bits)
    size = scratch.clamp_(min=to.smallest_normal)
    shift = 1.5 * 2.0 ** (FP32_FRACTION_BITS - to.fraction_bits)
    return x.add_(size, alpha=shift).sub_(size, alpha=shift)


def encode(x: Float[Tensor, "..."], to: Format = E4M3) -> Tensor:
    """The codes of the nearest values, in the dtype of the format."""
    # Clamped first: up to torch 2.11 the cast makes NaN of what lies beyond 464.
    x = x.float().clamp(-to.largest, to.largest)
    if to is not E2M1:
        return x.to(to.dtype)
    magnitude = round_to(x, to).abs().contiguous()
    code = torch.bucketize(magnitude, _positive_e2m1(x.device)).to(torch.uint8)
    return code | (x.signbit().to(torch.uint8) << 3)


def decode(codes: Tensor, of: Format = E4M3) -> Float[Tensor, "..."]:
    """The FP32 values that codes stand for."""
    # A table of all values: ten times faster on a CPU than the cast.
    bits = codes.contiguous().view(torch.uint8).flatten().int()
    return _values(of, codes.device).index_select(0, bits).view(codes.shape)


@cache
def _positive_e2m1(device: torch.device) -> Float[Tensor, "8"]:
    return torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], device=device)


@cache
def _values(of: Format, device: torch.device) -> Float[Tensor, " codes"]:
    """What each code stands for, in order."""
    with torch.inference_mode(False):
        if of is E2M1:
            positive = _positive_e2m1(device)
            return torch.cat([positive, -positive])
        every_code = torch.arange(256, dtype=torch.uint8, device=device)
        return every_code.view(of.dtype).float()


def all_codes(of: Format) -> Tensor:
    """Every code of the format, in order."""
    codes = torch.arange(2 * of.sign_bit, dtype=torch.uint8)
    return codes if of is E2M1 else codes.view(of.dtype)


def bits_of(codes: Tensor) -> UInt8[Tensor, "..."]:
    """Codes as plain bytes."""
    return codes.view(torch.uint8)
