"""What rows look like while they travel between ranks.

Chapter: 05_comm/experts_apart
Source: deepseek_v3, section 3.3.3; deep_ep

A row is packed before it leaves and unpacked where it arrives. DeepSeek-V3 sends rows
to their experts as FP8, which the experts' first product wants anyway, and brings the
results back as BF16, because they are added up and errors would add up with them. A
row of width D costs, on its way,

    as it is         4 D        (FP32)
    BF16             2 D
    FP8              D + 4 D / tile    codes, and an FP32 scale for each tile
"""

from dataclasses import dataclass
from functools import cache
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from tiny_lm.fp8_kernels import tile_bytes
from tiny_lm.kernels import Work, kernel
from tiny_lm.quantize import quantize_tiles


@runtime_checkable
class Packing(Protocol):
    """How a row becomes what travels, and what arrived becomes a row again.

    A row of zeros in the packed form must unpack to zeros: padding rows are made so.
    """

    def pack(self, rows: Float[Tensor, "R D"]) -> Shaped[Tensor, "R W"]: ...

    def unpack(
        self, packed: Shaped[Tensor, "R W"], width: int, dtype: torch.dtype
    ) -> Float[Tensor, "R D"]: ...


@dataclass(frozen=True)
class AsIs:
    """Nothing is changed and nothing is lost."""

    def pack(self, rows: Float[Tensor, "R D"]) -> Float[Tensor, "R D"]:
        return rows

    def unpack(
        self, packed: Float[Tensor, "R D"], width: int, dtype: torch.dtype
    ) -> Float[Tensor, "R D"]:
        return packed


@dataclass(frozen=True)
class BF16:
    """Eight significant bits, the range of FP32."""

    def pack(self, rows: Float[Tensor, "R D"]) -> Float[Tensor, "R D"]:
        return rows.to(torch.bfloat16)

    def unpack(
        self, packed: Float[Tensor, "R D"], width: int, dtype: torch.dtype
    ) -> Float[Tensor, "R D"]:
        return packed.to(dtype)


@dataclass(frozen=True)
class FP8Tiles:
    """E4M3 codes and their scales, side by side: one message, one latency."""

    tile: int

    def pack(self, rows: Float[Tensor, "R D"]) -> UInt8[Tensor, "R W"]:
        with kernel("pack", lambda: self._work(rows)):
            parts = quantize_tiles(rows, self.tile)
            bits = [part.contiguous().view(torch.uint8) for part in parts]
            return torch.cat(bits, dim=1)

    def unpack(
        self, packed: UInt8[Tensor, "R W"], width: int, dtype: torch.dtype
    ) -> Float[Tensor, "R D"]:
        with kernel("unpack", lambda: self._work(packed[:, :width])):
            return self._decode(packed, width, dtype)

    def _work(self, values: Tensor) -> Work:
        """Read or written: as FP32, and as codes with scales."""
        packed = tile_bytes(*values.shape, self.tile)
        return Work(0, 4 * values.numel() + packed, "fp32")

    def _decode(self, packed: Tensor, width: int, dtype: torch.dtype) -> Tensor:
        behind = packed[:, width:]  # .contiguous() would leave a single row in place
        scales = behind.clone(memory_format=torch.contiguous_format).view(torch.float32)
        bits = F.pad(packed[:, :width], (0, -width % self.tile)).flatten().int()
        # What `dequantize_tiles` gives, by a table of the 256 values instead of a cast,
        # which takes ten times as long on a CPU.
        values = _code_values(packed.device).index_select(0, bits)
        tiles = values.view(*scales.shape, self.tile) * scales.unsqueeze(-1)
        return tiles.flatten(1)[:, :width].to(dtype)


@cache
def _code_values(device: torch.device) -> Float[Tensor, "256"]:
    every_code = torch.arange(256, dtype=torch.uint8, device=device)
    return every_code.view(torch.float8_e4m3fn).float()


@dataclass(frozen=True)
class WireFormat:
    """How rows are packed on their way to the experts, and on the way back.

    Gradients take the same roads in the opposite direction: what goes towards the
    experts in a backward pass is packed like what goes there in a forward pass.
    """

    to_experts: Packing = AsIs()
    to_tokens: Packing = AsIs()


def fp8_wire(tile: int) -> WireFormat:
    """FP8 to the experts, BF16 back, as DeepSeek-V3 does."""
    return WireFormat(to_experts=FP8Tiles(tile), to_tokens=BF16())
