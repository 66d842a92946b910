"""Caches: what they keep, what they cost to the byte, and what they refuse."""

from dataclasses import replace

import pytest
import torch

from tiny_lm import costs
from tiny_lm.cache import Cache, Context, QuantizedCache, require_length
from tiny_lm.config import MHAConfig, preset
from tiny_lm.model import LanguageModel
from tiny_lm.quantize import dequantize_tiles, quantize_tiles

ONE = torch.zeros(1)


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _context(batch_size: int = 2, max_len: int = 8, **options) -> Context:
    caches = [Cache(batch_size, max_len, [(3,)], like=ONE) for _ in range(2)]
    return Context(caches, max_positions=6, **options)


def _bools(*rows: str) -> torch.Tensor:
    return torch.tensor([[c == "1" for c in row] for row in rows])


def test_a_cache_returns_all_that_it_was_given_from_where_it_lies():
    cache, x = Cache(2, 6, [(4, 3), (5,)], like=ONE), _normal(2, 4, 5, 3)
    first, _ = cache.append(x[:, :, :2], _normal(2, 2, 5))
    both, _ = cache.append(x[:, :, 2:], _normal(2, 3, 5))
    assert torch.equal(both, x)
    assert first.data_ptr() == both.data_ptr() == cache.stores[0].data_ptr()


def test_a_cache_never_moves_and_never_grows():
    cache = Cache(2, 64, [(8,)], like=ONE)
    before, size = cache.stores[0].data_ptr(), cache.num_bytes
    for step in range(64):
        cache.append(_normal(2, 1, 8, seed=step))
    assert cache.stores[0].data_ptr() == before and cache.num_bytes == size


def test_a_full_cache_says_how_much_it_holds():
    cache = Cache(1, 2, [(3,)], like=ONE)
    with pytest.raises(ValueError, match="holds 2 positions, asked 3"):
        cache.append(torch.zeros(1, 3, 3))
    assert cache.length == 0


@pytest.mark.parametrize("kv_heads", [4, 2, 1, None])
@pytest.mark.parametrize("cache_tile", [None, 32])
def test_the_bytes_allocated_are_those_of_the_closed_form(kv_heads, cache_tile):
    config = replace(preset("tiny"), fp8=None)
    if kv_heads:
        heads = MHAConfig(num_heads=4, num_kv_heads=kv_heads, d_head=32)
        config = replace(config, attention=heads)
    else:
        config = replace(
            config, attention=replace(config.attention, cache_tile=cache_tile)
        )
    context = LanguageModel(config).new_context(batch_size=3, max_len=50)
    stored = [s.untyped_storage() for c in context.layers for s in c.stores]
    assert sum(s.nbytes() for s in stored) == context.num_bytes
    wanted = costs.kv_bytes_per_token(config, bytes_per_element=4)
    if cache_tile and not kv_heads:
        wanted = costs.fp8_kv_bytes_per_token(config, cache_tile)
    assert context.num_bytes == 3 * 50 * wanted


def test_a_quantised_cache_of_v3_takes_656_bytes_a_token():
    cache = QuantizedCache(1, 4, (512, 64), 128, ONE)
    assert cache.bytes_per_token == 512 + 4 * 4 + 64 * 2 == 656


def test_a_quantised_cache_returns_what_codes_and_scales_stand_for():
    cache, x = QuantizedCache(2, 5, (8, 4), 4, ONE), _normal(2, 5, 12)
    cache.append(x[:, :2])
    (all_of_it,) = cache.append(x[:, 2:])
    latent = dequantize_tiles(*quantize_tiles(x[..., :8], 4), 4)
    assert torch.equal(all_of_it[..., :8], latent)
    assert torch.equal(all_of_it[..., 8:], x[..., 8:].bfloat16().float())
    assert 0 < (all_of_it - x).abs().max() < 0.2


def test_padding_takes_no_position():
    context = _context()
    positions, hidden = context.advance(2, 3, _bools("111", "001"))
    assert positions[1, 2] == 0 and positions[0].tolist() == [0, 1, 2]
    assert torch.equal(hidden, _bools("000", "110"))
    positions, hidden = context.advance(2, 1)
    assert positions.tolist() == [[3], [1]]
    assert torch.equal(hidden, _bools("0000", "1100"))
    assert context.num_read.tolist() == [4, 2] and context.longest == 4


def test_without_padding_there_is_nothing_to_hide():
    context = _context()
    assert context.advance(2, 3, _bools("111", "111")) == (None, None)
    assert context.longest == context.num_columns == 3


@pytest.mark.parametrize("batch_size", [1, 2])
def test_a_prefix_is_copied_to_every_sequence(batch_size):
    prefix = _context(batch_size)
    for cache in prefix.layers:
        cache.append(_normal(batch_size, 2, 3))
    prefix.advance(batch_size, 2)
    context = _context(prefix=prefix)
    for cache, before in zip(context.layers, prefix.layers, strict=True):
        assert cache.length == 2
        wanted = before.stores[0][:, :2].expand(2, -1, -1)
        assert torch.equal(cache.stores[0][:, :2], wanted)
    assert context.num_read.tolist() == [2, 2]
    context.layers[0].append(torch.ones(2, 1, 3))
    assert prefix.layers[0].length == 2  # it may serve again


def test_a_prefix_of_another_shape_or_batch_is_refused():
    for prefix in (_context(3), Context([Cache(1, 4, [(2,)], ONE)] * 2, 6)):
        with pytest.raises(ValueError, match="another model or another batch"):
            _context(prefix=prefix)
    cache = Cache(2, 4, [(3,)], ONE)
    cache.append(torch.zeros(2, 1, 3))
    with pytest.raises(ValueError, match="holds 1 positions already"):
        cache.begin_with(Cache(2, 4, [(3,)], ONE))


def test_a_prefix_needs_room():
    prefix = Cache(1, 4, [(3,)], ONE)
    prefix.append(torch.zeros(1, 4, 3))
    with pytest.raises(ValueError, match="holds 2 positions, asked 4"):
        Cache(1, 2, [(3,)], ONE).begin_with(prefix)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((3, 1), "the context is of 2 sequences"),
        ((2, 9), "the cache holds 8 positions, asked 9"),
        ((2, 7), "a sequence of 7 tokens is longer than max_len=6"),
    ],
)
def test_what_does_not_fit_is_refused_and_takes_nothing(size, message):
    context = _context()
    with pytest.raises(ValueError, match=message):
        context.advance(*size)
    assert context.num_columns == context.longest == 0
    with pytest.raises(ValueError, match=message):
        context.advance(*size, torch.ones(*size, dtype=torch.bool))


def test_columns_of_padding_do_not_count_as_positions():
    context = _context()
    context.advance(2, 7, _bools("0111111", "0000001"))
    assert context.longest == 6
    with pytest.raises(ValueError, match="a sequence of 7 tokens is longer"):
        context.advance(2, 1)
    assert context.num_columns == 7 and context.num_read.tolist() == [6, 1]


def test_a_length_is_refused_by_its_number():
    require_length(3, 3)
    with pytest.raises(ValueError, match="of 4 tokens is longer than max_len=3"):
        require_length(4, 3)
