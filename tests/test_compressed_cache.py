"""Caches after V3 cost what was published, by their released configurations."""

from fractions import Fraction

import pytest

from tiny_lm import costs
from tiny_lm.compressed_cache import (
    CompressedCache,
    deepseek_v4_flash,
    deepseek_v4_pro,
    v32_index_bytes,
)
from tiny_lm.config import deepseek_v3


def cache(*ratios: int) -> CompressedCache:
    return CompressedCache(
        name="x", ratios=ratios, fp8_numbers=6, bf16_numbers=1, index_numbers=4
    )


def test_an_entry_is_shared_by_its_tokens_and_an_index_key_lies_beside_some():
    assert cache(4).entry_bytes == 8
    assert cache(4).bytes_per_token == Fraction(8 + 2, 4)
    assert cache(128).bytes_per_token == Fraction(8, 128)
    assert cache(0, 4, 128).bytes_per_token == Fraction(10, 4) + Fraction(8, 128)


def test_a_layer_that_sees_a_window_alone_keeps_nothing_that_grows():
    assert cache(0, 0).bytes_per_token == 0


def test_v4_flash_grows_by_the_published_3450_bytes_a_token():
    flash = deepseek_v4_flash()
    assert [flash.ratios.count(r) for r in (0, 4, 128)] == [2, 21, 20]
    assert flash.bytes_per_token == 3450


def test_v4_pro_and_flash_are_the_published_shares_of_v32():
    pro = deepseek_v4_pro()
    assert [pro.ratios.count(r) for r in (0, 4, 128)] == [0, 30, 31]
    layer = costs.fp8_kv_bytes_per_token(deepseek_v3()) // 61 + v32_index_bytes()
    assert layer == 656 + 132
    shares = [c.bytes_per_token / (61 * layer) for c in (pro, deepseek_v4_flash())]
    assert [round(float(share), 2) for share in shares] == [0.10, 0.07]


@pytest.mark.parametrize(
    "ratios, says", [((), "no layers"), ((4, -1), "not be negative, got -1")]
)
def test_ratios_that_cannot_be_are_refused(ratios, says):
    with pytest.raises(ValueError, match=says):
        cache(*ratios)
