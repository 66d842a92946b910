"""A pipelined run: the same losses, weights, biases and records as a plain one."""

import sys
from dataclasses import replace
from functools import cache

import pytest
import torch
from cloudpickle import register_pickle_by_value

from tiny_lm.config import TrainConfig, preset
from tiny_lm.gpus import mesh
from tiny_lm.gpus.launch import Cluster
from tiny_lm.job import Job, batches
from tiny_lm.layout import STAGES_A_RANK, Layout
from tiny_lm.replay import specs
from tiny_lm.step import build_worker

register_pickle_by_value(sys.modules[__name__])

CONFIG = replace(preset("tiny"), fp8=None)
TRAINING = TrainConfig(
    steps=3, batch_size=8, seq_len=16, warmup_steps=1, lr=1e-2, eval_batches=2
)


@pytest.fixture(scope="module")
def four():
    with Cluster(4) as gpus:
        yield gpus


@pytest.fixture(scope="module")
def ran(four):
    """Three steps in each layout, run once."""
    return cache(lambda layout: four.run(few_steps, layout))


@pytest.fixture(scope="module")
def plain() -> dict:
    return few_steps(0, Layout())


def text() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    letters = torch.randint(97, 123, (2, 2000), generator=generator).to(torch.uint8)
    return letters[0], letters[1]


def few_steps(rank: int, layout: Layout, config=CONFIG) -> dict:
    """Three steps, the last one recorded; what a run wants of them."""
    group = mesh.world()
    job = Job(config=config, training=TRAINING, ranks=group.size, layout=layout)
    worker = build_worker(job, group, "cpu")
    worker.check()
    training, validation = batches(job, *text())
    metrics = []
    for step in range(3):
        worker.set_rate(1e-3)
        tokens = training.at(step, worker.group.rank, worker.group.size)
        if step == 2:
            done, tape = worker.record(tokens)
        else:
            done = worker.step(tokens)
        metrics.append(done)
    val_loss = worker.evaluate(validation)
    return {
        "metrics": metrics,
        "val_loss": val_loss,
        "state": worker.gather_state(),
        "tape": tape,
    }


@pytest.mark.parametrize(
    "layout",
    [*(Layout(pp=2, schedule=name) for name in STAGES_A_RANK), Layout(pp=4)],
    ids=lambda layout: f"{layout.pp} {layout.order}",
)
def test_steps_weights_and_biases_are_those_of_a_plain_run(ran, plain, layout):
    ranks = ran(layout)
    for rank in ranks:
        assert rank["val_loss"] == pytest.approx(plain["val_loss"], abs=1e-5)
        for found, wanted in zip(rank["metrics"], plain["metrics"], strict=True):
            assert found.keys() == wanted.keys()
            for name in ("loss", "balance_loss", "grad_norm", "mtp_loss"):
                assert found[name] == pytest.approx(wanted[name], abs=2e-5), name
            assert found["load"] == wanted["load"]
        assert list(rank["state"]) == list(plain["state"])
        for name, value in plain["state"].items():
            # AdamW's first steps are signs: where a gradient is zero, they may differ.
            close = (rank["state"][name] - value).abs() < 2e-4
            assert close.float().mean() > 0.999, name
    biases = [n for n in plain["state"] if n.endswith("router.bias")]
    assert len(biases) == 3
    for name in biases:
        assert plain["state"][name].any()
        assert torch.equal(ranks[0]["state"][name], plain["state"][name])


def test_the_emulated_step_has_a_bubble_and_is_the_same_twice(four, ran):
    pipelined = Layout(pp=2, schedule="zbv")
    first, again = (
        specs.emulate([rank["tape"] for rank in ranks])
        for ranks in (ran(pipelined), four.run(few_steps, pipelined))
    )
    assert first == again
    plain = specs.emulate([rank["tape"] for rank in ran(Layout())])
    for name, times in first.items():
        assert times["bubble_ms"] > 2 * plain[name]["bubble_ms"]


def test_a_dense_model_has_no_load(four):
    config = replace(preset("tiny_dense"), fp8=None)
    ranks = four.run(few_steps, Layout(pp=2), config)
    plain = few_steps(0, Layout(), config)
    for found, wanted in zip(ranks[0]["metrics"], plain["metrics"], strict=True):
        assert found["load"] == wanted["load"] == []
        assert found["loss"] == pytest.approx(wanted["loss"], abs=2e-5)
