"""Multi-head attention and its cache."""

import pytest
import torch
import torch.nn.functional as F

from tiny_lm.attention import MultiHeadAttention, attend
from tiny_lm.config import MHAConfig


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _attention(num_kv_heads: int, **options) -> MultiHeadAttention:
    config = MHAConfig(num_heads=4, num_kv_heads=num_kv_heads, d_head=8, **options)
    attention = MultiHeadAttention(config, d_model=16, max_len=32).double()
    for seed, weight in enumerate(attention.parameters()):
        weight.data.copy_(0.3 * _normal(*weight.shape, seed=seed))
    return attention


def test_the_first_position_sees_only_itself():
    v = _normal(1, 1, 3, 2)
    y = attend(_normal(1, 1, 3, 4), _normal(1, 1, 3, 4), v, scale=0.5)
    assert torch.allclose(y[..., 0, :], v[..., 0, :])


def test_equal_keys_average_the_values_so_far():
    v = torch.tensor([[[[1.0], [3.0], [8.0]]]])
    y = attend(torch.ones(1, 1, 3, 4), torch.ones(1, 1, 3, 4), v, scale=1.0)
    assert torch.allclose(y.flatten(), torch.tensor([1.0, 2.0, 4.0]))


def test_attend_equals_torchs_own():
    q, k, v = (
        _normal(2, 3, 7, 8),
        _normal(2, 3, 7, 8, seed=1),
        _normal(2, 3, 7, 8, seed=2),
    )
    wanted = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.7)
    assert torch.allclose(attend(q, k, v, scale=0.7), wanted, atol=1e-12)


@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
@pytest.mark.parametrize("qkv_bias", [False, True])
def test_token_by_token_through_the_cache_equals_all_at_once(num_kv_heads, qkv_bias):
    attention, x = _attention(num_kv_heads, qkv_bias=qkv_bias), _normal(2, 9, 16)
    cache = attention.new_cache(batch_size=2, max_len=9)
    steps = [attention(x[:, :4], cache)]
    steps += [attention(x[:, t : t + 1], cache) for t in range(4, 9)]
    assert torch.allclose(torch.cat(steps, dim=1), attention(x), atol=1e-12)


def test_fewer_kv_heads_equal_repeated_ones():
    few, many = _attention(2), _attention(4)
    many.load_state_dict(few.state_dict() | {"kv.weight": many.kv.weight})
    heads = few.kv.weight.detach().view(2, 2, 8, 16)  # key or value, head, width
    many.kv.weight.data.copy_(heads.repeat_interleave(2, dim=1).reshape(64, 16))
    x = _normal(1, 5, 16)
    assert torch.allclose(few(x), many(x), atol=1e-12)


@pytest.mark.parametrize("num_kv_heads", [4, 2, 1])
def test_the_cache_costs_keys_and_values_of_every_kv_head(num_kv_heads):
    cache = _attention(num_kv_heads).new_cache(1, 4)
    assert cache.bytes_per_token == 2 * num_kv_heads * 8 * 8  # float64


def test_padding_is_seen_by_nobody():
    q, k, v = (_normal(2, 3, 6, 4, seed=seed) for seed in range(3))
    hidden = torch.tensor([[False] * 6, [True, True] + [False] * 4])
    padded = attend(q, k, v, 0.5, hidden)
    alone = attend(q[1:, :, 2:], k[1:, :, 2:], v[1:, :, 2:], 0.5)
    assert torch.allclose(padded[:1], attend(q[:1], k[:1], v[:1], 0.5), atol=1e-12)
    assert torch.allclose(padded[1:, :, 2:], alone, atol=1e-12)
    assert padded.isfinite().all()


@pytest.mark.parametrize("num_queries", [1, 3, 6])
def test_heads_of_a_group_read_one_key_value_head(num_queries):
    q = _normal(2, 4, num_queries, 8)
    k, v = _normal(2, 2, 6, 8, seed=1), _normal(2, 2, 6, 5, seed=2)
    repeated = [x.repeat_interleave(2, dim=1) for x in (k, v)]
    wanted = attend(q, *repeated, 0.3)
    assert torch.allclose(attend(q, k, v, 0.3), wanted, atol=1e-12)


def test_a_position_beyond_the_tables_is_refused():
    attention = _attention(2)
    with pytest.raises(ValueError, match="position 32 lies beyond max_len=32"):
        attention(_normal(1, 33, 16))


def test_the_cache_is_read_where_it_lies():
    attention = _attention(2)
    cache = attention.new_cache(3, 8)
    attention(_normal(3, 4, 16), cache)
    k = cache.stores[0][..., : cache.length, :]
    assert k.flatten(0, 1).data_ptr() == cache.stores[0].data_ptr()
