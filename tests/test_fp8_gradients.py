"""What a recipe makes of a gradient: error, its part that does not cancel, choices."""

import json
from dataclasses import replace

import pytest
import torch

from tiny_lm.course.experiments import fp8_plan, gradients
from tiny_lm.course.experiments.gradients import Gradient, compare, gradient, measure
from tiny_lm.course.experiments.records import RESULTS
from tiny_lm.model import LanguageModel

TINY = fp8_plan.model("tiny")
PLAIN = replace(TINY, fp8=None)
TOKENS = torch.arange(2 * 33).view(2, 33) % 251


def flat(model: LanguageModel) -> torch.Tensor:
    grads = (
        torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()
    )
    return torch.cat([grad.flatten() for grad in grads])


def test_by_hand():
    experts = torch.tensor([[[0, 1], [1, 2], [0, 3], [2, 3]]])
    true = Gradient(torch.tensor([3.0, 4.0]), 2.0, experts)
    other = experts.clone()
    other[0, 3] = torch.tensor([1, 3])
    found = compare(true, Gradient(torch.tensor([6.0, 8.0]), 2.1, other))
    assert found == pytest.approx(
        {"error": 1.0, "along": 1.0, "loss": 0.05, "choices": 0.25}
    )
    across = compare(true, Gradient(torch.tensor([3.0 - 0.4, 4.0 + 0.3]), 2.0, experts))
    assert across["error"] == pytest.approx(0.1)
    assert across["along"] == pytest.approx(0, abs=1e-6) and across["choices"] == 0


def test_it_is_the_gradient_that_training_would_take():
    model = LanguageModel(TINY)  # the wire is part of the recipe, and absent here
    weights = model.state_dict()
    model.loss(TOKENS).total.backward()
    bare = replace(TINY, fp8=replace(TINY.fp8, wire=False))
    assert torch.equal(gradient(bare, weights, TOKENS).row, flat(model))
    assert not torch.equal(gradient(TINY, weights, TOKENS).row, flat(model))


def test_fp32_is_its_own_gradient_and_a_layer_without_experts_chooses_nothing():
    dense = replace(PLAIN, moe=None, num_dense_layers=PLAIN.num_layers)
    weights = LanguageModel(dense).state_dict()
    true = gradient(dense, weights, TOKENS)
    assert true.experts is None
    assert set(compare(true, true).values()) == {0.0}


def test_every_recipe_has_a_number_for_each_batch_and_measure():
    configs = gradients.recipes(
        {name: arm for name, arm in fp8_plan.arms("tiny").items() if name != "wire"}
    )
    assert fp8_plan.PLAIN not in configs and "no masters" not in configs
    some = {name: configs[name] for name in (fp8_plan.FP8, "head")}
    weights = LanguageModel(PLAIN).state_dict()
    batches = [TOKENS, (TOKENS + 7) % 251, TOKENS.flip(1)]
    found, chance = measure(some, weights, batches)
    assert found.keys() == some.keys() and len(chance) == 2
    for of_recipe in found.values():
        assert set(of_recipe) == set(gradients.MEASURES)
        assert all(len(each) == 3 for each in of_recipe.values())
        assert all(0 < error < 0.5 for error in of_recipe["error"])


def test_the_recorded_noise_is_as_large_as_fp8_s_own_error():
    record = json.loads((RESULTS / "fp8_gradients.json").read_text())
    errors = record["gradients"][fp8_plan.FP8]["error"]
    assert sum(errors) / len(errors) == pytest.approx(fp8_plan.NOISE, rel=0.1)
