"""Training: a run learns, keeps everything, says how it stopped."""

import gc
import json
from dataclasses import replace

import pytest
import torch

from tiny_lm import journal, runs
from tiny_lm.config import ModelConfig, TrainConfig, preset
from tiny_lm.gpus import mesh
from tiny_lm.job import Job, batches, read_corpus
from tiny_lm.step import (
    build_worker,
    evaluate,
)
from tiny_lm.train import learning_rate, run, steps

TRAINING = TrainConfig(steps=3, batch_size=4, seq_len=32, warmup_steps=1)


def _plain() -> ModelConfig:
    return replace(preset("tiny"), fp8=None)


def test_the_learning_rate_climbs_then_follows_a_cosine():
    t = TrainConfig(steps=110, warmup_steps=10, lr=1.0, final_lr=0.1)
    assert learning_rate(0, t) == pytest.approx(0.1)
    assert learning_rate(9, t) == pytest.approx(1.0)
    assert learning_rate(60, t) == pytest.approx(0.55)
    assert learning_rate(110, t) == pytest.approx(0.1)


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
        worker = build_worker(job, mesh.solo(), "cpu")
        parts = read_corpus(job)[1:]
        for metrics in steps(job, worker, parts, tapes):
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
