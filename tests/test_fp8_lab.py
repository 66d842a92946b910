"""The lab's own definitions of bytes, rounding and scales agree with the package's."""

import pytest
import torch

from tiny_lm import formats, quantize
from tiny_lm.course.checks.fp8.blocks import quantize_blocks, task_4_4
from tiny_lm.course.checks.fp8.decode_byte import decode_byte
from tiny_lm.course.checks.fp8.groups import CODES, SCALES, SPOILT, amax_of, seen
from tiny_lm.course.checks.fp8.round_to import round_to
from tiny_lm.course.checks.fp8.tiles import quantize_tiles, task_4_3
from tiny_lm.course.checks.result import Misfit, conform
from tiny_lm.course.figures import fp8_lab
from tiny_lm.formats import E2M1, E4M3, E5M2

BITS = {E4M3: (4, 3), E5M2: (5, 2), E2M1: (2, 1)}


def wide(seed: int, *shape: int) -> torch.Tensor:
    """Normal numbers times powers of two, over all sizes that matter."""
    g = torch.Generator().manual_seed(seed)
    powers = torch.exp2(8 * torch.randn(shape, generator=g))
    return powers * torch.randn(shape, generator=g)


# ---- the references are the package's own


@pytest.mark.parametrize("of", [E4M3, E5M2], ids=lambda of: of.name)
def test_all_codes_are_read_as_the_package_reads_them(of):
    codes = torch.arange(256, dtype=torch.uint8)
    ours = decode_byte(codes, *BITS[of])
    wanted = formats.decode(codes.view(of.dtype), of)
    torch.testing.assert_close(ours, wanted, rtol=0, atol=0, equal_nan=True)
    signs = [x[~wanted.isnan()].signbit() for x in (ours, wanted)]
    assert torch.equal(*signs)


@pytest.mark.parametrize("of", [*BITS], ids=lambda of: of.name)
def test_rounding_is_the_packages_on_numbers_middles_and_ends(of):
    codes = formats.all_codes(of)
    values = formats.decode(codes, of)
    values = values[values.isfinite()].unique()
    middles = (values[1:] + values[:-1]) / 2
    far = torch.tensor([1e9, -1e9, torch.inf, -torch.inf, torch.nan, 1e-40])
    x = torch.cat([values, middles, far, wide(0, 50_000)])
    ours = round_to(x, *BITS[of], of.largest)
    wanted = formats.round_to(x, of)
    torch.testing.assert_close(ours, wanted, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("shape, width", [((1, 1), 4), ((5, 300), 128), ((64, 32), 32)])
def test_tiles_are_the_packages(shape, width):
    x = wide(1, *shape)
    x[0] = 0
    for a, b in zip(
        quantize_tiles(x, width), quantize.quantize_tiles(x, width), strict=True
    ):
        assert a.dtype == b.dtype and torch.equal(a.float(), b.float())


@pytest.mark.parametrize("shape, size", [((1, 1), 4), ((70, 50), 32), ((64, 96), 32)])
def test_blocks_are_the_packages(shape, size):
    w = wide(2, *shape)
    w[:size, :size] = 0
    for a, b in zip(
        quantize_blocks(w, size), quantize.quantize_blocks(w, size), strict=True
    ):
        assert a.dtype == b.dtype and torch.equal(a.float(), b.float())


# ---- what the checks are made of


def test_the_largest_magnitude_of_groups_that_end_early():
    x = torch.tensor([[1.0, -2.0, 3.0], [4.0, 5.0, -6.0], [-7.0, 0.0, 0.5]])
    assert amax_of(x, (2, 2)).tolist() == [[5.0, 6.0], [7.0, 0.5]]
    assert amax_of(x, (1, 2)).tolist() == [[2.0, 3.0], [5.0, 6.0], [7.0, 0.5]]


def test_a_group_of_zeros_may_have_any_finite_scale():
    x = torch.tensor([[0.0, 0.0, 1.0, 2.0]])
    codes, scales = quantize_tiles(x, 2)
    for scale in (1.0, 1e-12, 0.0):
        scales[0, 0] = scale
        told = seen(codes, scales, x, (1, 2))
        assert told[SCALES][0, 0] == 1.0
    scales[0, 0] = torch.inf
    assert seen(codes, scales, x, (1, 2))[SCALES][0, 0] == torch.inf


def test_what_is_no_number_must_come_back_as_none_and_its_neighbours_are_free():
    x = torch.tensor([[torch.nan, 1.0, 2.0, 4.0]])
    codes, scales = quantize_tiles(x, 2)
    told = seen(codes, scales, x, (1, 2))
    assert told[SPOILT] == "no numbers"
    assert told[CODES].tolist() == [[0.0, 0.0, 224.0, 448.0]]
    swallowed = seen(*quantize_tiles(x.nan_to_num(), 2), x, (1, 2))
    assert swallowed[SPOILT] == "numbers as good as any"


@pytest.mark.parametrize("task", [task_4_3, task_4_4], ids=lambda task: task.id)
def test_codes_take_one_byte(task):
    def four_bytes(*arguments):
        codes, scales = task.reference(*arguments)
        return codes.float(), scales

    outcome = task.outcome(four_bytes)
    assert not outcome.holds
    assert outcome.mismatch.because.startswith("Codes of one byte are promised.")


def test_a_result_of_eight_bits_needs_the_format_that_is_promised():
    like = torch.ones(3).to(torch.float8_e4m3fn)
    assert conform(like, like, ("codes",), any_width=False) is like
    for other in (like.float(), like.float().to(torch.float8_e5m2)):
        with pytest.raises(Misfit, match="codes: float8_e4m3fn"):
            conform(other, like, ("codes",), any_width=False)


# ---- pictures


def test_pictures_show_as_many_numbers_as_they_say():
    assert fp8_lab.fields().svg.count(">exponent<") == 2
    line = fp8_lab.steps(12, 22, [17.0], [16.0]).svg
    assert all(f">{n}<" in line for n in (12, 13, 14, 15, 16, 18, 20, 22))
    assert ">19<" not in line and ">17<" in line
    drawn = fp8_lab.groups(5, 7, (2, 2)).svg
    assert ">codes<" in drawn and ">scales<" in drawn
