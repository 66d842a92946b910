"""The router against two others: that of `transformers`, and the paper's sums in loops.

Both routers get the same logits (the weights are a unit matrix) and the same bias.
`transformers` ranks a group by its two best, we by its K_r / M best: the same where
K_r = 2 M, as in DeepSeek-V3, and where no group is left out.
"""

import itertools
import statistics

import pytest
import torch
from torch import Tensor

from tiny_lm.config import MoEConfig
from tiny_lm.router import Router, limit_groups, route, sequence_loss

SHAPES = [  # experts, chosen, groups, groups kept
    (256, 8, 8, 4),
    (16, 4, 4, 2),
    (64, 4, 8, 2),
    (32, 6, 4, 3),
    (12, 2, 3, 1),
    (8, 2, 4, 1),
    (16, 4, 1, 1),
    (160, 6, 1, 1),
    (24, 5, 4, 4),
    (6, 2, 1, 1),
]
BIASES = {
    "none": lambda e, g: torch.zeros(e),
    "small": lambda e, g: 0.1 * torch.randn(e, generator=g),
    "ten": lambda e, g: 10.0 * (2 * torch.randint(2, (e,), generator=g) - 1),
    "negative": lambda e, g: -0.9 + 0.3 * torch.randn(e, generator=g),
}
TOKENS, DRAWS = 100, 25  # x 10 shapes x 4 kinds of bias: 100,000 tokens, 1000 biases


def _their_router(shape: tuple[int, ...], bias: Tensor, scale: float = 2.5):
    from transformers import DeepseekV3Config
    from transformers.models.deepseek_v3.modeling_deepseek_v3 import (
        DeepseekV3TopkRouter,
    )

    experts, top_k, groups, kept = shape
    config = DeepseekV3Config(
        hidden_size=experts,
        n_routed_experts=experts,
        num_experts_per_tok=top_k,
        n_group=groups,
        topk_group=kept,
        routed_scaling_factor=scale,
        norm_topk_prob=True,
    )
    router = DeepseekV3TopkRouter(config)
    router.weight.data.copy_(torch.eye(experts))
    router.e_score_correction_bias.copy_(bias)
    return router


def _our_router(shape: tuple[int, ...], bias: Tensor, scale: float = 2.5) -> Router:
    experts, top_k, groups, kept = shape
    config = MoEConfig(
        num_experts=experts,
        num_shared=0,
        top_k=top_k,
        d_expert=1,
        num_groups=groups,
        top_groups=kept,
        route_scale=scale,
    )
    router = Router(config, d_model=experts)
    router.weight.data.copy_(torch.eye(experts))
    router.bias.copy_(bias)
    return router


@torch.no_grad()
def _both(shape, bias, logits, scale=2.5) -> list[tuple[Tensor, Tensor]]:
    """(weights, experts) of both routers, a token's experts in order of their ids."""
    ours = _our_router(shape, bias, scale)(logits[None])[:2]
    theirs = _their_router(shape, bias, scale)(logits)[1:]
    found = []
    for weights, experts in ([part[0] for part in ours], theirs):
        experts, order = experts.sort(-1)
        found.append((weights.gather(-1, order), experts))
    return found


def _kept_groups(choice: Tensor, shape: tuple[int, ...]) -> list[Tensor]:
    """Masks [N, E] of all ways to keep the best groups, and [N] where each is valid."""
    experts, _, groups, kept = shape
    strength = choice.unflatten(-1, (groups, -1)).topk(2).values.sum(-1)
    worst_kept = strength.sort(descending=True).values[:, kept - 1 : kept]
    ways = []
    for combination in itertools.combinations(range(groups), kept):
        inside = torch.zeros(groups, dtype=torch.bool)
        inside[list(combination)] = True
        valid = (strength[:, inside] >= worst_kept).all(-1)
        valid &= (strength[:, ~inside] <= worst_kept).all(-1)
        ways.append((inside.repeat_interleave(experts // groups), valid))
    return ways


def _is_best(choice: Tensor, experts: Tensor, shape: tuple[int, ...]) -> Tensor:
    """[N], whether the experts are a best choice under some way to keep groups."""
    top_k = shape[1]
    best = torch.zeros(len(choice), dtype=torch.bool)
    for inside, valid in _kept_groups(choice, shape):
        reach = choice.masked_fill(~inside, float("-inf"))
        wanted, got = reach.topk(top_k).values, reach.gather(-1, experts)
        best |= valid & (wanted == got.sort(descending=True).values).all(-1)
    return best


def _has_tie(choice: Tensor, shape: tuple[int, ...]) -> Tensor:
    """[N], whether two experts, or two groups, are equally good."""
    strength = choice.unflatten(-1, (shape[2], -1)).topk(2).values.sum(-1)
    return sum((x.sort().values.diff() == 0).any(-1) for x in (choice, strength)) > 0


@pytest.mark.parametrize("kind", BIASES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_route_agrees_with_transformers(shape, kind):
    generator = torch.Generator().manual_seed(shape[0] * 10 + len(kind))
    untied = 0
    for _ in range(DRAWS):
        bias = BIASES[kind](shape[0], generator)
        logits = 2 * torch.randn(TOKENS, shape[0], generator=generator)
        (weights, experts), (their_weights, their_experts) = _both(shape, bias, logits)
        clear = ~_has_tie(torch.sigmoid(logits) + bias, shape)
        untied += int(clear.sum())
        assert torch.equal(experts[clear], their_experts[clear])
        same = (experts == their_experts).all(-1)
        # The k scores may be added in another order: at most k roundings apart.
        bound = 0.0 if shape[1] <= 2 else shape[1] * 2.0**-23
        torch.testing.assert_close(
            weights[same], their_weights[same], rtol=bound, atol=0.0
        )
        assert weights.isfinite().all()
    # Ten plus a score keeps 20 bits of it, so ties are common there, and rare else.
    assert untied >= (0.5 if shape[0] > 100 else 0.99) * TOKENS * DRAWS


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_among_equals_both_routers_make_a_best_choice(shape):
    """Which of two equal experts is taken is promised by neither of them."""
    generator = torch.Generator().manual_seed(shape[0])
    logits = torch.randint(-1, 2, (500, shape[0]), generator=generator).float()
    bias = torch.randint(-1, 1, (shape[0],), generator=generator) / 4
    choice = torch.sigmoid(logits) + bias
    assert _has_tie(choice, shape).float().mean() > 0.9
    for weights, experts in _both(shape, bias, logits):
        assert _is_best(choice, experts, shape).all()
        assert (experts.diff() > 0).all(), "no expert twice"
        torch.testing.assert_close(weights.sum(-1), torch.full((500,), 2.5))


def test_a_best_choice_is_told_from_a_good_one():
    choice = torch.tensor([[0.9, 0.0, 0.5, 0.6], [0.5, 0.5, 0.5, 0.5]])
    shape = (4, 2, 2, 1)
    assert _is_best(choice, torch.tensor([[2, 3], [0, 1]]), shape).all()
    assert not _is_best(choice, torch.tensor([[0, 3], [0, 2]]), shape).any()


def test_an_expert_with_a_bias_of_minus_infinity_is_switched_off_in_both():
    shape = (16, 4, 4, 2)
    bias = torch.zeros(16)
    bias[[3, 5]] = float("-inf")
    logits = torch.randn(1000, 16, generator=torch.Generator().manual_seed(0))
    (weights, experts), (_, their_experts) = _both(shape, bias, logits)
    assert torch.equal(experts, their_experts)
    assert weights.isfinite().all()
    assert not torch.isin(experts, torch.tensor([3, 5])).any()


def test_a_mask_of_zero_would_be_noticed_here():
    shape, generator = (16, 4, 4, 2), torch.Generator().manual_seed(0)
    bias = BIASES["negative"](16, generator)
    logits = torch.randn(1000, 16, generator=generator)
    choice = torch.sigmoid(logits) + bias
    zero = limit_groups(choice, 4, 2, 2).nan_to_num(neginf=0.0)
    wrong = zero.topk(4).indices.sort(-1).values
    right = _both(shape, bias, logits)[1][1]
    assert (wrong != right).any(-1).float().mean() > 0.5


@pytest.mark.parametrize("shape", [(12, 3, 4, 1), (12, 2, 3, 2), (16, 6, 4, 2)])
def test_a_group_counts_its_top_k_over_top_groups_best(shape):
    """Where K_r / M is not 2: in loops, over Python numbers."""
    num_experts, top_k, groups, kept = shape
    generator = torch.Generator().manual_seed(1)
    scores = torch.rand(200, num_experts, generator=generator)
    bias = torch.rand(num_experts, generator=generator) - 0.9
    weights, experts = route(scores, bias, top_k, groups, kept)
    size, counted = num_experts // groups, top_k // kept
    for row, got, weight in zip(scores, experts.tolist(), weights, strict=True):
        biased = (row + bias).tolist()
        strength = [
            sum(sorted(biased[g * size : (g + 1) * size])[-counted:])
            for g in range(groups)
        ]
        best = sorted(range(groups), key=lambda g: -strength[g])[:kept]
        open_experts = [e for e in range(num_experts) if e // size in best]
        assert got == sorted(open_experts, key=lambda e: -biased[e])[:top_k]
        torch.testing.assert_close(weight, row[got] / row[got].sum())


def test_sequence_loss_is_equations_17_to_20_written_out():
    """f_i = N_r / (K_r T) sum_t 1[i chosen], P_i = 1/T sum_t s_it / sum_j s_jt."""
    generator = torch.Generator().manual_seed(2)
    scores = torch.rand(3, 7, 6, generator=generator, dtype=torch.float64)
    bias = torch.rand(6, generator=generator, dtype=torch.float64)
    experts = (scores + bias).topk(2).indices
    losses = []
    for rows, picked in zip(scores.tolist(), experts.tolist(), strict=True):
        total = 0.0
        for i in range(6):
            f = 6 / (2 * 7) * sum(i in chosen for chosen in picked)
            total += f * sum(row[i] / sum(row) for row in rows) / 7
        losses.append(total)
    got = sequence_loss(scores, experts).item()
    assert got == pytest.approx(statistics.fmean(losses), rel=1e-12)
    raw = sequence_loss(scores, scores.topk(2).indices).item()
    assert raw != pytest.approx(got), "the real routing counts, bias included"


def test_sequence_loss_has_the_gradient_of_p_alone():
    """Counting has no slope: dL/ds_it = 1/(B T) (f_i - sum_j f_j s_jt / S_t) / S_t."""
    generator = torch.Generator().manual_seed(3)
    scores = torch.rand(2, 5, 4, generator=generator, dtype=torch.float64)
    experts = scores.topk(2).indices
    sequence_loss(scores.requires_grad_(), experts).backward()
    for b, t, i in itertools.product(range(2), range(5), range(4)):
        f = [4 / (2 * 5) * int((experts[b] == j).sum()) for j in range(4)]
        s = scores[b, t].tolist()
        mean = sum(f[j] * s[j] for j in range(4)) / sum(s)
        wanted = (f[i] - mean) / sum(s) / 10
        assert scores.grad[b, t, i].item() == pytest.approx(wanted, abs=1e-12)


def test_update_bias_is_a_step_of_one_size_towards_the_mean_load():
    """b_i + rate where load_i < mean, b_i - rate where above, unmoved at the mean."""
    router = _our_router((8, 2, 1, 1), torch.linspace(-1, 1, 8))
    rate, before = router.config.bias_rate, router.bias.tolist()
    load = [1000, 0, 125, 124, 126, 125, 0, 0]
    mean = sum(load) / 8  # 187.5: above all but one
    router.update_bias(torch.tensor(load))
    for was, now, n in zip(before, router.bias.tolist(), load, strict=True):
        step = rate if n < mean else -rate if n > mean else 0.0
        assert now == pytest.approx(was + step, abs=1e-7)
    assert rate == 0.001, "as published"


def test_an_expert_at_the_mean_load_keeps_its_bias_exactly():
    router = _our_router((4, 2, 1, 1), torch.tensor([0.1, 0.2, 0.3, 0.4]))
    before = router.bias.clone()
    router.update_bias(torch.tensor([7, 7, 7, 7]))
    assert torch.equal(router.bias, before)
