"""Rows on the wire: packed and unpacked, and how long they are meanwhile."""

import pytest
import torch

from tiny_lm.parallel.wire import BF16, AsIs, FP8Tiles
from tiny_lm.quantize import dequantize_tiles, quantize_tiles


def _rows(num_rows: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    sizes = 10.0 ** torch.arange(num_rows).remainder(9).sub(4).unsqueeze(1)
    return sizes * torch.randn(num_rows, width, generator=generator)


@pytest.mark.parametrize("packing", [AsIs(), BF16(), FP8Tiles(4)], ids=repr)
def test_zeros_on_the_wire_are_zero_rows(packing):
    packed = packing.pack(_rows(3, 10))
    unpacked = packing.unpack(torch.zeros_like(packed), 10, torch.float32)
    assert unpacked.shape == (3, 10) and not unpacked.any()


@pytest.mark.parametrize(
    ("packing", "row_bytes"),
    [(AsIs(), 4 * 256), (BF16(), 2 * 256), (FP8Tiles(128), 256 + 2 * 4)],
    ids=repr,
)
def test_a_row_has_the_bytes_of_the_closed_form(packing, row_bytes):
    assert packing.pack(_rows(5, 256)).nbytes == 5 * row_bytes


@pytest.mark.parametrize("packing", [AsIs(), BF16()], ids=repr)
def test_bf16_values_survive_the_wire(packing):
    rows = _rows(20, 16).bfloat16().double()
    unpacked = packing.unpack(packing.pack(rows), 16, torch.float64)
    assert unpacked.dtype == torch.float64 and torch.equal(unpacked, rows)


@pytest.mark.parametrize("width", [128, 72, 20])
def test_fp8_unpacks_to_what_codes_and_scales_stand_for(width):
    rows, packing = _rows(40, width), FP8Tiles(32)
    rows[1] = 0.0
    unpacked = packing.unpack(packing.pack(rows), width, torch.float32)
    assert torch.equal(unpacked, dequantize_tiles(*quantize_tiles(rows, 32), 32))


def test_no_rows_are_no_bytes():
    packed = FP8Tiles(4).pack(torch.zeros(0, 8))
    assert packed.shape == (0, 16)
    assert FP8Tiles(4).unpack(packed, 8, torch.float32).shape == (0, 8)


@pytest.mark.parametrize("num_rows", [0, 1, 2])
def test_scales_of_a_single_row_are_read_from_any_byte_on(num_rows):
    rows, packing = _rows(num_rows, 6), FP8Tiles(4)
    unpacked = packing.unpack(packing.pack(rows), 6, torch.float32)
    assert torch.allclose(unpacked, rows, rtol=1 / 16)
