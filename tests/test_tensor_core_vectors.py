"""An H100's own sums, kept with their inputs: the accumulator model gives every bit.

`python -m tiny_lm.course.bench.hardware` wrote them. That run computed the scales of
tiles and blocks on the GPU, by multiplying with 1/448; the file has those scales.
"""

from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from tiny_lm.accumulator import scaled_matmul, tensor_core_matmul
from tiny_lm.course.bench.hardware import emulated
from tiny_lm.formats import E4M3, E5M2

PATH = Path(__file__).with_name("data") / "tensor_core.safetensors"
with safe_open(PATH, "pt") as file:
    ABOUT = file.metadata()
    VECTORS = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
DRAWS, WIDTHS = ("normal", "uniform"), (512, 4096)
cases = pytest.mark.parametrize(("draw", "width"), list(product(DRAWS, WIDTHS)))


def codes(name: str, fmt=E4M3):
    return VECTORS[name].view(fmt.dtype)


def scaled(draw: str, width: int):
    key = f"{draw}-{width}-scaled"
    return (
        codes(f"{key}.a"),
        VECTORS[f"{key}.sa"],
        codes(f"{key}.b"),
        VECTORS[f"{key}.sb"],
    )


def test_the_file_says_where_it_comes_from():
    assert "H100" in ABOUT["device"] and ABOUT["driver"] and ABOUT["torch"]
    assert ABOUT["date"].startswith("2026-")
    outputs = sum(v.numel() for n, v in VECTORS.items() if v.shape == (8, 8))
    assert outputs >= 500


@cases
@pytest.mark.parametrize("fmt", [E4M3, E5M2], ids=["e4m3", "e5m2"])
def test_sums_with_and_without_fast_accumulation_are_the_model_s(draw, width, fmt):
    key = f"{draw}-{width}-{fmt.name}"
    a, b = codes(f"{key}.a", fmt), codes(f"{key}.b")
    fast, promoted = (tensor_core_matmul(a, b, every) for every in (None, 128))
    assert torch.equal(VECTORS[f"{key}.fast"], fast)
    assert torch.equal(VECTORS[f"{key}.promoted"], promoted)
    assert not torch.equal(fast, promoted)


@cases
def test_block_scaled_products_are_the_model_s(draw, width):
    found = scaled_matmul(*scaled(draw, width))
    assert torch.equal(VECTORS[f"{draw}-{width}-scaled.float32"], found)
    half = VECTORS[f"{draw}-{width}-scaled.bfloat16"]
    assert torch.equal(half, found.bfloat16())


@cases
def test_any_other_order_of_scaling_misses_some_bits(draw, width):
    wanted = VECTORS[f"{draw}-{width}-scaled.float32"]
    for order in ("scale, add", "one by one"):
        found = scaled_matmul(*scaled(draw, width), order=order)
        assert (found == wanted).double().mean() < 0.9


@cases
def test_what_the_course_multiplies_is_as_near_as_a_short_accumulator_allows(
    draw, width
):
    wanted = VECTORS[f"{draw}-{width}-scaled.float32"].double()
    found = emulated(*scaled(draw, width)).double()
    assert 1e-5 < (found - wanted).norm() / wanted.norm() < 1e-3
