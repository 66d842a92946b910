"""The lab's own definitions of caches and latents agree with the model's."""

import pytest
import torch

from tiny_lm import costs
from tiny_lm.attention import attend
from tiny_lm.cache import Cache
from tiny_lm.config import PRESETS, MHAConfig, MLAConfig, preset
from tiny_lm.course.checks.case import case, describe
from tiny_lm.course.checks.mla.cache_bytes import cache_bytes
from tiny_lm.course.checks.mla.compress import compress
from tiny_lm.course.checks.mla.expand import expand
from tiny_lm.course.checks.mla.grouped import BLIND, Y, grouped_attention, seen
from tiny_lm.course.checks.mla.remember import remember, task_3_2
from tiny_lm.course.figures import latent_lab
from tiny_lm.mla import LatentAttention


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---- the references are the model's own


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("width", [1, 2, 4])
def test_bytes_are_those_of_costs_and_of_a_cache_that_is_allocated(name, width):
    c = preset(name)
    ours = cache_bytes(c.attention, c.num_layers, width)
    assert ours == costs.kv_bytes_per_token(c, width)
    if name.startswith("tiny"):
        a = c.attention
        latent = isinstance(a, MLAConfig)
        head = (a.num_kv_heads, a.d_head) if not latent else ()
        shapes = [(a.d_latent_kv + a.d_rope,)] if latent else [head, head]
        cache = Cache(2, 10, shapes, like=torch.empty(0))
        assert cache_bytes(a, 1, 4) == cache.bytes_per_token


def test_published_bytes():
    assert cache_bytes(preset("deepseek_v3").attention, 61, 2) == 70_272
    assert cache_bytes(preset("qwen_72b").attention, 80, 2) == 327_680
    assert cache_bytes(preset("llama_405b").attention, 126, 2) == 516_096


def test_what_is_remembered_is_what_a_cache_returns():
    cache = Cache(2, 9, [(3, 4)], like=torch.empty(0))
    memory, length = torch.full((2, 3, 9, 4), torch.nan), 0
    for step, num in enumerate((4, 1, 3)):
        new = normal(step, 2, 3, num, 4)
        (wanted,) = cache.append(new)
        filled, length = remember(memory, length, new)
        assert torch.equal(filled, wanted) and length == cache.length
    for full in (lambda new: cache.append(new), lambda new: remember(memory, 8, new)):
        with pytest.raises(ValueError, match="positions, asked 10"):
            full(normal(0, 2, 3, 2, 4))


@pytest.mark.parametrize("T, S", [(1, 1), (1, 7), (3, 7), (7, 7)])
@pytest.mark.parametrize("G", [1, 2, 6])
def test_grouped_attention_is_the_models(T, S, G):
    q, k, v = normal(0, 2, 6, T, 4), normal(1, 2, G, S, 4), normal(2, 2, G, S, 5)
    hidden = torch.zeros(2, S, dtype=torch.bool)
    hidden[1, : S // 3] = True
    ours = seen(grouped_attention(q, k, v, hidden), q, k, v, hidden)
    wanted = seen(attend(q, k, v, 0.5, hidden), q, k, v, hidden)
    torch.testing.assert_close(ours[Y], wanted[Y])
    assert ours[BLIND] == wanted[BLIND] == "finite numbers"


def test_down_and_up_are_those_of_latent_attention():
    c = MLAConfig(
        num_heads=3, d_latent_kv=8, d_latent_q=None, d_nope=6, d_rope=4, d_value=5
    )
    model = LatentAttention(c, d_model=16, max_len=20)
    for number, weight in enumerate(model.parameters()):
        torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(number))
    x = normal(7, 2, 9, 16)
    gain = model.kv_norm.weight
    latent = compress(x, model.kv_down.weight[:8], gain, model.kv_norm.eps)
    wanted, _ = model.compress(x, model.place(0, 9))
    torch.testing.assert_close(latent, wanted)
    keys, values = expand(latent, model.kv_up.weight, 3, 6)
    w_k, w_v = model.up_projections()
    for ours, w in ((keys, w_k), (values, w_v)):
        torch.testing.assert_close(ours, torch.einsum("bsc,hdc->bhsd", latent, w))


# ---- what the checks are made of


def test_a_query_sees_nothing_where_all_up_to_its_position_is_padding():
    q, k = torch.zeros(1, 1, 2, 1), torch.zeros(1, 1, 3, 1)
    hidden = torch.tensor([[True, True, False]])
    y = torch.tensor([[[[torch.nan], [5.0]]]])
    told = seen(y, q, k, k, hidden)
    assert told[Y].flatten().tolist() == [0.0, 5.0]
    assert told[BLIND] == "NaN or infinite ones"


def test_only_the_memory_may_be_written_into():
    def spoils_what_is_new(memory, length, new):
        result = remember(memory, length, new)
        new.zero_()
        return result

    assert task_3_2.outcome(remember).holds
    outcome = task_3_2.outcome(spoils_what_is_new)
    assert outcome.mismatch.wanted == "arguments as they were"


def test_a_config_is_shown_by_what_is_not_default():
    one = case(MHAConfig(num_heads=6, num_kv_heads=2, d_head=4), 3)
    told = describe(one, 0, ("attention", "num_layers"))
    assert told == (
        "attention = MHAConfig(num_heads=6, num_kv_heads=2, d_head=4),\nnum_layers = 3"
    )


def test_pictures_say_what_they_number():
    assert "length = 3" in latent_lab.buffer(8, 3, 2).svg
    seen_by = latent_lab.who_sees(num_keys=7, num_queries=3, padding=2).svg
    assert all(f"stands at {n}" in seen_by for n in (4, 5, 6))
    rows = latent_lab.rows_of_up(num_heads=2, d_nope=3, d_value=2).svg
    assert rows.count(">k2<") == rows.count(">v1<") == 2 and ">v2<" not in rows
