"""Decoding against `transformers`: the same logits and tokens at hundreds of shapes.

Prompts of unequal length are padded on the left and read in chunks, then tokens are
written one by one: ours by folded weights and absorbed attention, theirs by expanding
what they cached.
"""

import random
from dataclasses import replace

import pytest
import torch

from tiny_lm.config import MLAConfig, ModelConfig, MoEConfig, YarnConfig, preset
from tiny_lm.course.bench.oracle import transformers_twin
from tiny_lm.decoder import Decoder, next_step
from tiny_lm.generate import left_pad, read, stream_batch
from tiny_lm.model import LanguageModel

NUM_SHAPES = 300
NUM_WRITTEN = 2


def _shape(seed: int) -> ModelConfig:
    """A small model with odd widths; half of them with YaRN."""
    draw = random.Random(seed)
    factor = draw.uniform(2, 40)
    attention = MLAConfig(
        num_heads=draw.randint(1, 4),
        d_latent_kv=draw.randint(1, 19),
        d_latent_q=draw.choice([None, draw.randint(1, 13)]),
        d_nope=draw.randint(1, 9),
        d_rope=2 * draw.randint(1, 8),
        d_value=draw.randint(1, 9),
        rope_theta=draw.choice([100.0, 10_000.0]),
        yarn=draw.choice([None, YarnConfig(factor=factor, original_len=8)]),
    )
    groups = draw.choice([1, 2])
    moe = MoEConfig(
        num_experts=4 * groups,
        num_shared=draw.randint(1, 2),
        top_k=2 * groups,
        d_expert=4 * draw.randint(1, 3),
        num_groups=groups,
        top_groups=groups,
        route_scale=draw.uniform(0.5, 3),
    )
    layers = draw.randint(1, 2)
    return ModelConfig(
        name=f"shape {seed}",
        vocab_size=draw.randint(5, 40),
        d_model=4 * draw.randint(2, 6),
        num_layers=layers,
        num_dense_layers=draw.randint(0, layers),
        d_ffn=4 * draw.randint(1, 5),
        attention=attention,
        moe=moe,
        max_len=64,
        init_std=0.2,  # their norms and router compute in FP32 whatever the dtype
    )


def _pair(config: ModelConfig, seed: int):
    model = LanguageModel(config, seed=seed).double().eval()
    # Their eager attention makes NaN of padding in FP64: its softmax is in FP32.
    options = dict(experts_implementation="eager", attn_implementation="sdpa")
    return model, transformers_twin(model, **options).eval()


def _prompts(config: ModelConfig, seed: int) -> list[torch.Tensor]:
    draw, dice = random.Random(seed), torch.Generator().manual_seed(seed)
    lengths = [draw.randint(1, 12) for _ in range(draw.randint(1, 3))]
    return [torch.randint(config.vocab_size, (n,), generator=dice) for n in lengths]


class _Theirs:
    """Their model, with its own cache, mask and positions."""

    def __init__(self, twin) -> None:
        from transformers import DynamicCache

        self.twin, self.cache = twin, DynamicCache(config=twin.config)
        self.mask = None

    def __call__(self, tokens, real):
        mask = real if self.mask is None else torch.cat([self.mask, real], dim=1)
        self.mask = mask
        positions = (mask.long().cumsum(1) - 1).clamp(min=0)[:, -tokens.shape[1] :]
        out = self.twin(
            tokens,
            attention_mask=mask.long(),
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        )
        return out.logits[:, -1]


@torch.inference_mode()
def _compare(config: ModelConfig, seed: int) -> None:
    model, twin = _pair(config, seed)
    tokens, real = left_pad(_prompts(config, seed))
    batch, length = tokens.shape
    cut = random.Random(seed).randint(1, length)
    theirs = _Theirs(twin)
    context = model.new_context(batch, length + NUM_WRITTEN)
    for columns in (slice(0, cut), slice(cut, length)):
        if columns.start < columns.stop:
            wanted = theirs(tokens[:, columns], real[:, columns])
    given = read(model, context, tokens, real, chunk=cut)
    step = next_step(model, context)
    assert isinstance(step, Decoder)
    for _ in range(NUM_WRITTEN):
        assert (given - wanted).abs().max() < 1e-5, config
        token = wanted.argmax(-1)
        assert torch.equal(given.argmax(-1), token), config
        given = step(token)
        wanted = theirs(token.unsqueeze(1), torch.ones(batch, 1, dtype=torch.bool))
    assert (given - wanted).abs().max() < 1e-5, config


@pytest.mark.parametrize("first", range(0, NUM_SHAPES, 50))
def test_logits_and_greedy_tokens_equal_theirs_at_random_shapes(first):
    for seed in range(first, first + 50):
        _compare(_shape(seed), seed)


def test_the_random_shapes_cover_what_they_should():
    shapes = [_shape(seed).attention for seed in range(NUM_SHAPES)]
    assert {a.num_heads for a in shapes} == {1, 2, 3, 4}
    assert sum(a.d_latent_q is None for a in shapes) > 50
    assert sum(a.yarn is not None for a in shapes) > 50
    assert sum(a.d_latent_kv % 2 for a in shapes) > 50
    assert len({len(_prompts(_shape(s), s)) for s in range(NUM_SHAPES)}) == 3


@pytest.mark.parametrize("yarn", [None, YarnConfig(factor=8.0, original_len=32)])
def test_tiny_generates_what_their_generate_does(yarn):
    tiny = replace(preset("tiny"), fp8=None, init_std=0.08, max_len=128)
    tiny = replace(tiny, attention=replace(tiny.attention, yarn=yarn))
    model, twin = _pair(tiny, seed=0)
    prompts = _prompts(tiny, seed=5) + [torch.arange(40)]
    tokens, real = left_pad(prompts)
    wanted = twin.generate(
        tokens,
        attention_mask=real.long(),
        max_new_tokens=40,
        do_sample=False,
        use_cache=True,
        pad_token_id=0,
        eos_token_id=None,
    )[:, tokens.shape[1] :]
    rows = list(stream_batch(model, prompts, 40, temperature=1e-6, chunk=16))
    assert torch.equal(torch.tensor(rows).T, wanted)
