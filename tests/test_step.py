"""A step: equal on any number of ranks, equal from the same seed."""

from dataclasses import replace

import pytest
import torch

from tiny_lm.config import ModelConfig, TrainConfig, preset
from tiny_lm.gpus import comm, mesh
from tiny_lm.gpus.launch import run_ranks
from tiny_lm.model import is_expert
from tiny_lm.parallel import shard
from tiny_lm.step import build_model, build_optimizer, train_step

TRAINING = TrainConfig(steps=3, batch_size=4, seq_len=32, warmup_steps=1)


def _plain() -> ModelConfig:
    return replace(preset("tiny"), fp8=None)


def _batch(batch_size: int = 8, seq_len: int = 32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(256, (batch_size, seq_len + 1), generator=generator)


def _skew(model: torch.nn.Module) -> None:
    """Let expert 3 be chosen by everyone, and experts 8 to 11, a rank of 4, by none."""
    for router in model.routers:
        router.bias[3] += 10.0
        router.bias[8:12] -= 10.0


def _gradients(rank: int, config: ModelConfig) -> tuple[float, dict]:
    """Loss and every gradient of the whole model, each rank on its own sequences."""
    group = mesh.world()
    model = build_model(config, group, seed=1)
    _skew(model)
    tokens = _batch().chunk(group.size)[group.rank]
    loss = model.loss(tokens).total / group.size
    loss.backward()
    shard.sum_gradients(model, group, is_expert)
    gradients = {
        name: comm.all_gather(p.grad, group) if is_expert(name) else p.grad
        for name, p in model.named_parameters()
    }
    return comm.all_reduce(loss.detach(), group).item(), gradients


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_loss_and_every_gradient_are_the_same_on_any_number_of_ranks(num_ranks):
    config = replace(_plain(), num_mtp=1)
    loss, gradients = _gradients(0, config)
    sharded = run_ranks(num_ranks, _gradients, config)
    assert not gradients["blocks.2.ffn.experts.gate_up"][8:12].any()
    assert gradients["blocks.2.ffn.experts.gate_up"][3].any()
    for sharded_loss, sharded_gradients in sharded:
        assert sharded_loss == pytest.approx(loss, abs=1e-5)
        for name, gradient in gradients.items():
            scale = gradient.abs().max().clamp(min=1e-3)
            difference = (sharded_gradients[name] - gradient).abs().max()
            assert difference / scale < 1e-5, name


def test_with_fp8_ranks_differ_by_no_more_than_rounding_does():
    # Wgrad's tiles lie along the tokens and so depend on who holds them, and results
    # come home as BF16: the yardstick is what FP8 changes against FP32 on one rank.
    loss, gradients = _gradients(0, preset("tiny"))
    _, exact = _gradients(0, _plain())
    sharded_loss, sharded = run_ranks(4, _gradients, preset("tiny"))[0]
    assert sharded_loss == pytest.approx(loss, rel=1e-3)
    for name, gradient in gradients.items():
        norm = exact[name].norm()
        rounding = (gradient - exact[name]).norm() / norm
        assert (sharded[name] - gradient).norm() / norm < max(rounding, 1e-2), name


def _two_steps(rank: int, config: ModelConfig) -> tuple[list[float], torch.Tensor]:
    group = mesh.world()
    model = build_model(config, group, seed=2)
    optimizer = build_optimizer(model, TRAINING)
    tokens = _batch().chunk(group.size)[group.rank]
    losses = [
        train_step(model, optimizer, tokens, group, clip=1.0)["loss"] for _ in range(3)
    ]
    return losses, torch.stack([router.bias for router in model.routers])


@pytest.mark.parametrize("name", ["tiny", "tiny_dense"])
def test_the_same_seed_gives_the_same_loss_bit_for_bit(name):
    config = preset(name)
    if name == "tiny_dense":
        losses = _two_steps_dense(config)
        assert losses == _two_steps_dense(config)
        return
    assert _two_steps(0, config)[0] == _two_steps(0, config)[0]
    assert (
        run_ranks(2, _two_steps, config)[0][0] == run_ranks(2, _two_steps, config)[0][0]
    )


def _two_steps_dense(config: ModelConfig) -> list[float]:
    model = build_model(config, mesh.solo(), seed=2)
    optimizer = build_optimizer(model, TRAINING)
    return [
        train_step(model, optimizer, _batch(), mesh.solo(), clip=1.0)["loss"]
        for _ in range(3)
    ]


def _reported(rank: int, config: ModelConfig) -> list[list[float]]:
    group = mesh.world()
    model = build_model(config, group, seed=2)
    optimizer = build_optimizer(model, TRAINING)
    tokens = _batch().chunk(group.size)[group.rank]
    steps = [train_step(model, optimizer, tokens, group, clip=1.0) for _ in range(3)]
    names = "grad_norm", "loss", "mtp_loss", "balance_loss"
    return [[metrics[name] for metrics in steps] for name in names]


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_a_step_reports_the_same_lengths_and_losses_on_any_number_of_ranks(num_ranks):
    # Adam hides a gradient that is too large by a factor; its length does not.
    config = replace(_plain(), num_mtp=1)
    alone = _reported(0, config)
    assert min(map(min, alone)) > 0
    for reported in run_ranks(num_ranks, _reported, config):
        for mine, wanted in zip(reported, alone, strict=True):
            assert mine == pytest.approx(wanted, rel=1e-4)


def test_every_rank_moves_its_biases_by_the_load_of_the_whole_batch():
    _, bias = _two_steps(0, _plain())
    for _, other in run_ranks(2, _two_steps, _plain()):
        assert torch.equal(other, bias)


def test_a_step_reports_every_choice_of_every_layer():
    model = build_model(_plain(), mesh.solo(), seed=0)
    optimizer = build_optimizer(model, TRAINING)
    metrics = train_step(model, optimizer, _batch(), mesh.solo(), clip=1.0)
    assert [sum(load) for load in metrics["load"]] == [8 * 32 * 4] * 3


def test_clipping_bounds_the_step_but_reports_the_norm_before():
    norms = []
    for clip in (1e9, 1e-9):
        model = build_model(_plain(), mesh.solo(), seed=0)
        optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
        before = model.norm.weight.clone()
        metrics = train_step(model, optimizer, _batch(), mesh.solo(), clip)
        norms.append(metrics["grad_norm"])
        moved = (model.norm.weight - before).abs().max()
    assert norms[0] == norms[1] > 0
    assert moved < 1e-8


def test_weights_decay_only_where_they_are_matrices():
    model = build_model(_plain(), mesh.solo(), seed=0)
    decayed, kept = build_optimizer(model, TRAINING).param_groups
    assert decayed["weight_decay"] == 0.1
    assert kept["weight_decay"] == 0.0
    assert {p.dim() for p in kept["params"]} == {1}
