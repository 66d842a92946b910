"""Formats, scales and codes against other people's: ml_dtypes and torchao.

torchao's blockwise module imports only beside triton, which has no build for CPUs. Its
formula for tiles and blocks is written out here. Its own two functions, taken out of
that module and run on the same tensors, gave the same bits as the formula.
"""

import warnings

import ml_dtypes
import numpy as np
import pytest
import torch

from tiny_lm.formats import E2M1, E4M3, E5M2, all_codes, bits_of, decode, encode
from tiny_lm.quantize import (
    Quantizer,
    mxfp8,
    nvfp4,
    quantize_blocks,
    quantize_tiles,
)
from tiny_lm.scales import NVFP4, OCP_FLOOR, ROUND_UP

THEIRS = {
    "e4m3": (E4M3, ml_dtypes.float8_e4m3fn),
    "e5m2": (E5M2, ml_dtypes.float8_e5m2),
    "e2m1": (E2M1, ml_dtypes.float4_e2m1fn),
}
formats = pytest.mark.parametrize(("ours", "theirs"), THEIRS.values(), ids=THEIRS)
MILLION = 1_000_000


@pytest.fixture(scope="module")
def torchao():
    """Its two formats of microscaling; importing it warns of much."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from torchao.prototype.mx_formats import mx_tensor, nvfp4_tensor
    return mx_tensor, nvfp4_tensor


def random(*shape, seed=0, decades=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator)
    spread = 10.0 ** (decades * torch.rand(*shape, generator=generator) - decades / 2)
    return x * spread


# --- formats ---


@formats
def test_every_code_stands_for_what_ml_dtypes_says(ours, theirs):
    codes = bits_of(all_codes(ours)).numpy()
    wanted = codes.view(theirs) if ours is not E2M1 else codes.astype(theirs)
    if ours is E2M1:
        wanted = np.arange(16, dtype=np.uint8).view(theirs)
    found = decode(all_codes(ours), ours).numpy()
    assert np.array_equal(found, wanted.astype(np.float32), equal_nan=True)
    assert np.array_equal(np.signbit(found), np.signbit(wanted.astype(np.float32)))


@formats
def test_a_million_random_values_get_the_codes_of_ml_dtypes(ours, theirs):
    x = random(MILLION, decades=9).clamp(-ours.largest, ours.largest)
    wanted = x.numpy().astype(theirs).view(np.uint8)
    assert np.array_equal(bits_of(encode(x, ours)).numpy(), wanted)


# --- tiles and blocks ---


def of_torchao(regions):
    """Codes and scales of rows that share a scale, by torchao's formula."""
    amax = regions.abs().amax(-1, keepdim=True).double().clamp(min=1e-12)
    inverse = (448.0 / amax).float()
    return (regions * inverse).clamp(-448, 448).to(E4M3.dtype), 1.0 / inverse


def assert_next_to(codes, others):
    """Equal, but where one multiplies by an inverse and one divides: a tie's width."""
    a, b = bits_of(codes).int(), bits_of(others).int()
    assert (a != b).double().mean() < 1e-5
    assert (a - b).abs().max() <= 1


@pytest.mark.parametrize("size", [32, 128])
def test_tiles_and_blocks_are_those_of_torchao(size):
    x = random(512, 1024, decades=4)
    codes, scales = quantize_tiles(x, size)
    theirs, their_scales = of_torchao(x.reshape(-1, size))
    torch.testing.assert_close(scales.reshape(-1, 1), their_scales, rtol=3e-7, atol=0)
    assert_next_to(codes.reshape(-1, size), theirs)

    codes, scales = quantize_blocks(x, size)
    blocks = x.unflatten(0, (-1, size)).unflatten(2, (-1, size)).transpose(1, 2)
    theirs, their_scales = of_torchao(blocks.flatten(2))
    torch.testing.assert_close(scales[..., None], their_scales, rtol=3e-7, atol=0)
    ours = codes.unflatten(0, (-1, size)).unflatten(2, (-1, size)).transpose(1, 2)
    assert_next_to(ours.flatten(2), theirs)


# --- microscaling ---


@pytest.mark.parametrize(
    ("rule", "mode"), [(OCP_FLOOR, "FLOOR"), (ROUND_UP, "RCEIL")], ids=["ocp", "up"]
)
@pytest.mark.parametrize("fmt", [E4M3, E5M2], ids=["e4m3", "e5m2"])
def test_mx_scales_and_codes_are_those_of_torchao(torchao, rule, mode, fmt):
    mx, _ = torchao
    x = random(500, 2048, decades=12)
    codes, scales = Quantizer(fmt, (1, 32), rule).quantize(x)
    their_scales, theirs = mx.to_mx(
        x, fmt.dtype, 32, getattr(mx.ScaleCalculationMode, mode)
    )
    assert torch.equal(scales, their_scales.float())
    assert torch.equal(bits_of(codes), bits_of(theirs))


def test_mxfp8_by_default_follows_the_ocp():
    assert mxfp8() == Quantizer(E4M3, (1, 32), OCP_FLOOR)
    assert mxfp8(ROUND_UP).rule is ROUND_UP


def test_nvfp4_scales_and_codes_are_those_of_torchao(torchao):
    _, nv = torchao
    x = random(500, 2048)
    codes, scales = nvfp4().quantize(x)
    whole = nv.per_tensor_amax_to_scale(x.abs().max())
    their_scales, packed = nv.nvfp4_quantize(x, 16, whole)
    torch.testing.assert_close(scales, their_scales.float() * whole, rtol=2e-7, atol=0)
    theirs = torch.stack([packed & 15, packed >> 4], -1).flatten(-2)
    different = decode(codes, E2M1) != decode(theirs, E2M1)
    assert different.double().mean() < 1e-5
    assert nvfp4().rule is NVFP4
