"""Bytes a token of published caches: by hand, and as published."""

import pytest

from tiny_lm.config import deepseek_v3, qwen_72b
from tiny_lm.context_costs import (
    CompressedCache,
    Kept,
    cache_of,
    cache_of_v32,
    context_cost,
    deepseek_v4_flash,
    deepseek_v4_pro,
    growth_bytes_per_token,
    published_bytes_per_token,
    v32_bytes_per_token,
)
from tiny_lm.costs import decode_intensity, kv_bytes_per_token


def test_an_entry_is_shared_by_the_tokens_it_stands_for():
    cache = CompressedCache(name="x", compress_ratios=(0, 4, 128))
    assert cache.entry_bytes == 448 + 2 * 64
    assert cache.bytes_per_token == (576 + 64) / 4 + 576 / 128
    narrow = CompressedCache(
        name="x", compress_ratios=(2,), d_entry=8, d_rope=2, d_index=6, indexed=2
    )
    assert narrow.bytes_per_token == (6 + 4 + 3) / 2


def test_a_kind_of_entry_is_kept_and_read_within_its_limits():
    whole = Kept(num_layers=3, num_bytes=10, flops=100)
    chosen = Kept(num_layers=3, num_bytes=10, flops=100, num_tokens=4, most_read=2)
    window = Kept(num_layers=3, num_bytes=10, flops=100, newest=5)
    counts = [(k.count(17), k.read(17)) for k in (whole, chosen, window)]
    assert counts == [(17, 17), (4, 2), (5, 5)]
    cost = context_cost([whole, chosen, window], 17)
    assert cost.cache_bytes == 3 * 10 * (17 + 4 + 5)
    assert cost.read_bytes == 3 * 10 * (17 + 2 + 5)
    assert cost.flops == 3 * 100 * (17 + 2 + 5)
    assert growth_bytes_per_token([whole, chosen, window]) == 3 * 10 * (1 + 1 / 4)


def test_a_whole_cache_costs_its_bytes_and_its_intensity():
    for config in (deepseek_v3(), qwen_72b()):
        cost = context_cost(cache_of(config.attention, config.num_layers), 1000)
        assert cost.cache_bytes == cost.read_bytes
        assert cost.cache_bytes == 1000 * kv_bytes_per_token(config)
        intensity = decode_intensity(config.attention)
        assert cost.flops / cost.read_bytes == pytest.approx(intensity)
    one = cache_of(qwen_72b().attention, 80, bytes_per_number=1)
    assert growth_bytes_per_token(one) == kv_bytes_per_token(qwen_72b(), 1)


def test_v32_reads_every_index_key_and_2048_latents():
    cost = context_cost(cache_of_v32(deepseek_v3()), 10_000)
    assert cost.cache_bytes == 10_000 * v32_bytes_per_token(deepseek_v3())
    assert cost.read_bytes == 61 * (10_000 * 132 + 2048 * 656)


def test_v4_reads_all_of_its_long_entries_and_512_of_its_short_ones():
    cost = context_cost(deepseek_v4_flash().cache, 2**20)
    window = 43 * 128 * 576
    assert cost.cache_bytes == 2**20 * 3450 + window
    index, short, long = 21 * 2**18 * 64, 21 * 512 * 576, 20 * 2**13 * 576
    assert cost.read_bytes == window + index + short + long
    attended = 43 * 128 + 21 * 512 + 20 * 2**13
    assert cost.flops == attended * 2 * 64 * 1024 + 21 * 2**18 * 2 * 64 * 128


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
