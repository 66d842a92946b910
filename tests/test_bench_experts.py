"""The benchmark of the experts compares layers that do the same."""

import pytest
import torch

from tiny_lm.course.bench import experts as bench

SHAPE = bench.Shape(num_experts=8, d_model=32, d_expert=16, top_k=3)
LAYERS = {
    "ours": bench.our_layer,
    "loop": bench.token_loop,
    "eager": lambda shape: bench.transformers_layer(shape, "eager"),
    "grouped": lambda shape: bench.transformers_layer(shape, "grouped_mm"),
}


def _same_weights(name):
    """A layer with the weights of ours, which all of them keep in our layout."""
    layer = LAYERS[name](SHAPE)
    pairs = zip(layer.parameters(), bench.our_layer(SHAPE).parameters(), strict=True)
    for weight, ours in pairs:
        weight.data.copy_(ours.data)
    return layer


@pytest.mark.parametrize("name", LAYERS)
def test_all_layers_of_experts_give_the_same_and_the_same_gradients(name):
    given = bench.inputs(SHAPE, num_tokens=40)
    results = []
    for layer in (_same_weights(name), bench.our_layer(SHAPE)):
        y = bench.step(layer, given)()
        results.append([y, *(weight.grad for weight in layer.parameters())])
    assert results[0][0].shape == (40, 32) and results[0][0].any()
    for other, ours in zip(*results, strict=True):
        assert torch.allclose(other, ours, atol=1e-5)


def test_a_step_computes_the_gradients_of_tokens_and_weights_too():
    leaves = []

    class Watching(torch.nn.Module):
        def forward(self, given):
            leaves[:] = [given.x, given.weights]
            return given.x * given.weights.sum(-1, keepdim=True)

    bench.step(Watching(), bench.inputs(SHAPE, num_tokens=4))()
    assert all(leaf.grad is not None for leaf in leaves)


def test_the_dense_layer_multiplies_as_much_as_a_token_meets():
    dense = sum(weight.numel() for weight in bench.dense_layer(SHAPE).parameters())
    experts = sum(weight.numel() for weight in bench.our_layer(SHAPE).parameters())
    assert dense * SHAPE.num_experts == experts * SHAPE.top_k


def test_every_token_chooses_top_k_different_experts():
    given = bench.inputs(SHAPE, num_tokens=50)
    assert given.experts.shape == (50, 3)
    assert all(len(set(row)) == 3 for row in given.experts.tolist())
    assert torch.allclose(given.weights.sum(-1), torch.ones(50))
    assert torch.equal(given.first(7).experts, given.experts[:7])


def test_a_comparison_reports_the_limit_and_both_rivals():
    results = bench.compare(SHAPE, num_tokens=128, rounds=1)
    names = "; ".join(result.name for result in results)
    assert all(word in names for word in ("8 experts", "dense", "transformers", "loop"))
    assert all(result.value > 0 for result in results)
    assert results[-1].limit == "from 64 tokens, times 2"
