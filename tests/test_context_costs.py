"""Bytes a token of published caches: by hand, and as published."""

import pytest

from tiny_lm.config import deepseek_v3, qwen_72b
from tiny_lm.context_costs import (
    CompressedCache,
    deepseek_v4_flash,
    deepseek_v4_pro,
    published_bytes_per_token,
    v32_bytes_per_token,
)


def test_an_entry_is_shared_by_the_tokens_it_stands_for():
    cache = CompressedCache(name="x", compress_ratios=(0, 4, 128))
    assert cache.entry_bytes == 448 + 2 * 64
    assert cache.bytes_per_token == (576 + 64) / 4 + 576 / 128
    narrow = CompressedCache(
        name="x", compress_ratios=(2,), d_entry=8, d_rope=2, d_index=6, indexed=2
    )
    assert narrow.bytes_per_token == (6 + 4 + 3) / 2


def test_the_layers_of_v4_are_those_of_its_config():
    flash, pro = (c().compress_ratios for c in (deepseek_v4_flash, deepseek_v4_pro))
    assert [len(flash), len(pro)] == [43, 61]
    assert [flash.count(ratio) for ratio in (0, 4, 128)] == [2, 21, 20]
    assert [pro.count(ratio) for ratio in (0, 4, 128)] == [0, 30, 31]
    assert flash[:5] == (0, 0, 4, 128, 4) and flash[-1] == 4
    assert pro[:5] == (128, 128, 4, 128, 4) and pro[-1] == 4


def test_v4_costs_a_tenth_of_v32_and_less():
    v32 = v32_bytes_per_token(deepseek_v3())
    assert v32 == 61 * (656 + 132)
    assert deepseek_v4_flash().bytes_per_token == 3450
    assert deepseek_v4_pro().bytes_per_token == pytest.approx(4940, abs=1)
    assert round(100 * deepseek_v4_pro().bytes_per_token / v32) == 10
    assert round(100 * deepseek_v4_flash().bytes_per_token / v32) == 7


def test_every_published_model_has_the_published_figure():
    assert published_bytes_per_token() == {
        "deepseek_v3": 70_272,
        "qwen_72b": 327_680,
        "llama_405b": 516_096,
        "deepseek_v2": 69_120,
        "deepseek_v32": 40_016,
        "deepseek_v4_flash": 3450,
        "deepseek_v4_pro": 30 * 640 / 4 + 31 * 576 / 128,
    }


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="must not be negative"):
        CompressedCache(name="x", compress_ratios=(-1,))
    with pytest.raises(ValueError, match="d_rope=64 is wider than d_entry=8"):
        CompressedCache(name="x", compress_ratios=(4,), d_entry=8)
    with pytest.raises(ValueError, match="no latent attention"):
        v32_bytes_per_token(qwen_72b())
