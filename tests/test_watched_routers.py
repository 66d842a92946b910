"""Small models whose router is watched: what is still stays, what is seen is so."""

from types import SimpleNamespace

import pytest
import torch

from tiny_lm.course.experiments import routers
from tiny_lm.course.experiments.routers import Watched
from tiny_lm.gpus.mesh import solo
from tiny_lm.step import build_model


@pytest.fixture(autouse=True)
def short_text(monkeypatch):
    """A few kilobytes in place of the standard library."""
    g = torch.Generator().manual_seed(0)
    text = torch.randint(97, 123, (20_000,), dtype=torch.uint8, generator=g)
    monkeypatch.setattr(routers, "texts", lambda: (text, text[:5_000]))


def weights(model) -> dict[str, torch.Tensor]:
    return {name: w.detach().clone() for name, w in model.named_parameters()}


def test_nothing_balances_the_small_model_unless_told():
    assert routers.small().moe.bias_rate == routers.small().moe.balance_loss == 0
    assert routers.small(bias_rate=0.01).moe.bias_rate == 0.01


def test_equal_vectors_are_alike_and_opposite_ones_are_not():
    one = torch.tensor([3.0, 4.0])
    assert routers.alike(torch.stack([one, one])) == pytest.approx(1)
    assert routers.alike(torch.stack([one, -one])) == pytest.approx(0)


def test_what_is_held_still_stays_and_the_rest_learns():
    before = weights(build_model(routers.small(), solo(), 0))
    run = routers.learn(0, steps=2, learns=lambda name: "router" not in name)
    moved = {
        name for name, w in weights(run.model).items() if not w.equal(before[name])
    }
    assert not any("router" in name for name in moved)
    assert any("experts" in name for name in moved)


def test_a_run_may_start_from_the_weights_of_another():
    first = routers.learn(0, steps=2).model
    second = routers.learn(1, steps=1, start=first, learns=lambda n: "router" in n)
    for name, weight in weights(second.model).items():
        assert weight.equal(weights(first)[name]) == ("router" not in name)


def test_without_the_mean_nothing_is_shared_and_the_first_loss_differs_by_routing():
    plain, centred = (
        routers.learn(0, steps=2, without_mean=mean) for mean in (False, True)
    )
    assert plain.log[0]["alike"] > 0.05
    assert centred.log[0]["alike"] == pytest.approx(0, abs=1e-6)
    assert centred.log[0]["load"] != plain.log[0]["load"]


def test_equal_seeds_give_equal_runs():
    one, same, other = (routers.learn(seed, steps=2).violations for seed in (0, 0, 1))
    assert one == same != other


def test_what_a_run_says_of_its_loads():
    log = [{"max_violation": [v], "load": [[8, 1, 0, 7]]} for v in range(60)]
    run = Watched(model=None, log=log)
    assert run.late == sum(range(10, 60)) / 50
    assert run.idle == 1 and run.loads[0] == [8, 1, 0, 7]


def test_a_shared_favourite_disappears_with_the_mean():
    """Two tokens that differ in their second number, experts that like the first."""
    router = SimpleNamespace(
        weight=torch.tensor([[9.0, 0.0], [0.0, 1.0], [0.0, -1.0]]),
        bias=torch.zeros(3),
        config=SimpleNamespace(top_k=1, num_experts=3),
    )
    x = torch.tensor([[1.0, 0.1], [1.0, -0.1]])

    def scores(model, tokens):
        return x @ model.routers[0].weight.T

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(routers, "scores_before_sigmoid", scores)
        model = SimpleNamespace(routers=[router])
        assert routers.violations_of(model, None) == pytest.approx((2.0, 0.5))


def test_scores_are_read_before_the_sigmoid_and_the_model_stays_as_it_was():
    model = routers.learn(0, steps=1).model.train()
    tokens = routers.texts()[0][: 2 * 33].view(2, 33).long()
    scores = routers.scores_before_sigmoid(model, tokens)
    assert scores.shape == (64, 16) and model.training
    assert (scores < 0).any()
