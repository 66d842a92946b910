"""A model of pieces is the model: the same losses, weights, names and text."""

from functools import cache
from itertools import product

import pytest
import torch
from piece_styles import TEXT, short, small, sources

from tiny_lm import data
from tiny_lm.course.assembly import places, steps
from tiny_lm.course.assembly.kept import Assembly
from tiny_lm.gpus import mesh
from tiny_lm.job import Job
from tiny_lm.model import LanguageModel
from tiny_lm.step import build_worker

BYTES = torch.frombuffer(bytearray(TEXT), dtype=torch.uint8)


def run(config, maker=None):
    """A short run on one rank: the metrics of its steps, and its validation loss."""
    job = Job(config=config, training=short(), ranks=1, maker=maker)
    make = maker.worker if maker else build_worker
    worker, batches = make(job, mesh.solo(), "cpu"), data.Batches(BYTES, 8, 16)
    metrics = [worker.step(batches.at(step)) for step in range(4)]
    return metrics, worker.evaluate(data.EvalBatches(BYTES, 8, 16, 2))


@pytest.fixture(scope="module")
def ours():
    """What tiny_lm's own model does, by kind of config."""
    return cache(lambda kind: run(small(kind)))


# ---- the same training


@pytest.mark.parametrize(
    "kind, style",
    [("dense", 1), ("dense", 3), *product(["fp32"], range(4)), ("fp8", 1), ("fp8", 2)],
)
def test_right_pieces_in_any_style_train_to_the_reference_s_loss(kind, style, ours):
    """In FP8 a last bit may round to another code, and a token go to another expert.

    Weights that are nudged by 1e-7 move the losses of these steps by 6e-3, too.
    """
    wanted, found = ours(kind), run(small(kind), Assembly(sources(style)))
    first, rest = (1e-4, 3e-2) if kind == "fp8" else (1e-6, 1e-5)
    for n, (one, other) in enumerate(zip(wanted[0], found[0], strict=True)):
        near = {"abs": rest if n else first}
        for name in ("loss", "balance_loss"):
            assert other[name] == pytest.approx(one[name], **near)
        assert other["grad_norm"] == pytest.approx(
            one["grad_norm"], rel=10 * near["abs"]
        )
    assert found[1] == pytest.approx(wanted[1], abs=rest)
    if kind != "fp8":
        assert [m["load"] for m in found[0]] == [m["load"] for m in wanted[0]]


def test_a_gradient_is_clipped_by_the_learner_on_one_rank(ours):
    """With a clip below every norm, and a step that does not clip, losses part."""
    text = (
        "def training_step(model, optimizer, inputs, targets, max_norm):\n"
        "    import torch.nn.functional as F\n"
        "    optimizer.zero_grad()\n"
        "    loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())\n"
        "    loss.backward()\n"
        "    for p in model.parameters():\n"
        "        p.grad.mul_(0)\n"
        "    optimizer.step()\n"
        "    return loss.item()\n"
    )
    found = run(small("fp32"), Assembly({steps.STEP[0]: text}))[0]
    wanted = ours("fp32")[0]
    assert found[0]["loss"] == pytest.approx(wanted[0]["loss"], abs=1e-6)
    assert found[0]["grad_norm"] == pytest.approx(wanted[0]["grad_norm"], rel=1e-5)
    assert found[-1]["loss"] > wanted[-1]["loss"] + 0.1, "nothing was learnt"


@pytest.mark.parametrize("name", sorted(places.PLACES))
def test_a_piece_that_has_a_place_is_called_and_no_other(name):
    """Alone among tiny_lm's own, a piece that raises stops a step or the writing."""
    kind = "dense" if name == "baseline.attention" else "fp8"
    (task,) = (task for task in places.tasks() if task.piece == name)
    broken = f"def {task.name}(*arguments):\n    raise ZeroDivisionError('{name}')\n"
    mine, config = Assembly({name: broken}), small(kind)
    job = Job(config=config, training=short(batch_size=2), ranks=1, maker=mine)
    try:
        worker = mine.worker(job, mesh.solo(), "cpu")
        worker.step(data.Batches(BYTES, 2, 16).at(0))
        worker.evaluate(data.EvalBatches(BYTES, 2, 16, 1))
        mine.write(LanguageModel(config), "the cat sat on the mat", 4)
    except ZeroDivisionError as error:
        assert str(error) == name
        assert places.stands(name, places.Setting(config))
    else:
        assert not places.stands(name, places.Setting(config))
