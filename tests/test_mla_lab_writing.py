"""The lab's rotary key, latent cache, absorption and decoding are the model's own."""

import re
from dataclasses import replace

import pytest
import torch

from tiny_lm import generate
from tiny_lm.config import MLAConfig, tiny_dense
from tiny_lm.course.checks.mla.absorbed import absorbed_attention
from tiny_lm.course.checks.mla.absorbed_cost import expanded
from tiny_lm.course.checks.mla.decode import decode
from tiny_lm.course.checks.mla.memory import latent_memory
from tiny_lm.course.checks.mla.reader import TOKENS, NewCaches, Read, room_in
from tiny_lm.course.checks.mla.rotary import decoupled_scores, draw
from tiny_lm.course.checks.slips import halves
from tiny_lm.course.checks.work import Work
from tiny_lm.course.figures import rotary_key
from tiny_lm.course.figures.style import COLORS
from tiny_lm.layers import rotate
from tiny_lm.mla import LatentAttention
from tiny_lm.model import LanguageModel

SMALL = MLAConfig(
    num_heads=3, d_latent_kv=8, d_latent_q=6, d_nope=4, d_rope=6, d_value=5
)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture
def mla() -> LatentAttention:
    layer = LatentAttention(SMALL, 16, max_len=64).double()
    for seed, weight in enumerate(layer.parameters()):
        weight.data.copy_(0.3 * normal(*weight.shape, seed=seed))
    return layer.requires_grad_(False)


def parts(mla, x):
    """Queries and keys as their matrices make them, content and rotary part."""
    q = mla.q_up(mla.q_norm(mla.q_down(x))).unflatten(-1, (SMALL.num_heads, -1))
    q_nope, q_rope = q.transpose(1, 2).split([SMALL.d_nope, SMALL.d_rope], -1)
    latent, k_rope = mla.kv_down(x).split([SMALL.d_latent_kv, SMALL.d_rope], -1)
    w_uk, _ = mla.up_projections()
    k_nope = torch.einsum("bsc,hnc->bhsn", mla.kv_norm(latent), w_uk)
    return q_nope, q_rope, k_nope, k_rope


def test_decoupled_scores_give_the_models_attention(mla):
    x = normal(2, 9, 16)
    _, w_uv = mla.up_projections()
    latent, _ = mla.compress(x, mla.place(0, 9))
    scores = decoupled_scores(*parts(mla, x), mla.cos, mla.sin)
    future = torch.ones(9, 9).triu(1).bool()
    weights = scores.masked_fill(future, -torch.inf).softmax(-1)
    y = weights @ torch.einsum("bsc,hvc->bhsv", latent, w_uv)
    assert (mla.out(y.transpose(1, 2).flatten(2)) - mla(x)).abs().max() < 1e-10


def test_newest_positions_score_as_they_do_among_all(mla):
    q_nope, q_rope, *keys = parts(mla, normal(2, 9, 16))
    whole = decoupled_scores(q_nope, q_rope, *keys, mla.cos, mla.sin)
    newest = decoupled_scores(
        q_nope[:, :, 6:], q_rope[:, :, 6:], *keys, mla.cos, mla.sin
    )
    assert (newest - whole[:, :, 6:]).abs().max() < 1e-12


@pytest.mark.parametrize("cuts", [[11], [4, 5, 2], [1] * 11])
def test_what_a_token_leaves_is_what_the_models_cache_holds(mla, cuts):
    x, cache, start = normal(2, 11, 16), mla.new_cache(2, 11), 0
    mla(x, cache)
    for rows in x.split(cuts, dim=1):
        norm = mla.kv_norm
        found = latent_memory(
            rows, mla.kv_down.weight, norm.weight, norm.eps, mla.cos, mla.sin, start
        )
        kept = cache.stores[0][:, start : start + rows.shape[1]]
        assert (found - kept).abs().max() < 1e-12
        start += rows.shape[1]


@pytest.mark.parametrize("num", [1, 3, 11])
def test_absorbed_is_the_models_in_both_orders(mla, num):
    x = normal(2, 11, 16)
    queries = mla.queries(x[:, -num:], mla.place(11 - num, num))
    latent, k_rope = mla.compress(x, mla.place(0, 11))
    memory = torch.cat([latent, k_rope], dim=-1)
    hidden = torch.zeros(2, 11, dtype=torch.bool)
    hidden[1, :4] = num < 8  # else some queries would be padding themselves
    ours = absorbed_attention(*queries, memory, *mla.up_projections(), hidden)
    assert (ours - mla.absorbed(*queries, memory, hidden)).abs().max() < 1e-10
    wanted = mla.expanded(*queries, latent, k_rope, hidden)
    assert (ours - wanted).abs().max() < 1e-10


def test_the_long_way_costs_what_the_check_says():
    """One query, 512 latents: expanding takes several times the products."""
    generator = torch.Generator().manual_seed(0)
    given = (1, 4, 1, 16), (1, 4, 1, 4), (1, 512, 28), (4, 16, 24), (4, 5, 24)
    arguments = [torch.randn(*size, generator=generator) for size in given]
    arguments.append(torch.zeros(1, 512, dtype=torch.bool))
    flops = []
    for way in (absorbed_attention, expanded):
        with Work() as work:
            way(*arguments)
        flops.append(work.flops)
    assert flops[0] == 2 * 4 * (24 * (16 + 5) + 512 * (24 + 4 + 24))
    assert flops[1] > 4 * flops[0]


def test_halves_pair_a_number_with_the_one_half_a_width_on():
    x, angle = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([[0.3, 0.8]])
    crossed = [0, 2, 1, 3]
    mixed = rotate(x[:, crossed], angle.cos(), angle.sin())[:, crossed]
    torch.testing.assert_close(halves(x, angle.cos(), angle.sin()), mixed)


def test_drawn_parts_stand_behind_a_prefix():
    generator = torch.Generator().manual_seed(0)
    q_nope, q_rope, k_nope, k_rope, cos, sin = draw(generator, 2, 3, 4, 5, 6, 8)
    assert q_nope.shape == (2, 3, 4, 6) and q_rope.shape == (2, 3, 4, 8)
    assert k_nope.shape == (2, 3, 9, 6) and k_rope.shape == (2, 9, 8)
    assert len(cos) == len(sin) > 9


# ---- decoding


def test_the_stand_in_bets_on_all_that_it_remembers():
    read, caches = Read(), NewCaches()(5)
    logits = read(torch.tensor([3, 1, 4]), 0, caches)
    assert logits.argmax(-1).tolist() == [4, 8, 23 % TOKENS]
    assert read(torch.tensor([1]), 3, caches).argmax() == (23 + 4 * 2) % TOKENS
    assert read.calls(last=9) == "0 to 2, then 3"
    assert read.calls(last=3) == "0 to 2"  # the last one need not be read
    assert read.found == [0, 3]


@pytest.mark.parametrize(
    "tokens, caches, says",
    [
        (torch.tensor(3), NewCaches()(2), r"shape \(n,\), got \(\)"),
        (torch.tensor([[3]]), NewCaches()(2), r"got \(1, 1\)"),
        (torch.tensor([3.0]), NewCaches()(2), "got torch.float32"),
        (torch.tensor([3]), [], "caches that new_caches made"),
        (torch.tensor([3]), NewCaches()(2)[:1], "caches that new_caches made"),
    ],
)
def test_the_stand_in_takes_what_a_model_takes(tokens, caches, says):
    with pytest.raises(TypeError, match=says):
        Read()(tokens, 0, caches)


def test_the_stand_in_says_where_room_was_short():
    new_caches = NewCaches()
    Read()(torch.tensor([1, 2]), 0, new_caches(2))
    assert room_in(new_caches.made) == "enough"
    Read()(torch.tensor([1, 2, 3]), 0, new_caches(2))
    assert room_in(new_caches.made) == "for 2 tokens, and 3 came"


def test_decoding_writes_what_the_package_writes_without_dice():
    config = replace(
        tiny_dense(), num_layers=2, num_dense_layers=2, attention=SMALL, init_std=0.3
    )
    model = LanguageModel(config)

    @torch.no_grad()
    def read(tokens, start, caches):
        x = model.embedding(tokens)[None]
        for block, cache in zip(model.blocks, caches, strict=True):
            x, _ = block(x, cache, block.attention.place(start, len(tokens)))
        return model.head(model.norm(x))[0]

    def new_caches(room):
        return [block.attention.new_cache(1, room) for block in model.blocks]

    prompt = torch.arange(65, 75)
    found = decode(read, new_caches, prompt, 30)
    wanted = [*generate.stream(model, prompt, 30, temperature=1e-6)]
    assert found.tolist() == wanted
    assert len(set(wanted)) > 2  # it did not only repeat itself


# ---- pictures


def words(drawing) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", drawing.svg)


def test_every_head_has_its_query_and_its_content_key():
    shown = words(rotary_key.two_parts(num_heads=2))
    assert {"head 0", "head 1", "q0", "q1", "k0", "k1"} <= set(shown)
    assert "head 2" not in shown


def test_rows_of_the_cache_are_green_where_they_are_new():
    drawing = rotary_key.rows(prefix=3, new=2)
    assert {"0", "4", "there before", "new, start = 3"} <= set(words(drawing))
    green = re.findall(f"fill: {COLORS['mla']}", drawing.svg, re.IGNORECASE)
    assert len(green) == 2 * 2  # a latent and a key for each new position
    assert "there before" not in words(rotary_key.rows(prefix=0, new=2))
