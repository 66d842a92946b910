"""The tensor core's sum: by hand, against an H100's, and how wrong it is."""

import inspect

import mmaemu
import pytest
import torch

from tiny_lm.accumulator import ORDERS, scaled_matmul, tensor_core_matmul
from tiny_lm.quantize import E4M3, E5M2, quantize_blocks, quantize_tiles

FORMATS = [E4M3.dtype, E5M2.dtype]


def sample(name, num_rows=32, width=4096, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = torch.rand if name == "uniform" else torch.randn
    return draw(num_rows, width, generator=generator)


def row(*values):
    return torch.tensor([values], dtype=torch.float32).to(E4M3.dtype)


def relative_error(x, wanted):
    """Frobenius error, and signed bias, both relative."""
    error = x.double() - wanted
    return error.norm() / wanted.norm(), error.mean() / wanted.abs().mean()


# --- definition ---


def test_what_lies_13_bits_below_the_largest_still_counts_and_14_bits_do_not():
    a, ones = row(256.0, 2.0**-5, 2.0**-6), row(1.0, 1.0, 1.0)
    assert tensor_core_matmul(a, ones).item() == 256 + 2.0**-5


def test_bits_are_cut_toward_zero_on_both_sides():
    a, ones = row(256.0, 0.0546875), row(1.0, 1.0)  # 1.75 * 2^-5
    assert tensor_core_matmul(a, ones).item() == 256 + 2.0**-5
    negative = row(-256.0, -0.0546875)
    assert tensor_core_matmul(negative, ones).item() == -256 - 2.0**-5


def test_a_grown_accumulator_swallows_what_comes_after_it():
    first, rest = [256.0] * 32, [2.0**-6] * 128
    a, ones = row(*first, *rest), row(*[1.0] * 160)
    assert tensor_core_matmul(a, ones, promote_every=None).item() == 8192
    promoted = tensor_core_matmul(a, ones, promote_every=32)
    assert promoted.item() == 8192 + 128 * 2.0**-6


def test_zeros_give_zero():
    zeros = torch.zeros(2, 64).to(E4M3.dtype)
    assert torch.equal(tensor_core_matmul(zeros, zeros), torch.zeros(2, 2))


# --- equivalence ---


@pytest.mark.parametrize("promote_every", [None, 128], ids=["plain", "promoted"])
@pytest.mark.parametrize("a_format", FORMATS, ids=str)
@pytest.mark.parametrize("b_format", FORMATS, ids=str)
@pytest.mark.parametrize("name", ["normal", "uniform", "wide"])
def test_every_bit_equals_a_model_of_the_h100(name, a_format, b_format, promote_every):
    a, b = sample(name, width=1000), sample(name, num_rows=16, width=1000, seed=1)
    if name == "wide":
        a = a * torch.logspace(-9, 9, 1000, base=2)
    a, b = a.to(a_format), b.to(b_format)
    wanted = mmaemu.accumulate(a, b, use_fast_accum=promote_every is None, splitk=1)
    assert torch.equal(tensor_core_matmul(a, b, promote_every), wanted)


@pytest.mark.parametrize("promote_every", [None, 128], ids=["plain", "promoted"])
def test_ten_thousand_sums_equal_the_model_of_the_h100(promote_every):
    codes = [sample("normal", 100, 640, seed).to(E4M3.dtype) for seed in (2, 3)]
    wanted = mmaemu.accumulate(*codes, use_fast_accum=promote_every is None, splitk=1)
    found = tensor_core_matmul(*codes, promote_every)
    assert found.numel() == 10_000 and torch.equal(found, wanted)


@pytest.mark.parametrize(
    ("name", "promote_every", "error", "bias"),
    [
        ("normal", None, 1.35e-3, 0.0),
        ("normal", 128, 1.25e-4, 0.0),
        ("uniform", None, 7.5e-2, -7.5e-2),
        ("uniform", 128, 5.5e-4, -5.5e-4),
    ],
)
def test_the_error_at_width_4096_depends_on_the_signs(name, promote_every, error, bias):
    a, b = (quantize_tiles(sample(name, seed=seed), 128)[0] for seed in (0, 1))
    exact = a.double() @ b.double().T
    y = tensor_core_matmul(a, b, promote_every)
    got_error, got_bias = relative_error(y, exact)
    assert got_error == pytest.approx(error, rel=0.1)
    assert got_bias == pytest.approx(bias, rel=0.1, abs=1e-4)


@pytest.mark.parametrize("order", ORDERS)
def test_scaled_sums_are_the_sums_of_each_group_times_its_scales(order):
    x, w = sample("normal", 6, 512), sample("normal", 200, 512, seed=1)
    a, sa = quantize_tiles(x, 128)
    b, sb = quantize_blocks(w, 128)
    total = torch.zeros(6, 200, dtype=torch.float64)
    for n in range(4):
        part = slice(128 * n, 128 * n + 128)
        sums = tensor_core_matmul(a[:, part], b[:, part], None).double()
        of_rows = sb[:, n].double().repeat_interleave(128)[:200]
        total += sums * sa[:, n, None].double() * of_rows
    found = scaled_matmul(a, sa, b, sb, 128, order)
    error, _ = relative_error(found, total)
    assert error < 2e-7


def test_the_orders_of_scaling_differ_in_last_bits():
    x, w = sample("normal", 32, 512), sample("normal", 32, 512, seed=1)
    parts = *quantize_tiles(x, 128), *quantize_blocks(w, 128)
    found = [scaled_matmul(*parts, 128, order) for order in ORDERS]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert not torch.equal(found[one], found[other])


# --- message ---


def test_bad_arguments_are_refused():
    codes = row(1.0, 2.0)
    with pytest.raises(TypeError, match="float32"):
        tensor_core_matmul(codes.float(), codes)
    with pytest.raises(ValueError, match="a is 2 wide, b 1"):
        inspect.unwrap(tensor_core_matmul)(codes, row(1.0))  # past the shape checks
    for bad in (0, 48):
        with pytest.raises(ValueError, match=f"multiple of 32, got {bad}"):
            tensor_core_matmul(codes, codes, promote_every=bad)
    scale = torch.ones(1, 1)
    with pytest.raises(ValueError, match="unknown order 'any'; there are: fused"):
        scaled_matmul(codes, scale, codes, scale, 32, "any")
