"""Which inputs are rounded, one product at a time, and weights without masters."""

from dataclasses import replace

import pytest
import torch

from tiny_lm import fp8, fp8_recipes
from tiny_lm.config import FP8Config, TrainConfig, tiny
from tiny_lm.formats import E5M2
from tiny_lm.gpus import mesh
from tiny_lm.layers import PLAIN
from tiny_lm.model import LanguageModel, multiplied_in_fp8
from tiny_lm.quantize import Quantizer, mxfp8
from tiny_lm.scales import OCP_FLOOR, ROUND_UP
from tiny_lm.step import build_model, build_optimizer, train_step

SIZES = {"tile": 32, "block": 32}
ALONE = {"forward": False, "input_gradient": False, "weight_gradient": False}


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X, W, DY = normal(64, 96), normal(128, 96, seed=1), normal(64, 128, seed=2)


def run(config, x=X, weight=W, grad=DY, product=fp8_recipes.products):
    x, weight = x.clone().requires_grad_(), weight.clone().requires_grad_()
    y = product(config).linear(x, weight)
    return y.detach(), *torch.autograd.grad(y, (x, weight), grad)


def recipe(**changes):
    return FP8Config(**(SIZES | changes))


def assert_close(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-4)


# --- definition ---


@pytest.mark.parametrize("name", ALONE)
def test_one_product_alone_rounds_no_other(name):
    exact = X @ W.T, DY @ W, DY.T @ X
    found = run(recipe(**ALONE | {name: True}))
    for key, one, other in zip(ALONE, found, exact, strict=True):
        near = torch.allclose(one, other, rtol=1e-5, atol=1e-4)
        assert near == (key != name)


def test_a_scale_per_tensor_is_one_for_all_three():
    tensor = {name: "tensor" for name in ("activations", "gradients", "weights")}
    q = Quantizer(group=(None, None))
    x = q(X)
    wanted = x @ q(W).T, q(DY) @ q(W), q(DY).T @ q(x)
    assert_close(run(recipe(**tensor)), wanted)


def test_gradients_can_be_e5m2_and_can_share_blocks():
    q, blocks = Quantizer(group=(1, 32)), Quantizer(group=(32, 32))
    wide = Quantizer(E5M2, (1, 32))
    x = q(X)
    along = q(x.T).T
    assert_close(
        run(recipe(gradient_format="e5m2")),
        (x @ blocks(W).T, wide(DY) @ blocks(W), wide(DY.T) @ along),
    )
    assert_close(
        run(recipe(gradients="blocks")),
        (x @ blocks(W).T, blocks(DY) @ blocks(W), blocks(DY).T @ along),
    )


@pytest.mark.parametrize(
    ("scales", "rule"), [("round_up", ROUND_UP), ("ocp_floor", OCP_FLOOR)]
)
def test_mxfp8_rounds_weights_along_what_is_summed_and_x_once(scales, rule):
    q = mxfp8(rule)
    found = run(recipe(weights="tiles", round_twice=False, scales=scales))
    wanted = q(X) @ q(W).T, q(DY) @ q(W.T).T, q(DY.T) @ q(X.T).T
    assert_close(found, wanted)


def test_rounding_x_once_differs_from_twice_in_the_weight_gradient_alone():
    once, twice = (run(recipe(round_twice=t)) for t in (False, True))
    assert torch.equal(once[0], twice[0]) and torch.equal(once[1], twice[1])
    assert not torch.equal(once[2], twice[2])


# --- equivalence ---


def test_the_default_recipe_is_the_published_one():
    for name in ("fp32", "bf16", "fp8"):
        assert recipe(masters=name).is_published
    assert not recipe(scales="round_up").is_published
    found = run(recipe())
    wanted = run(recipe(), product=fp8.products)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_experts_are_rounded_one_by_one():
    config = recipe(weights="tiles", gradients="blocks", scales="round_up")
    given = fp8.products(config)
    weights = torch.stack([W, 100 * W.flip(0)]).requires_grad_()
    ends = torch.tensor([32, 64], dtype=torch.int32)
    x = X.clone().requires_grad_()
    y = given.grouped(x, weights, ends)
    dx, dw = torch.autograd.grad(y, (x, weights), DY)
    for n, part in enumerate((slice(0, 32), slice(32, 64))):
        alone = run(config, X[part], weights[n].detach(), DY[part])
        assert_close((y[part].detach(), dx[part], dw[n]), alone)


def test_gate_and_head_are_fp8_where_the_config_says_so():
    for name in ("gate", "head"):
        given = fp8.products(recipe(**{name: True}))
        assert getattr(given, name) is given.linear
        other = "head" if name == "gate" else "gate"
        assert getattr(given, other) is getattr(PLAIN, other)
    tokens = torch.arange(2 * 33).view(2, 33) % 256
    losses = [
        LanguageModel(replace(tiny(), fp8=recipe(**c))).loss(tokens).total.item()
        for c in ({}, {"gate": True}, {"head": True})
    ]
    assert len(set(losses)) == 3


def test_nothing_but_the_wire_multiplies_as_fp32_does():
    given = fp8.products(recipe(**ALONE))
    assert torch.equal(given.linear(X, W), PLAIN.linear(X, W))
    assert given.row_multiple == 32


# --- masters ---


@pytest.mark.parametrize("masters", ["bf16", "fp8"])
def test_weights_are_kept_as_the_config_says_after_every_step(masters):
    config = replace(tiny(), fp8=recipe(masters=masters))
    model = build_model(config, mesh.solo(), seed=0)
    optimizer = build_optimizer(model, TrainConfig())
    blocks = Quantizer(group=(32, 32))

    def held(weight):
        return blocks(weight) if masters == "fp8" else weight.bfloat16().float()

    tokens = torch.arange(2 * 33).view(2, 33) % 256
    for _ in range(2):
        for weight in multiplied_in_fp8(model):
            torch.testing.assert_close(held(weight), weight.data, rtol=1e-6, atol=0)
        train_step(model, optimizer, tokens, mesh.solo(), clip=1.0)
    assert model.head.weight.bfloat16().float().ne(model.head.weight).any()


def test_an_update_below_half_a_step_is_lost_without_masters():
    weight = torch.nn.Parameter(torch.tensor([[448.0, 1.0]]))
    sgd = torch.optim.SGD([weight], lr=1.0)
    fp8_recipes.hold_weights(sgd, [weight], recipe(masters="fp8"))
    weight.grad = torch.tensor([[0.0, -0.05]])
    for _ in range(100):
        sgd.step()
    assert weight[0, 1].item() == 1.0


def test_multiplied_in_fp8_are_all_matrices_but_embedding_gate_and_head():
    model = LanguageModel(tiny())
    names = {id(p): n for n, p in model.named_parameters()}
    found = {names[id(p)] for p in multiplied_in_fp8(model)}
    left = {n for n, p in model.named_parameters() if p.dim() > 1} - found
    routers = {f"blocks.{n}.ffn.router.weight" for n in (1, 2, 3)}
    assert left == {"embedding.weight", "head.weight"} | routers


# --- message ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scales": "fp16"}, "scales is one of fp32, round_up, ocp_floor, got 'fp16'"),
        ({"weights": "rows"}, "weights is one of tiles, blocks, tensor, got 'rows'"),
        ({"gradient_format": "e2m1"}, "gradient_format is one of e4m3, e5m2"),
        ({"masters": "none"}, "masters is one of fp32, bf16, fp8"),
        (ALONE | {"wire": False}, "nothing is FP8"),
        (ALONE | {"head": True}, "gate and head are FP8 in the products that are"),
        ({"tile": 0}, "tile must be positive"),
    ],
)
def test_what_contradicts_itself_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        recipe(**changes)


def test_a_group_of_nothing_is_refused():
    with pytest.raises(ValueError, match="a group has at least one value"):
        Quantizer(group=(0, 32))
