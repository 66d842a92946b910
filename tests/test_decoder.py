"""The folded decoder against its slow twin, the model's own forward pass."""

from dataclasses import replace

import pytest
import torch

from tiny_lm import decoder
from tiny_lm.config import MHAConfig, ModelConfig, YarnConfig, preset
from tiny_lm.decoder import Decoder, can_fold, next_step
from tiny_lm.layers import PLAIN, Products
from tiny_lm.model import LanguageModel

TINY = replace(preset("tiny"), fp8=None, init_std=0.1, max_len=40)
YARN = YarnConfig(factor=4.0, original_len=16)


def _attention(**changes) -> ModelConfig:
    return replace(TINY, attention=replace(TINY.attention, **changes))


def _heads(num_kv_heads: int, **changes) -> ModelConfig:
    heads = MHAConfig(num_heads=4, num_kv_heads=num_kv_heads, d_head=16, **changes)
    return replace(TINY, attention=heads)


CONFIGS = {
    "mla": TINY,
    "mla, queries not compressed": _attention(d_latent_q=None),
    "mla, one head": _attention(num_heads=1, d_value=24),
    "mla, odd latent": _attention(d_latent_kv=37, d_latent_q=21),
    "mla, YaRN": _attention(yarn=YARN),
    "mla, FP8 cache": _attention(cache_tile=32),
    "mha": _heads(4),
    "gqa": _heads(2, qkv_bias=True),
    "mqa": _heads(1),
    "dense": replace(TINY, moe=None, num_dense_layers=4),
    "no shared expert": replace(TINY, moe=replace(TINY.moe, num_shared=0)),
    "no groups": replace(TINY, moe=replace(TINY.moe, num_groups=1, top_groups=1)),
}


def _model(config: ModelConfig) -> LanguageModel:
    model = LanguageModel(config).double().eval()
    generator = torch.Generator().manual_seed(3)
    for router in model.routers:
        router.bias.copy_(0.2 * torch.randn(router.bias.shape, generator=generator))
    for name, weight in model.named_parameters():
        if weight.dim() == 1:
            weight.data += 0.3 * torch.randn(weight.shape, generator=generator)
            assert "norm" in name or "bias" in name
    return model


def _tokens(*shape: int) -> torch.Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@pytest.mark.parametrize("padded", [False, True])
@torch.inference_mode()
def test_folded_weights_say_what_the_model_says(config, padded):
    model, tokens, real = _model(config), _tokens(3, 12), None
    if padded:
        real = torch.ones(3, 8, dtype=torch.bool)
        real[0, :5], real[1, :1] = False, False
    contexts = [model.new_context(3, 12) for _ in range(2)]
    for context in contexts:
        model(tokens[:, :8], context, real)
    step = next_step(model, contexts[0])
    assert isinstance(step, Decoder)
    for t in range(8, 12):
        slow = model(tokens[:, t : t + 1], contexts[1])[:, -1]
        assert (step(tokens[:, t]) - slow).abs().max() < 1e-8
    assert contexts[0].num_read.tolist() == contexts[1].num_read.tolist()


@torch.inference_mode()
def test_the_caches_hold_the_same_whoever_wrote_them():
    model, tokens = _model(TINY), _tokens(2, 6)
    contexts = [model.new_context(2, 6) for _ in range(2)]
    step = Decoder(model, contexts[0])
    for t in range(6):
        step(tokens[:, t])
        model(tokens[:, t : t + 1], contexts[1])
    for fast, slow in zip(*(context.layers for context in contexts), strict=True):
        assert torch.allclose(fast.stores[0], slow.stores[0], atol=1e-10)


@torch.inference_mode()
def test_many_tokens_are_sorted_by_expert_and_few_are_not(monkeypatch):
    model, tokens, calls = _model(TINY), _tokens(4, 2), []
    for router in model.routers:
        router.register_forward_hook(lambda *_: calls.append("sorted"))
    few = Decoder(model, model.new_context(4, 2))(tokens[:, 0])
    assert not calls
    monkeypatch.setattr(decoder, "MAX_TOKENS", 3)
    many = Decoder(model, model.new_context(4, 2))(tokens[:, 0])
    assert len(calls) == len(model.routers)
    assert torch.allclose(few, many, atol=1e-10)


@torch.inference_mode()
def test_what_does_not_fit_is_refused():
    model, tokens = _model(TINY), _tokens(2, 50)
    step = Decoder(model, model.new_context(2, 3))
    for t in range(3):
        step(tokens[:, t])
    with pytest.raises(ValueError, match="holds 3 positions, asked 4"):
        step(tokens[:, 3])
    context = model.new_context(2, 50)
    model(tokens[:, :40], context)
    with pytest.raises(ValueError, match="41 tokens is longer than max_len=40"):
        Decoder(model, context)(tokens[:, 40])


@torch.inference_mode()
def test_a_model_with_parts_of_its_own_decodes_by_its_own_forward_pass():
    def product(x, weight):
        return PLAIN.linear(x, weight)

    own = Products(product, PLAIN.grouped, PLAIN.row_multiple)
    models = [
        LanguageModel(replace(TINY, fp8=preset("tiny").fp8)),
        LanguageModel(TINY).bfloat16(),
        LanguageModel(TINY, products=own),
        LanguageModel(TINY, products=replace(PLAIN, gate=product)),
        LanguageModel(TINY, products=replace(PLAIN, head=product)),
    ]
    tokens = _tokens(1, 3)
    for model in models:
        model.eval()
        assert not can_fold(model)
        step = next_step(model, model.new_context(1, 3))
        context = model.new_context(1, 3)
        for t in range(3):
            wanted = model(tokens[:, t : t + 1], context)[:, -1]
            assert torch.equal(step(tokens[:, t]), wanted)
    assert can_fold(LanguageModel(TINY))
