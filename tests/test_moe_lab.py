"""The lab's own definitions of routing and of experts agree with the model's."""

import re

import pytest
import torch

from tiny_lm import moe, router
from tiny_lm.config import MoEConfig
from tiny_lm.course.checks.aid import solutions_folder
from tiny_lm.course.checks.expect import Mismatch
from tiny_lm.course.checks.moe import stacks
from tiny_lm.course.checks.moe.choices import EXPERTS, WEIGHTS, by_token, expert_ids
from tiny_lm.course.checks.moe.experts import run_experts
from tiny_lm.course.checks.moe.gate import gate
from tiny_lm.course.checks.moe.groups import limit_groups
from tiny_lm.course.checks.moe.layer import moe_layer
from tiny_lm.course.checks.moe.score import score_and_choose
from tiny_lm.course.checks.moe.work import told
from tiny_lm.course.checks.work import Work
from tiny_lm.layers import grouped_linear


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def uniform(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def test_compared_models_train_as_long_and_none_for_a_handful_of_steps():
    text = (solutions_folder() / "02_moe.py").read_text(encoding="utf-8")
    calls = re.findall(r"= train\((\w+), (?:steps=)?(\d+)", text)
    steps = {name: int(number) for name, number in calls}
    assert steps.keys() == {"alone", "even", "lm"}
    assert steps["alone"] == steps["even"]
    assert min(steps.values()) >= 100


# ---- the references are the model's own


@pytest.mark.parametrize("seed", range(5))
def test_scores_and_gate_are_those_of_the_router(seed):
    config = MoEConfig(
        num_experts=12, num_shared=0, top_k=3, d_expert=4, route_scale=2.5
    )
    model = router.Router(config, d_model=8)
    with torch.no_grad():
        model.weight.copy_(normal(seed, 12, 8))
        model.bias.copy_(normal(seed + 1, 12))
    x = normal(seed + 2, 1, 200, 8)
    scores, best = score_and_choose(x[0], model.weight, 3)
    weights, experts = gate(scores, model.bias, 3, 2.5)
    wanted_weights, wanted_experts, _ = model(x)
    assert torch.equal(experts, wanted_experts[0])
    torch.testing.assert_close(weights, wanted_weights[0])
    assert torch.equal(best, router.route(scores, torch.zeros(12), 3)[1])


@pytest.mark.parametrize("top_groups, per_group", [(1, 1), (2, 2), (4, 3), (8, 4)])
def test_limited_groups_are_those_of_the_router(top_groups, per_group):
    choice = normal(top_groups, 2000, 32)
    ours = choice + limit_groups(choice, 8, top_groups, per_group)
    assert torch.equal(ours, router.limit_groups(choice, 8, top_groups, per_group))


@pytest.mark.parametrize("seed", range(5))
def test_experts_compute_what_the_models_experts_do(seed):
    experts = uniform(seed, 100, 8).topk(3).indices
    arguments = stacks.random(
        torch.Generator().manual_seed(seed), experts, num_experts=8
    )
    x, _, weights, gate_up, down = arguments
    model = moe.Experts(8, d_model=8, d_expert=12, grouped=grouped_linear)
    with torch.no_grad():
        model.gate_up.copy_(gate_up)
        model.down.copy_(down)
    dispatcher = moe.LocalDispatcher(8)
    rows, ends, way_back = dispatcher.dispatch(x, experts)
    wanted = dispatcher.combine(model(rows, ends), weights, way_back)
    torch.testing.assert_close(run_experts(*arguments), wanted)


# ---- what the checks are made of


def test_hand_made_experts_multiply_by_their_factors():
    x, (gate_up, down) = stacks.tokens(1.0, 2.0), stacks.factors(3.0, 50.0)
    ones = torch.ones(2, 1)
    y = run_experts(x, torch.tensor([[1], [0]]), ones, gate_up, down)
    wanted = torch.tensor([[50.0, 0, 0, 0], [6.0, 0, 0, 0]])
    torch.testing.assert_close(y, wanted)


def test_even_choices_give_each_expert_as_many_tokens():
    experts = stacks.even_choices(64)
    assert experts.shape == (64, 2)
    assert experts.flatten().bincount().tolist() == [32] * 4
    assert (experts[:, 0] != experts[:, 1]).all()


def test_pairs_of_expert_and_weight_are_compared_in_any_order():
    ids, weights = torch.tensor([[2, 0]]), torch.tensor([[0.6, 0.4]])
    choice = torch.tensor([[0.4, 0.1, 0.6]])
    one = by_token(weights, ids, choice)
    other = by_token(weights.flip(-1), ids.flip(-1), choice)
    assert all(torch.equal(one[name], other[name]) for name in (EXPERTS, WEIGHTS))
    swapped = by_token(weights.flip(-1), ids, choice)
    assert not torch.equal(one[WEIGHTS], swapped[WEIGHTS])


@pytest.mark.parametrize(
    "ids, says",
    [
        (torch.tensor([[0, 4]]), "none is number 4"),
        (torch.tensor([[-1, 0]]), "none is number -1"),
        (torch.tensor([[1, 1]]), "more than once"),
    ],
)
def test_what_is_no_expert_id_is_told(ids, says):
    with pytest.raises(Mismatch) as failure:
        expert_ids(ids, num_experts=4)
    assert says in failure.value.because


def test_work_counts_calls_flops_and_the_largest_result():
    a, b = torch.ones(3, 4), torch.ones(4, 5)
    with Work() as work:
        (a @ b).sum()
    assert work.calls == 2
    assert work.flops == 2 * 3 * 4 * 5
    assert work.largest == 15


@pytest.mark.parametrize(
    "multiply",
    [
        lambda rows, w: torch.bmm(rows[None], w[:1].mT),
        lambda rows, w: torch.einsum("nd,fd->nf", rows, w[0]),
        lambda rows, w: torch.nn.functional.linear(rows, w[0]),
        lambda rows, w: torch.addmm(torch.zeros(6, 8), rows, w[0].T),
        lambda rows, w: torch.stack([w[0] @ row for row in rows]),
        lambda rows, w: grouped_linear(rows, w, torch.tensor([2, 6]).int()),
    ],
    ids=["bmm", "einsum", "linear", "addmm", "by vector", "grouped"],
)
def test_work_finds_the_flops_however_a_product_is_written(multiply):
    with Work() as work:
        multiply(torch.ones(6, 4), torch.ones(2, 8, 4))
    assert work.flops == 2 * 6 * 4 * 8


def counted(calls: int = 50, flops: int = 1000, largest: int = 6144) -> Work:
    work = Work()
    work.calls, work.flops, work.largest = calls, flops, largest
    return work


def test_work_is_told_in_words_that_can_be_compared():
    fair = told(counted(), counted(), fair_flops=1000, row=24)
    assert list(fair.values()) == ["no more for twice the tokens", "fair", "of rows"]
    for whole, says in (
        (counted(calls=100), "grow with the number of tokens"),
        (counted(flops=2000), "twice as many"),
        (counted(flops=9000), "many times that"),
        (counted(largest=50_000), "far larger than all rows together"),
    ):
        words = told(counted(), whole, fair_flops=1000, row=24).values()
        assert [word for word in words if word not in fair.values()] == [says]


@pytest.mark.parametrize("num_shared", [0, 1])
def test_the_layer_is_the_models_without_its_shared_expert(num_shared):
    config = MoEConfig(
        num_experts=16,
        num_shared=num_shared,
        top_k=4,
        d_expert=8,
        num_groups=4,
        top_groups=2,
        route_scale=2.5,
        balance_loss=1.0,
    )
    model = moe.MoE(config, d_model=8)
    for number, weight in enumerate(model.parameters()):
        torch.nn.init.normal_(weight, generator=torch.Generator().manual_seed(number))
    model.router.bias.copy_(normal(7, 16))
    x = normal(8, 3, 20, 8)
    experts = model.experts
    y, ids, balance = moe_layer(
        x,
        model.router.weight,
        model.router.bias,
        experts.gate_up,
        experts.down,
        4,
        4,
        2,
        2.5,
    )
    wanted, wanted_balance = model(x)
    shared = model.shared(x) if num_shared else 0.0
    torch.testing.assert_close(y + shared, wanted)
    torch.testing.assert_close(balance, wanted_balance)
    assert torch.equal(ids, model.router(x)[1])
