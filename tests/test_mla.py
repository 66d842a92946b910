"""Latent attention: absorbed equals expanded, and the cache is as small as promised."""

from dataclasses import replace

import pytest
import torch

from tiny_lm.cache import QuantizedCache
from tiny_lm.config import MLAConfig, YarnConfig, deepseek_v3, tiny
from tiny_lm.mla import LatentAttention, absorbing_pays
from tiny_lm.rope import score_boost

SMALL = MLAConfig(
    num_heads=3, d_latent_kv=8, d_latent_q=6, d_nope=4, d_rope=2, d_value=5
)


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _mla(config: MLAConfig, d_model: int = 16) -> LatentAttention:
    mla = LatentAttention(config, d_model, max_len=64).double()
    for seed, weight in enumerate(mla.parameters()):
        weight.data.copy_(0.3 * _normal(*weight.shape, seed=seed))
    return mla


CONFIGS = [SMALL, replace(SMALL, d_latent_q=None), tiny().attention]


@pytest.mark.parametrize("config", CONFIGS)
def test_absorbed_token_by_token_equals_expanded(config):
    mla, x = _mla(config), _normal(2, 11, 16)
    cache = mla.new_cache(batch_size=2, max_len=11)
    steps = [mla(x[:, t : t + 1], cache) for t in range(11)]
    assert (torch.cat(steps, dim=1) - mla(x)).abs().max() < 1e-10


@pytest.mark.parametrize("config", CONFIGS)
def test_absorbed_equals_expanded_when_a_prompt_comes_at_once(config):
    mla, x = _mla(config), _normal(2, 11, 16)
    cache = mla.new_cache(batch_size=2, max_len=11)
    both = torch.cat([mla(x[:, :7], cache), mla(x[:, 7:], cache)], dim=1)
    assert (both - mla(x)).abs().max() < 1e-10


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("num_queries", [1, 3, 11])
def test_both_forms_agree_whatever_asks(config, num_queries):
    mla, x = _mla(config), _normal(2, 11, 16)
    here = mla.place(11 - num_queries, num_queries)
    queries = mla.queries(x[:, -num_queries:], here)
    latent, k_rope = mla.compress(x, mla.place(0, 11))
    memory = torch.cat([latent, k_rope], dim=-1)
    hidden = torch.zeros(2, 11, dtype=torch.bool)
    hidden[1, :4] = True
    absorbed = mla.absorbed(*queries, memory, hidden)
    expanded = mla.expanded(*queries, latent, k_rope, hidden)
    assert (absorbed - expanded).abs().max() < 1e-10


def test_the_cheaper_form_is_chosen_by_counting():
    v3 = deepseek_v3().attention
    assert absorbing_pays(v3, 1, 2) and absorbing_pays(v3, 1, 100_000)
    assert not absorbing_pays(v3, 4096, 4096)
    assert absorbing_pays(v3, 170, 10**6) and not absorbing_pays(v3, 171, 10**6)


def test_yarn_stretches_the_angles_and_sharpens_the_joint_score():
    yarn = YarnConfig(factor=4.0, original_len=16)
    plain, stretched = _mla(SMALL), _mla(replace(SMALL, yarn=yarn))
    assert stretched.scale == pytest.approx(plain.scale * score_boost(yarn))
    # SMALL has one pair, which turns 2.5 times in 16 positions: it keeps its angle.
    wide = replace(SMALL, d_rope=8)
    plain, stretched = _mla(wide), _mla(replace(wide, yarn=yarn))
    assert torch.equal(stretched.cos[:, 0], plain.cos[:, 0])
    assert not torch.equal(stretched.cos[:, -1], plain.cos[:, -1])
    short = LatentAttention(replace(wide, yarn=yarn), 16, max_len=16)
    assert short.scale == wide.d_qk**-0.5
    x = _normal(1, 9, 16)
    cache = stretched.new_cache(1, 9)
    steps = [stretched(x[:, t : t + 1], cache) for t in range(9)]
    assert (torch.cat(steps, dim=1) - stretched(x)).abs().max() < 1e-10


def test_a_quantised_cache_changes_the_result_a_little():
    config = replace(SMALL, cache_tile=4)
    mla, x = _mla(config), _normal(2, 9, 16)
    cache = mla.new_cache(2, 9)
    steps = [mla(x[:, :6], cache)] + [mla(x[:, t : t + 1], cache) for t in (6, 7, 8)]
    assert isinstance(cache, QuantizedCache)
    exact = mla(x)
    error = (torch.cat(steps, dim=1) - exact).norm() / exact.norm()
    assert 1e-4 < error < 0.05


def test_a_cache_that_is_full_and_a_position_beyond_the_tables_are_refused():
    mla = _mla(SMALL)
    cache = mla.new_cache(1, 3)
    mla(_normal(1, 3, 16), cache)
    with pytest.raises(ValueError, match="holds 3 positions, asked 4"):
        mla(_normal(1, 1, 16), cache)
    with pytest.raises(ValueError, match="position 64 lies beyond max_len=64"):
        mla(_normal(1, 65, 16))


def test_the_cache_keeps_the_normalised_latent_and_one_rotated_key():
    mla, x = _mla(SMALL), _normal(1, 4, 16)
    cache = mla.new_cache(1, 4)
    mla(x, cache)
    latent, k_rope = mla.compress(x, mla.place(0, 4))
    assert [s.shape[-1] for s in cache.stores] == [8 + 2]
    assert torch.equal(cache.stores[0][..., :8], latent)
    assert torch.equal(cache.stores[0][..., 8:], k_rope)
    rms = (latent / mla.kv_norm.weight).pow(2).mean(-1).sqrt()
    assert torch.allclose(rms, torch.ones_like(rms), atol=1e-5)


def test_the_cache_of_deepseek_v3_costs_576_values_a_layer():
    config = MLAConfig(
        num_heads=2, d_latent_kv=512, d_latent_q=4, d_nope=4, d_rope=64, d_value=4
    )
    cache = LatentAttention(config, 8, max_len=2).new_cache(1, 2)
    assert cache.bytes_per_token == 576 * 4


def test_all_heads_share_one_rotary_key():
    mla, x = _mla(SMALL), _normal(1, 5, 16)
    before = mla(x)
    mla.kv_down.weight.data[SMALL.d_latent_kv :] *= -1.0
    place = mla.place(0, 5)
    q_nope, q_rope = mla.queries(x, place)
    latent, k_rope = mla.compress(x, place)
    flipped = mla.expanded(q_nope, q_rope, latent, -k_rope)
    per_head = mla.expanded(q_nope, q_rope, latent, k_rope) - flipped
    assert not torch.allclose(mla(x), before)
    assert (per_head.abs().amax(dim=(0, 2, 3)) > 1e-6).all()


def test_both_parts_of_the_score_share_one_scale():
    assert _mla(SMALL).scale == (4 + 2) ** -0.5
