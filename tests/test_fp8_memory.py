"""Bytes by class: counted by hand where the shapes say them, measured where not."""

from dataclasses import replace

import pytest
import torch

from tiny_lm.config import tiny
from tiny_lm.course.experiments.fp8_memory import memory_classes
from tiny_lm.fp8_kernels import tile_bytes
from tiny_lm.model import LanguageModel, multiplied_in_fp8

TOKENS = torch.arange(2 * 33).view(2, 33) % 256


@pytest.fixture(scope="module")
def classes():
    return memory_classes(tiny(), TOKENS)


def test_weights_gradients_and_moments_are_counted_per_parameter(classes):
    model = LanguageModel(tiny())
    total = sum(p.numel() for p in model.parameters())
    low = sum(p.numel() for p in multiplied_in_fp8(model))
    assert classes["weights multiplied"].fp32 == classes["gradients"].fp8 == 4 * total
    assert classes["moments"].fp8 == classes["moments"].fp32 == 8 * total
    assert classes["masters"].fp8 == 4 * low
    codes = classes["weights multiplied"].fp8 - 4 * (total - low)
    assert low < codes < 1.01 * low  # a byte each, and a scale for every 1024


def test_a_row_on_the_wire_is_codes_and_scales(classes):
    assert classes["a row on the wire"].fp32 == 4 * 128
    assert classes["a row on the wire"].fp8 == tile_bytes(1, 128, 32)


def test_activations_shrink_where_products_keep_their_inputs():
    many = torch.arange(8 * 129).view(8, 129) % 256
    kept = memory_classes(tiny(), many)["activations"]
    assert 0.5 * kept.fp32 < kept.fp8 < kept.fp32


def test_few_tokens_keep_more_in_fp8_for_each_expert_fills_whole_tiles(classes):
    assert classes["activations"].fp8 > classes["activations"].fp32


def test_activations_are_of_tokens_and_no_weights_are_among_them(classes):
    twice = memory_classes(tiny(), TOKENS.repeat(2, 1))["activations"].fp32
    assert twice == pytest.approx(2 * classes["activations"].fp32, rel=0.02)


def test_a_model_without_fp8_has_nothing_to_compare():
    with pytest.raises(ValueError, match="tiny has no fp8"):
        memory_classes(replace(tiny(), fp8=None), TOKENS)
