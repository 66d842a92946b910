"""Formats, scales, tiles and blocks: against hand-made numbers and float64 NumPy."""

import math

import numpy as np
import pytest
import torch
from einops import rearrange

from tiny_lm.fake_quantize import ALONG_ROWS, ALONG_TOKENS, Rounding, fake_quantize
from tiny_lm.formats import E2M1, bits_of
from tiny_lm.quantize import (
    DEEPSEEK,
    E4M3,
    E5M2,
    Quantizer,
    ScaleRule,
    dequantize_blocks,
    dequantize_tiles,
    fake_quantize_blocks,
    fake_quantize_tiles,
    mxfp8,
    nvfp4,
    quantize_blocks,
    quantize_tiles,
    round_to,
)

POWER_OF_TWO = ScaleRule(min_amax=1e-4, power_of_two=True)


def decoded(fmt):
    """What each of the 256 codes stands for, in float64."""
    codes = torch.arange(256, dtype=torch.uint8).view(fmt.dtype)
    return codes.float().double().numpy()


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def awkward(*shape, seed=0):
    """Rows of all sizes from 1e-44 to 1e38, with zeros, zero rows and exact ties."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator)
    decades = torch.linspace(-44, 38, shape[-2], dtype=torch.float64).unsqueeze(-1)
    largest = torch.finfo(torch.float32).max
    x = (x.double() * 10.0**decades).clamp(-largest, largest).float()
    x[torch.rand(shape, generator=generator) < 0.1] = 0.0
    x[..., 1, :] = 0.0
    x[..., 2, :] = torch.randint(-896, 897, x[..., 2, :].shape, generator=generator) / 2
    x[..., 2, 0] = 448.0  # so that the scale is 1, and many of the others are ties
    return x


INPUTS = {
    "normal": normal(48, 96),
    "awkward": awkward(48, 96),
    "partial tiles": normal(50, 80),
    "narrower than a tile": normal(7, 5),
    "one row of zeros": torch.zeros(1, 32),
    "no rows": torch.zeros(0, 64),
}
inputs = pytest.mark.parametrize("x", INPUTS.values(), ids=INPUTS.keys())
rules = pytest.mark.parametrize(
    "rule", [ScaleRule(), DEEPSEEK, POWER_OF_TWO], ids=["amax", "clamped", "power"]
)


def reference_codes(y):
    """The nearest of E4M3's finite values to each y, ties to the even code, as bytes.

    Looks every value up in a table: nothing in common with a cast.
    """
    table = decoded(E4M3)[:127]  # 0x00 to 0x7E: zero up to 448, in order
    magnitude = np.minimum(np.abs(y), 448.0)
    above = np.searchsorted(table, magnitude).clip(1, 126)
    below = above - 1
    to_above, to_below = table[above] - magnitude, magnitude - table[below]
    tie = np.where(above % 2 == 0, above, below)
    near = np.where(to_above < to_below, above, below)
    code = np.where(to_above == to_below, tie, near)
    return (code | (np.signbit(y) << 7)).astype(np.uint8)


def reference_tile(values, rule):
    """Codes and scale of one tile, by the formula, one number after the other."""
    amax = max(float(np.abs(values).max()), rule.min_amax)
    scale = np.float32(amax) / np.float32(448)
    if scale <= 2.0**-126:
        scale = np.float32(1)
    if rule.power_of_two:
        scale = np.float32(2.0 ** math.ceil(math.log2(scale)))
    return reference_codes((values / scale).astype(np.float64)), scale


# --- definition ---


def test_e4m3_has_253_finite_values_and_e5m2_has_247():
    for fmt, num_finite in ((E4M3, 253), (E5M2, 247)):
        values = decoded(fmt)
        assert len(np.unique(values[np.isfinite(values)])) == num_finite


@pytest.mark.parametrize("fmt", [E4M3, E5M2], ids=["e4m3", "e5m2"])
def test_the_limits_of_a_format_are_those_of_its_codes(fmt):
    values = decoded(fmt)
    positive = np.sort(values[np.isfinite(values) & (values > 0)])
    assert fmt.largest == positive[-1]
    assert fmt.smallest_subnormal == positive[0]
    steps = np.diff(positive)
    first_longer_step = positive[:-1][steps > steps[0]][0]
    assert fmt.smallest_normal * 2 == first_longer_step
    assert np.sum((positive >= 1) & (positive < 2)) == 2**fmt.fraction_bits


def test_a_tile_by_hand():
    x = torch.tensor([[896.0, -2.0, 17.0, 0.001, 3.0, 0.0, 0.0, 0.0]])
    codes, scales = quantize_tiles(x, tile=4)
    assert torch.equal(scales, torch.tensor([[2.0, 3.0 / 448]]))
    # 17 / 2 = 8.5 lies halfway between 8 and 9, whose code is odd; 0.0005 is below
    # half of the smallest step.
    assert codes.float().tolist() == [[448.0, -1.0, 8.0, 0.0, 448.0, 0.0, 0.0, 0.0]]


def test_a_block_by_hand():
    weight = torch.tensor([[448.0, 1.0, 896.0], [2.0, -3.0, 0.0], [0.0, 0.0, 5.0]])
    codes, scales = quantize_blocks(weight, block=2)
    assert torch.equal(scales, torch.tensor([[1.0, 2.0], [1.0, 5.0 / 448]]))
    assert codes.float()[2].tolist() == [0.0, 0.0, 448.0]
    back = dequantize_blocks(codes, scales, block=2)
    torch.testing.assert_close(back, weight, atol=0, rtol=1e-7)


def test_an_outlier_costs_its_own_tile_only():
    x = normal(1, 64)
    x[0, 0] = 1e6
    error = (fake_quantize_tiles(x, tile=32) - x).abs()[0]
    clean = (fake_quantize_tiles(x[:, 32:], tile=32) - x[:, 32:]).abs()[0]
    assert torch.equal(error[32:], clean)
    assert error[1:32].mean() > 10 * error[32:].mean()


def test_an_all_zero_tile_has_scale_one_unless_the_rule_has_a_floor():
    zeros = torch.zeros(1, 4)
    assert quantize_tiles(zeros, 4)[1].item() == 1.0
    assert quantize_tiles(zeros, 4, DEEPSEEK)[1].item() == pytest.approx(1e-4 / 448)


def test_power_of_two_scales_are_rounded_up():
    amax = torch.tensor([448.0, 449.0, 224.0, 1.0])
    scales = ScaleRule(power_of_two=True).scales(amax)
    assert scales.tolist() == [1.0, 2.0, 0.5, 2.0**-8]


def test_nan_in_a_tile_stays_visible():
    x = torch.ones(1, 64)
    x[0, 3] = math.nan
    for rule in (ScaleRule(), POWER_OF_TWO):
        rounded = fake_quantize_tiles(x, 32, rule=rule)
        assert rounded[0, 3].isnan()
        assert rounded[0, 32:].eq(1).all()


# --- equivalence ---


@inputs
@rules
def test_codes_equal_a_float64_reference(x, rule):
    codes, scales = quantize_tiles(x, tile=32, rule=rule)
    for row, code, scale in zip(x.numpy(), codes, scales, strict=True):
        for i, tile_scale in enumerate(scale):
            tile = slice(32 * i, 32 * i + 32)
            wanted, wanted_scale = reference_tile(row[tile], rule)
            assert tile_scale.item() == wanted_scale
            assert np.array_equal(code[tile].view(torch.uint8).numpy(), wanted)


def test_block_codes_equal_a_float64_reference():
    weight = awkward(70, 45)
    codes, scales = quantize_blocks(weight, block=32)
    assert scales.shape == (3, 2)
    for i, j in np.ndindex(3, 2):
        area = np.s_[32 * i : 32 * i + 32, 32 * j : 32 * j + 32]
        wanted, wanted_scale = reference_tile(weight.numpy()[area], ScaleRule())
        assert scales[i, j].item() == wanted_scale
        assert np.array_equal(codes[area].view(torch.uint8).numpy(), wanted)


@inputs
@rules
def test_fast_tiles_equal_the_codes(x, rule):
    codes, scales = quantize_tiles(x, 32, rule)
    assert torch.equal(
        fake_quantize_tiles(x, 32, rule=rule), dequantize_tiles(codes, scales, 32)
    )


@inputs
@rules
def test_fast_tiles_along_the_tokens_equal_the_codes(x, rule):
    codes, scales = quantize_tiles(x.T, 32, rule)
    wanted = dequantize_tiles(codes, scales, 32).T
    assert torch.equal(fake_quantize_tiles(x, 32, dim=0, rule=rule), wanted)


@inputs
def test_both_directions_at_once_equal_each_alone(x):
    along_row, along_tokens = fake_quantize(
        x, Rounding(ALONG_ROWS, 32), Rounding(ALONG_TOKENS, 32)
    )
    assert torch.equal(along_row, fake_quantize_tiles(x, 32))
    assert torch.equal(along_tokens, fake_quantize_tiles(x, 32, dim=0))


@pytest.mark.parametrize("dim", [-1, 0])
def test_many_chunks_give_what_one_gives(monkeypatch, dim):
    x = awkward(200, 80)
    whole = fake_quantize_tiles(x, 32, dim)
    monkeypatch.setattr("tiny_lm.fake_quantize.CHUNK", 1000)
    assert torch.equal(fake_quantize_tiles(x, 32, dim), whole)


@rules
@pytest.mark.parametrize("shape", [(64, 96), (70, 45), (3, 70, 45), (5, 3)])
def test_fast_blocks_equal_the_codes(shape, rule):
    weight = awkward(*shape)
    codes, scales = quantize_blocks(weight, 32, rule)
    wanted = dequantize_blocks(codes, scales, 32)
    assert torch.equal(fake_quantize_blocks(weight, 32, rule), wanted)


def test_stacked_experts_are_quantised_one_by_one():
    experts = normal(3, 40, 40)
    codes, scales = quantize_blocks(experts, 32)
    for expert, code, scale in zip(experts, codes, scales, strict=True):
        alone = quantize_blocks(expert, 32)
        assert torch.equal(code.float(), alone[0].float())
        assert torch.equal(scale, alone[1])


def test_blocks_of_the_transpose_are_the_transposed_blocks():
    weight = normal(70, 45)
    assert torch.equal(
        fake_quantize_blocks(weight.T, 32), fake_quantize_blocks(weight, 32).T
    )


@pytest.mark.parametrize("fmt", [E4M3, E5M2], ids=["e4m3", "e5m2"])
def test_rounding_by_adding_equals_the_cast(fmt):
    values = decoded(fmt)
    values = np.unique(values[np.isfinite(values)])
    halfway = (values[1:] + values[:-1]) / 2
    points = torch.from_numpy(np.concatenate([values, halfway])).float()
    up, down = points.nextafter(points + 1), points.nextafter(points - 1)
    noise = normal(4096) * torch.logspace(-6, 5, 4096)
    x = torch.cat([points, up, down, noise])
    cast = x.clamp(-fmt.largest, fmt.largest).to(fmt.dtype).float()
    assert torch.equal(round_to(x, fmt), cast)


def test_more_dims_than_two_are_rows_of_tiles():
    x = normal(2, 3, 40)
    codes, scales = quantize_tiles(x, 32)
    assert codes.shape == (2, 3, 40) and scales.shape == (2, 3, 2)
    assert torch.equal(fake_quantize_tiles(x, 32), dequantize_tiles(codes, scales, 32))
    tokens = rearrange(x, "b t d -> b (t d)")
    wanted = fake_quantize_tiles(tokens, 32, dim=0).view(2, 3, 40)
    assert torch.equal(fake_quantize_tiles(x, 32, dim=0), wanted)


def test_the_error_is_at_most_a_sixteenth_of_a_value_or_half_the_smallest_step():
    x = normal(64, 256)
    codes, scales = quantize_tiles(x, 128)
    error = (dequantize_tiles(codes, scales, 128) - x).abs()
    half_step = scales.repeat_interleave(128, -1) * E4M3.smallest_subnormal / 2
    assert (error <= torch.maximum(x.abs() / 16, half_step) * (1 + 1e-6)).all()


@pytest.mark.parametrize("shape", [(64, 96), (70, 45), (3, 70, 45)], ids=str)
def test_tiles_and_blocks_are_the_quantizer_s(shape):
    x = awkward(*shape)
    for group, (codes, scales) in (
        ((1, 32), quantize_tiles(x, 32)),
        ((32, 32), quantize_blocks(x, 32)),
    ):
        wanted, wanted_scales = Quantizer(group=group).quantize(x)
        assert torch.equal(bits_of(codes), bits_of(wanted))
        assert torch.equal(scales, wanted_scales)


@pytest.mark.parametrize(
    ("quantizer", "num_bytes"),
    [
        (Quantizer(group=(None, None)), 256 * 512 + 4),
        (Quantizer(group=(1, None)), 256 * 512 + 4 * 256),
        (Quantizer(group=(1, 128)), 256 * 512 + 4 * 256 * 4),
        (Quantizer(group=(128, 128)), 256 * 512 + 4 * 8),
        (mxfp8(), 256 * 512 + 256 * 16),
        (nvfp4(), 256 * 512 // 2 + 256 * 32 + 4),
    ],
    ids=["tensor", "row", "tile", "block", "mxfp8", "nvfp4"],
)
def test_bytes_are_codes_and_scales(quantizer, num_bytes):
    assert quantizer.num_bytes(256, 512) == num_bytes
    codes, scales = quantizer.quantize(normal(256, 512))
    held = codes.numel() * (0.5 if quantizer.to is E2M1 else 1)
    held += scales.numel() * quantizer.rule.num_bytes
    assert held + 4 * quantizer.rule.of_whole_tensor == num_bytes


# --- message ---


def test_wrong_numbers_of_scales_are_refused():
    codes, scales = quantize_tiles(normal(2, 80), 32)
    with pytest.raises(ValueError, match="80 has 3 tiles of 32, got 2 scales"):
        dequantize_tiles(codes, scales[:, :2], 32)
    codes, scales = quantize_blocks(normal(40, 80), 32)
    with pytest.raises(ValueError, match=r"40 x 80 has 2 x 3 blocks.*\(1, 3\)"):
        dequantize_blocks(codes, scales[:1], 32)


def test_tiles_lie_along_the_first_or_the_last_dim():
    with pytest.raises(ValueError, match="got dim=1"):
        fake_quantize_tiles(normal(4, 4), 2, dim=1)
