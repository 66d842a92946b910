"""The router: choice, weights, group limit, balance."""

import pytest
import torch

from tiny_lm.config import MoEConfig
from tiny_lm.router import (
    Router,
    expert_load,
    limit_groups,
    max_violation,
    route,
    sequence_loss,
    shares,
)


def _uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _router(**changes) -> Router:
    fields = {"num_experts": 8, "num_shared": 0, "top_k": 2, "d_expert": 4} | changes
    router = Router(MoEConfig(**fields), d_model=6)
    router.weight.data.copy_(_uniform(8, 6) - 0.5)
    return router


def test_route_picks_by_biased_score_and_weighs_by_raw_score():
    scores = torch.tensor([[0.6, 0.5, 0.2]])
    weights, experts = route(scores, torch.tensor([0.0, 0.0, 0.5]), top_k=2)
    assert experts.tolist() == [[2, 0]]
    assert torch.allclose(weights, torch.tensor([[0.2, 0.6]]) / 0.8)


def test_weights_are_non_negative_and_sum_to_one():
    weights, _ = route(_uniform(50, 16), -_uniform(16, seed=1), top_k=4)
    assert (weights >= 0).all()
    assert torch.allclose(weights.sum(-1), torch.ones(50))


def test_groups_are_ranked_by_the_sum_of_their_two_best():
    choice = torch.tensor([[0.9, 0.0, 0.5, 0.6]])  # 0.9 alone loses to 0.5 + 0.6
    limited = limit_groups(choice, num_groups=2, top_groups=1, per_group=2)
    assert limited[0, :2].tolist() == [float("-inf")] * 2
    assert limited[0, 2:].tolist() == choice[0, 2:].tolist()


def test_no_forbidden_expert_wins_when_all_biased_scores_are_negative():
    scores, bias = _uniform(500, 16), torch.full((16,), -2.0)
    _, experts = route(scores, bias, top_k=4, num_groups=4, top_groups=2)
    groups = torch.zeros(500, 4).scatter_(1, experts // 4, 1.0)
    assert groups.sum(-1).max() == 2


def test_the_bias_gets_no_gradient_and_leaves_that_of_the_scores_alone():
    scores = _uniform(5, 8).requires_grad_()
    weights, experts = route(scores, torch.zeros(8), top_k=3)
    weights[:, 0].sum().backward()
    chosen = torch.zeros(5, 8, dtype=torch.bool).scatter_(1, experts, True)
    assert not scores.grad[~chosen].any()
    assert scores.grad[chosen].all()


@pytest.mark.parametrize(
    ("logit", "dtype"),
    [(-120.0, torch.float32), (-18.0, torch.float16), (-120.0, torch.bfloat16)],
)
def test_scores_that_all_underflow_give_equal_shares(logit, dtype):
    logits = torch.full((1, 16), logit, dtype=dtype, requires_grad=True)
    scores = logits.sigmoid()
    assert not scores.any()
    weights, experts = route(scores, torch.zeros(16), 4, 4, 2)
    assert weights.tolist() == [[0.25] * 4]
    loss = sequence_loss(scores.unsqueeze(0), experts.unsqueeze(0))
    assert loss.item() == pytest.approx(1.0, rel=1e-2)  # every expert has its share
    (weights[0, 0] + loss).backward()
    assert logits.grad.isfinite().all()


def test_one_score_that_is_left_takes_all_and_larger_ones_are_shared_as_ever():
    scores = torch.tensor([[0.0, 1e-40, 0.0], [0.2, 0.3, 0.0]])
    assert shares(scores).tolist()[0] == [0.0, 1.0, 0.0]
    assert torch.equal(shares(scores)[1], scores[1] / scores[1].sum())


def test_more_experts_than_can_be_reached_are_refused():
    with pytest.raises(ValueError, match="cannot choose top_k=5 of 4 experts"):
        route(_uniform(1, 8), torch.zeros(8), top_k=5, num_groups=4, top_groups=2)


def test_load_counts_every_choice():
    experts = torch.tensor([[0, 2], [2, 3]])
    assert expert_load(experts, 5).tolist() == [1, 0, 2, 1, 0]


def test_max_violation_is_the_excess_of_the_busiest_over_the_mean():
    assert max_violation(torch.tensor([6, 1, 1, 0])) == 2.0
    assert max_violation(torch.tensor([2, 2])) == 0.0
    assert max_violation(torch.zeros(4)) == 0.0


def test_sequence_loss_by_hand():
    scores = torch.tensor([[[0.5, 0.5], [0.75, 0.25]]])
    experts = torch.tensor([[[0], [0]]])
    # f = [2, 0] and P = [0.625, 0.375]
    assert sequence_loss(scores, experts).item() == pytest.approx(2 * 0.625)


def test_sequence_loss_counts_each_sequence_alone():
    scores = torch.full((2, 4, 2), 0.5)
    scores[0, :, 0], scores[1, :, 1] = 0.9, 0.9
    experts = torch.tensor([[[0]] * 4, [[1]] * 4])
    whole = sequence_loss(scores.reshape(1, 8, 2), experts.reshape(1, 8, 1))
    assert whole.item() == pytest.approx(1.0)  # balanced over the batch
    assert sequence_loss(scores, experts).item() > 1.2  # but in no sequence


def test_the_bias_rises_below_the_mean_load_and_falls_above():
    router = _router(bias_rate=0.25)
    router.update_bias(torch.tensor([9, 1, 5, 5, 5, 5, 5, 5]))
    assert router.bias.tolist() == [-0.25, 0.25, 0, 0, 0, 0, 0, 0]


def test_load_is_counted_while_training_only_and_cleared_by_the_update():
    router, x = _router(), _uniform(2, 3, 6)
    router.eval()(x)
    assert router.load.sum() == 0
    router.train()(x)
    assert router.load.sum() == 2 * 3 * 2
    router.update_bias(router.load)
    assert router.load.sum() == 0


def test_the_route_scale_multiplies_the_weights():
    x = _uniform(2, 3, 6)
    plain, _, _ = _router()(x)
    scaled, _, _ = _router(route_scale=2.5)(x)
    assert torch.allclose(scaled, 2.5 * plain)


def test_the_balance_loss_is_weighed_by_its_factor():
    x = _uniform(2, 3, 6)
    assert _router(balance_loss=0.0)(x)[2] == 0
    one, two = _router(balance_loss=0.1)(x)[2], _router(balance_loss=0.2)(x)[2]
    assert torch.allclose(two, 2 * one)
