"""Training: equal on any number of ranks, equal from the same seed, and it learns."""

import gc
import json
from dataclasses import replace

import pytest
import torch

from tiny_lm import journal, runs
from tiny_lm.config import ModelConfig, TrainConfig, preset
from tiny_lm.gpus import comm, mesh
from tiny_lm.gpus.launch import run_ranks
from tiny_lm.job import Job, batches, read_corpus
from tiny_lm.model import is_expert
from tiny_lm.parallel import shard
from tiny_lm.train import (
    build_model,
    build_optimizer,
    evaluate,
    learning_rate,
    run,
    steps,
    train_step,
)

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


def _norms(rank: int, config: ModelConfig) -> list[float]:
    group = mesh.world()
    model = build_model(config, group, seed=2)
    optimizer = build_optimizer(model, TRAINING)
    tokens = _batch().chunk(group.size)[group.rank]
    steps = (train_step(model, optimizer, tokens, group, clip=1.0) for _ in range(3))
    return [metrics["grad_norm"] for metrics in steps]


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_the_gradient_of_a_step_is_as_long_on_any_number_of_ranks(num_ranks):
    # Adam hides a gradient that is too large by a factor; its length does not.
    alone = _norms(0, _plain())
    for norms in run_ranks(num_ranks, _norms, _plain()):
        assert norms == pytest.approx(alone, rel=1e-4)


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


def test_the_learning_rate_climbs_then_follows_a_cosine():
    t = TrainConfig(steps=110, warmup_steps=10, lr=1.0, final_lr=0.1)
    assert learning_rate(0, t) == pytest.approx(0.1)
    assert learning_rate(9, t) == pytest.approx(1.0)
    assert learning_rate(60, t) == pytest.approx(0.55)
    assert learning_rate(110, t) == pytest.approx(0.1)


def test_weights_decay_only_where_they_are_matrices():
    model = build_model(_plain(), mesh.solo(), seed=0)
    decayed, kept = build_optimizer(model, TRAINING).param_groups
    assert decayed["weight_decay"] == 0.1
    assert kept["weight_decay"] == 0.0
    assert {p.dim() for p in kept["params"]} == {1}


def test_a_run_learns_and_its_folder_holds_everything(tmp_path):
    training = TrainConfig(steps=30, batch_size=8, seq_len=64, eval_every=15)
    job = Job(config=preset("tiny"), training=training, ranks=2, out=tmp_path / "run")
    summary = run(job)
    metrics = runs.read_metrics(job.out)
    assert [one["step"] for one in metrics] == list(range(1, 31))
    assert metrics[-1]["loss"] < metrics[0]["loss"] - 1.5
    assert [one["step"] for one in metrics if "val_loss" in one] == [15, 30]
    assert summary["bytes_sent"] > 0
    assert summary == json.loads((job.out / "summary.json").read_text())
    # What was trained is what was saved: FP8 weights included.
    model = runs.load_model(job.out)
    assert summary["params_total"] == sum(p.numel() for p in model.parameters())
    evaluated = _evaluate(job, model)
    assert evaluated == pytest.approx(summary["val_loss"], rel=2e-3)


@pytest.mark.parametrize(
    ("name", "ranks"), [("tiny", 1), ("tiny", 4), ("tiny_dense", 3)]
)
def test_equal_seeds_have_an_equal_emulated_step(tmp_path, name, ranks):
    """`tiny_dense` has no experts to share, so that three ranks can have it."""
    training = TrainConfig(steps=2, batch_size=12, seq_len=32, warmup_steps=1)
    runs_of = (
        Job(config=preset(name), training=training, ranks=ranks, out=tmp_path / number)
        for number in "12"
    )
    one, two = (run(job)["emulated"] for job in runs_of)
    assert one == two
    assert set(one) == {"scaled_twin", "h800", "h100"}
    assert bool(one["h800"]["exposed_comm_ms"]) is (ranks > 1)


def test_recording_the_last_step_changes_no_number(tmp_path):
    training = TrainConfig(steps=2, batch_size=4, seq_len=32, warmup_steps=1)
    job = Job(config=preset("tiny"), training=training, ranks=1, out=tmp_path)
    found = []
    for tapes in (None, []):
        model = build_model(job.config, mesh.solo(), seed=1)
        parts = read_corpus(job)[1:]
        for metrics in steps(job, model, mesh.solo(), parts, tapes):
            found.append((metrics["loss"], metrics["grad_norm"], metrics["load"]))
    assert found[:2] == found[2:]
    assert len(tapes) == 1 and tapes[0].records


def _evaluate(job: Job, model: torch.nn.Module) -> float:
    _, *parts = read_corpus(job)
    return evaluate(model, batches(job, *parts)[1], mesh.solo())


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_that_diverges_says_at_which_step_and_keeps_the_last_good(
    tmp_path, ranks
):
    training = replace(TRAINING, steps=9, lr=1e6, warmup_steps=0)
    job = Job(config=preset("tiny"), training=training, ranks=ranks, progress=False)
    job = replace(job, out=tmp_path / "run")
    with pytest.raises(RuntimeError, match=r"was (nan|inf) at step \d, so") as caught:
        run(job)
    message = str(caught.value)
    assert "\n" not in message
    assert f"good one, are in {job.out}; a lower --lr than 1e+06 helps" in message
    metrics = runs.read_metrics(job.out)  # JSON throughout
    assert f"the weights of step {metrics[-1]['step']}," in message
    model = runs.load_model(job.out)  # finite throughout
    _, *parts = read_corpus(job)
    last = batches(job, *parts)[0].at(metrics[-1]["step"] - 1)
    assert model.loss(last).next_token.item() == pytest.approx(
        metrics[-1]["loss"], rel=1e-2
    )
    summary = json.loads((job.out / "summary.json").read_text())
    assert summary["stopped"] in message
    assert summary["steps"] == metrics[-1]["step"]


def test_emulated_ranks_and_a_gpu_do_not_go_together(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    job = Job(config=_plain(), training=TRAINING, ranks=4, out=tmp_path / "run")
    with pytest.raises(ValueError, match="start with torchrun --nproc-per-node 4"):
        run(replace(job, device="cuda"))
    assert not job.out.exists()


def test_a_run_is_settled_while_it_trains_and_not_longer(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "3")  # another launcher's: no torchrun is here
    seen = []
    record = journal.report
    monkeypatch.setattr(
        journal, "report", lambda *a: seen.append(gc.get_freeze_count()) or record(*a)
    )
    run(Job(config=_plain(), training=TRAINING, ranks=1, out=tmp_path, progress=False))
    assert len(seen) == TRAINING.steps and min(seen) > 0
    assert gc.get_freeze_count() == 0
