"""Latent attention: absorbed equals expanded, and the cache is as small as promised."""

from dataclasses import replace

import pytest
import torch

from tiny_lm.config import MLAConfig, tiny
from tiny_lm.mla import LatentAttention

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


def test_the_cache_keeps_the_normalised_latent_and_one_rotated_key():
    mla, x = _mla(SMALL), _normal(1, 4, 16)
    cache = mla.new_cache(1, 4)
    mla(x, cache)
    latent, k_rope = mla.compress(x)
    assert [s.shape[-1] for s in cache.stores] == [8, 2]
    assert torch.equal(cache.stores[0], latent)
    assert torch.equal(cache.stores[1], k_rope)
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
    q_nope, q_rope = mla.queries(x)
    latent, k_rope = mla.compress(x)
    flipped = mla.expanded(q_nope, q_rope, latent, -k_rope)
    per_head = mla.expanded(q_nope, q_rope, latent, k_rope) - flipped
    assert not torch.allclose(mla(x), before)
    assert (per_head.abs().amax(dim=(0, 2, 3)) > 1e-6).all()


def test_both_parts_of_the_score_share_one_scale():
    assert _mla(SMALL).scale == (4 + 2) ** -0.5
