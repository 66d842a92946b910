"""A model in another precision, in a context, under other defaults of torch's."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from tiny_lm.config import MoEConfig, tiny, tiny_dense
from tiny_lm.data import Batches, EvalBatches
from tiny_lm.generate import generate
from tiny_lm.gpus import mesh
from tiny_lm.layers import rotary_table, rotate
from tiny_lm.matmul import grouped_linear, grouped_loop
from tiny_lm.model import LanguageModel
from tiny_lm.moe import MoE
from tiny_lm.recipe import TrainConfig
from tiny_lm.step import build_model, build_optimizer, train_step
from tiny_lm.train import learning_rate

CONFIGS = {
    "tiny": replace(tiny(), num_mtp=1),
    "no fp8": replace(tiny(), fp8=None),
    "dense": tiny_dense(),
}


def _tokens(seq_len: int = 33) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(256, (2, seq_len), generator=generator, device="cpu")


@contextmanager
def _default(dtype=None, device=None) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype or before)
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
        torch.set_default_device(None)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_nearly_the_same_loss_and_gradients(name, dtype):
    model = LanguageModel(CONFIGS[name])
    half = copy.deepcopy(model).to(dtype)
    losses = [one.loss(_tokens()) for one in (model, half)]
    assert losses[1].total.item() == pytest.approx(losses[0].total.item(), rel=3e-3)
    assert losses[1].total.dtype == torch.float32  # steps of 1/64 would hide learning
    for loss in losses:
        loss.total.backward()
    a, b = (one.head.weight.grad.float() for one in (model, half))
    # FP8 rounds what half precision has moved to the other side of a step.
    assert (a - b).norm() / a.norm() < (0.15 if CONFIGS[name].fp8 else 0.05)
    assert all(p.grad.isfinite().all() for p in half.parameters())


def test_a_model_in_bf16_trains_and_writes():
    config = replace(CONFIGS["tiny"], num_layers=2)
    model = build_model(config, mesh.solo(), seed=0).bfloat16()
    optimizer = build_optimizer(model, TrainConfig())
    losses = [
        train_step(model, optimizer, _tokens(), mesh.solo(), 1.0)["loss"]
        for _ in range(4)
    ]
    assert losses[-1] < losses[0] - 0.1
    assert len(generate(model, "def ", 3).encode()) >= 3


def test_angles_and_balance_biases_are_never_rounded():
    model = LanguageModel(tiny())
    router = model.routers[0]
    router.bias += 0.3
    angles = model.blocks[0].attention.cos.clone()
    for change in (model.bfloat16, model.half, model.double, model.float):
        change()
        assert torch.equal(model.blocks[0].attention.cos, angles)
        router.update_bias(torch.arange(16))
    assert router.bias.dtype == torch.float32
    assert router.bias[0].item() == pytest.approx(0.3 + 4 * tiny().moe.bias_rate)
    assert model.to("meta").blocks[0].attention.cos.device.type == "meta"


@pytest.mark.parametrize("name", ["tiny", "dense"])
def test_attention_alone_keeps_its_angles_too(name):
    attention = LanguageModel(CONFIGS[name]).blocks[0].attention
    angles = attention.sin.clone()
    assert torch.equal(attention.bfloat16().sin, angles)


def test_far_positions_are_told_apart_in_half_precision():
    cos, sin = (table.float() for table in rotary_table(16, 4096))
    x = torch.ones(4096, 16)
    turned = rotate(x.bfloat16(), cos, sin)
    assert turned.dtype == torch.bfloat16
    assert (turned.float() - rotate(x, cos, sin)).abs().max() < 1e-2


def test_scores_of_experts_are_in_full_precision_whatever_comes_in():
    moe = MoE(MoEConfig(num_experts=8, num_shared=0, top_k=2, d_expert=8), 8)
    for p in moe.parameters():
        torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(0))
    x = torch.randn(1, 5, 8, generator=torch.Generator().manual_seed(1)).bfloat16()
    moe.bfloat16()
    weights, experts, _ = moe.router(x)
    exact = torch.sigmoid(x.float() @ moe.router.weight.float().T).gather(-1, experts)
    assert torch.equal(weights, exact / exact.sum(-1, keepdim=True))
    assert moe(x)[0].dtype == torch.bfloat16


@pytest.mark.parametrize("name", CONFIGS)
def test_autocast_is_refused_at_the_door(name):
    model = LanguageModel(CONFIGS[name])
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.raises(ValueError, match="autocast is on, and this model chooses"):
            model.loss(_tokens())
        with pytest.raises(ValueError, match="autocast is on"):
            generate(model, "x", 1)
        if name != "dense":
            with pytest.raises(ValueError, match="autocast is on"):
                model.blocks[-1].ffn(torch.ones(1, 2, 128))
    model.loss(_tokens())


def test_a_default_dtype_makes_a_model_of_that_dtype_with_the_same_weights():
    plain = LanguageModel(CONFIGS["tiny"], seed=4)
    with _default(dtype=torch.float64):
        wide = LanguageModel(CONFIGS["tiny"], seed=4)
        loss = wide.loss(_tokens()).total.item()
    for (name, a), b in zip(plain.named_parameters(), wide.parameters(), strict=True):
        assert b.dtype == torch.float64 and torch.equal(a, b.float()), name
    assert loss == pytest.approx(plain.loss(_tokens()).total.item(), rel=1e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_default_device_changes_nothing_of_a_model_that_lives_elsewhere(name):
    """`meta` stands for any device that is not the model's."""
    model = LanguageModel(CONFIGS[name])
    optimizer = build_optimizer(model, TrainConfig())
    tokens, text = _tokens(), torch.arange(256, dtype=torch.uint8)
    wanted = model.loss(tokens).total.item()
    batches = Batches(text, 2, 8), EvalBatches(text, 2, 8, 2)
    with _default(device="meta"):
        assert model.loss(tokens).total.item() == wanted
        assert train_step(model, optimizer, tokens, mesh.solo(), 1.0)["loss"] > 0
        assert learning_rate(50, TrainConfig()) > 0
        again = Batches(text, 2, 8), EvalBatches(text, 2, 8, 2)
        for a, b in zip(batches, again, strict=True):
            assert torch.equal(a.at(1), b.at(1))


@pytest.mark.parametrize("widths", [(6, 8), (8, 6), (3, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_of_odd_widths_are_made_one_by_one(widths, dtype):
    generator = torch.Generator().manual_seed(0)
    d_in, d_out = widths
    rows = torch.randn(7, d_in, generator=generator).to(dtype)
    weight = torch.randn(3, d_out, d_in, generator=generator).to(dtype)
    ends = torch.tensor([2, 2, 7], dtype=torch.int32)
    assert torch.equal(
        grouped_linear(rows, weight, ends), grouped_loop(rows, weight, ends)
    )
