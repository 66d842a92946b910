"""A model of pieces is the model: the same losses, weights, names and text."""

from dataclasses import replace
from functools import cache

import pytest
from piece_styles import short, small, sources

from tiny_lm import runs, train
from tiny_lm.course.assembly import places, steps
from tiny_lm.course.assembly.kept import Assembly
from tiny_lm.gpus import mesh
from tiny_lm.job import Job
from tiny_lm.model import LanguageModel

EVERY = Assembly(sources())


def run(tmp_path, config, maker=None, **training):
    """A short run on one rank: its metrics and its summary."""
    out = tmp_path / "run"
    job = Job(config=config, training=short(**training), ranks=1, maker=maker)
    job = replace(job, out=out, progress=False)
    job.check()
    summary = train.train(job.open_folder(), mesh.solo(), "cpu")
    return runs.read_metrics(out), summary


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """What tiny_lm's own model does, by kind of config."""
    return cache(lambda kind: run(tmp_path_factory.mktemp(kind), small(kind)))


# ---- the same training


@pytest.mark.parametrize("kind", ["dense", "fp32", "fp8"])
@pytest.mark.parametrize("style", range(4))
def test_right_pieces_in_any_style_train_to_the_reference_s_loss(
    kind, style, ours, tmp_path
):
    """In FP8 a last bit may round to another code, and a token go to another expert.

    Weights that are nudged by 1e-7 move the losses of these steps by 5e-3, too.
    """
    wanted, found = ours(kind), run(tmp_path, small(kind), Assembly(sources(style)))
    first, rest = (1e-4, 1e-2) if kind == "fp8" else (1e-6, 1e-5)
    for n, (one, other) in enumerate(zip(wanted[0], found[0], strict=True)):
        near = {"abs": rest if n else first}
        for name in ("loss", "balance_loss"):
            assert other[name] == pytest.approx(one[name], **near)
        assert other["grad_norm"] == pytest.approx(
            one["grad_norm"], rel=10 * near["abs"]
        )
    assert found[1]["val_loss"] == pytest.approx(wanted[1]["val_loss"], abs=rest)
    if kind != "fp8":
        assert [m["load"] for m in found[0]] == [m["load"] for m in wanted[0]]


def test_a_gradient_is_clipped_by_the_learner_on_one_rank(ours, tmp_path):
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
    found = run(tmp_path, small("fp32"), Assembly({steps.STEP[0]: text}))[0]
    wanted = ours("fp32")[0]
    assert found[0]["loss"] == pytest.approx(wanted[0]["loss"], abs=1e-6)
    assert found[0]["grad_norm"] == pytest.approx(wanted[0]["grad_norm"], rel=1e-5)
    assert found[-1]["loss"] > wanted[-1]["loss"] + 0.1, "nothing was learnt"


@pytest.mark.parametrize("name", sorted(places.PLACES))
def test_a_piece_that_has_a_place_is_called(name, tmp_path):
    """Alone among tiny_lm's own, a piece that raises stops the run or the writing."""
    kinds = ("dense",) if name == "baseline.attention" else ("fp8",)
    (task,) = (task for task in places.tasks() if task.piece == name)
    broken = f"def {task.name}(*arguments):\n    raise ZeroDivisionError('{name}')\n"
    mine, config = Assembly({name: broken}), small(*kinds)
    setting = places.Setting(config)
    has_place = places.stands(name, setting)
    try:
        run(tmp_path, config, mine, steps=1)
        mine.write(LanguageModel(config), "the cat sat on the mat", 2)
    except ZeroDivisionError as error:
        assert str(error) == name
        assert has_place
    else:
        assert not has_place
