"""A run that is kept goes on as if nothing had happened, on any number of ranks."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from kept_runs import (
    KEPT_AT,
    STEPS,
    TRAINING,
    Toy,
    begin,
    job_in,
    load_row,
    losses,
    newest,
    quick_ranks,
    save_row,
)

from tiny_lm import checkpoint_files, resume
from tiny_lm.checkpoint import CheckpointError
from tiny_lm.config import preset
from tiny_lm.gpus import mesh
from tiny_lm.gpus.launch import Cluster
from tiny_lm.job import Job
from tiny_lm.layout import Layout
from tiny_lm.parallel import spans
from tiny_lm.parallel.zero import ShardedOptimizer

LAYOUTS = {
    "plain": Layout(),
    "zero": Layout(zero=True),
    "both": Layout(zero=True, overlap=True),
    "zbv": Layout(pp=2, schedule="zbv"),
}
KEPT = [(1, "plain"), (2, "zero"), (4, "both"), (4, "zbv")]
MOVES = [
    ((1, "plain"), (4, "both")),
    ((4, "both"), (1, "plain")),
    ((4, "both"), (2, "zero")),
    ((2, "zero"), (4, "zbv")),
    ((4, "zbv"), (1, "plain")),
]
On = Callable[..., list]


@pytest.fixture(scope="module")
def on() -> On:
    """Run on so many ranks; they stay warm."""
    with quick_ranks(), Cluster(2) as two, Cluster(4) as four:
        warm = {2: two, 4: four}

        def run(ranks: int, fn: Callable, *args: object) -> list:
            return warm[ranks].run(fn, *args) if ranks > 1 else [fn(0, *args)]

        yield run


@pytest.fixture(scope="module")
def kept(on, tmp_path_factory) -> dict[tuple, tuple[Job, list]]:
    """Of every way to run: the job, and what an uninterrupted run of it measures."""
    found = {}
    for ranks, name in KEPT:
        folder = tmp_path_factory.mktemp(f"{ranks}{name}")
        job = job_in(folder, ranks=ranks, layout=LAYOUTS[name])
        found[ranks, name] = job, on(ranks, losses, job)[0]
    return found


def _go_on(kept: dict, on: On, then: tuple, now: tuple) -> tuple[list, list]:
    """What the rest of a run measures that was kept one way and goes on another way."""
    job, there = kept[now][0], newest(kept[then][0])
    resumed = replace(job, start=there, checkpoint_every=0)
    return on(now[0], losses, resumed)[0], kept[then][1][KEPT_AT:]


@pytest.mark.parametrize("way", KEPT, ids=str)
def test_on_the_same_ranks_a_run_goes_on_bit_for_bit(kept, on, way):
    got, wanted = _go_on(kept, on, way, way)
    assert len(got) == STEPS - KEPT_AT and "val_loss" in got[-1]
    assert got == wanted  # losses, gradients' lengths and every expert's load


@pytest.mark.parametrize(("then", "now"), MOVES, ids=str)
def test_on_other_ranks_and_layouts_losses_are_the_same(kept, on, then, now):
    got, wanted = _go_on(kept, on, then, now)
    assert len(got) == STEPS - KEPT_AT
    for mine, one in zip(got, wanted, strict=True):
        assert mine["loss"] == pytest.approx(one["loss"], rel=1e-6)
        assert mine["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)


def test_eight_bits_go_on_bit_for_bit_too(on, tmp_path):
    job = job_in(tmp_path, config=replace(preset("tiny"), num_mtp=1), ranks=2)
    whole = on(2, losses, job)[0]
    resumed = replace(job, start=newest(job), checkpoint_every=0)
    assert on(2, losses, resumed)[0] == whole[KEPT_AT:]


def test_other_ranks_move_eight_bit_losses_no_farther_than_a_nudge_of_weights(
    on, tmp_path
):
    """Tiles along the tokens are whole on two ranks and on four: 64 and 32 tokens."""

    moved = {}
    for name, fp8 in (("fp8", preset("tiny").fp8), ("fp32", None)):
        folder = tmp_path / name
        folder.mkdir()
        job = job_in(folder, config=replace(preset("tiny"), fp8=fp8), ranks=2)
        on(2, losses, job, KEPT_AT)
        job = replace(job, start=newest(job), checkpoint_every=0)
        ways = (2, job), (2, job, STEPS, 1e-7), (4, replace(job, ranks=4))
        plain, *others = (on(n, losses, *rest)[0] for n, *rest in ways)
        moved[name] = [
            max(abs(a["loss"] - b["loss"]) for a, b in zip(plain, other, strict=True))
            for other in others
        ]
    assert max(moved["fp32"]) < 1e-6
    nudged, other = moved["fp8"]
    assert nudged > 1e-5 and other < 10 * nudged, moved


def test_every_number_is_written_once_and_four_for_each_weight(kept):
    for job, _ in kept.values():
        about = checkpoint_files.read_about(newest(job))
        written = 0
        for name, tensor in about["tensors"].items():
            ends = [0]
            for start, length, file in sorted(tensor["spans"]):
                assert start == ends[-1], name
                ends.append(start + length)
                written += length if not name.startswith("random") else 0
                assert file in about["files"]
            assert ends[-1] == tensor["size"], name
        biases = 2 * 16 * 3  # of three layers: as weights, and as last good ones
        assert 4 * written == resume.checkpoint_bytes(job) + 4 * biases
        sizes = [file["bytes"] for file in about["files"].values()]
        assert len(sizes) == job.ranks
        assert sum(sizes) < 1.1 * resume.checkpoint_bytes(job)


def test_what_was_sent_is_the_sum_over_ranks_and_goes_to_the_first(kept, on):
    job = kept[4, "both"][0]
    about = checkpoint_files.read_about(newest(job))
    assert about["bytes_sent"] == 100 + 200 + 300 + 400
    resumed = replace(job, start=newest(job))
    assert on(4, _sent, resumed) == [1000, 0, 0, 0]


def _sent(rank: int, job: Job) -> int:
    keeper = begin(job)[2]
    assert keeper.first == KEPT_AT and keeper.seconds > 0
    return keeper.sent


def _draw(rank: int, job: Job) -> list[float]:
    """A rank's next random numbers, after the last step that was kept."""
    if job.start is None:
        torch.manual_seed(rank)
        losses(rank, job, until=KEPT_AT)
    else:
        begin(job)
    return torch.rand(2).tolist()


def test_each_rank_draws_on_where_it_was(on, tmp_path):
    job = job_in(tmp_path, ranks=2)
    drawn = on(2, _draw, job)
    assert drawn[0] != drawn[1]
    resumed = replace(job, start=newest(job))
    assert on(2, _draw, resumed) == drawn
    # Another number of ranks has other generators: none of these is put back.
    assert _draw(0, replace(resumed, ranks=1)) not in drawn


def test_the_last_good_weights_are_kept_and_come_back(tmp_path):
    job = job_in(tmp_path)
    losses(0, job, until=KEPT_AT)
    _, good, keeper, _ = begin(replace(job, start=newest(job)))
    before = begin(replace(job, training=TRAINING))[0]
    assert good.step == keeper.first == KEPT_AT
    name = "head.weight"
    model = begin(replace(job, start=newest(job)))[0].model
    assert not torch.equal(good.weights[name], model.state_dict()[name])
    assert not torch.equal(good.weights[name], before.model.state_dict()[name])
    # Where the very next step diverges, the run ends as the uninterrupted one would.
    with pytest.raises(RuntimeError, match=rf"at step {KEPT_AT + 1}") as caught:
        good.check({"step": KEPT_AT + 1, "loss": float("nan"), "grad_norm": 1.0})
    assert caught.value.kept == KEPT_AT


def _runs_of(rank: int) -> dict[str, tuple[int, int, int]]:
    """Of a sharded optimizer's states on this rank: length, start, whole length."""
    toy = Toy()
    optimizer = ShardedOptimizer(toy, mesh.world(), toy.is_expert, _adamw)
    spans.begin_states(optimizer, 1)
    found = spans.of_optimizer(optimizer, toy, mesh.world(), toy.is_expert)
    return {name: (len(s.numbers), s.start, s.size) for name, s in found.items()}


def _adamw(matrices: list, vectors: list) -> torch.optim.Optimizer:
    return torch.optim.AdamW([{"params": matrices}, {"params": vectors}], lr=0.1)


def test_sharded_states_are_runs_that_join_to_the_whole_row(on):
    # One bucket: the vector, then the matrix; nine numbers, so five and four.
    first, second = on(2, _runs_of)
    assert first["exp_avg.vector"] == (3, 0, 3)
    assert "exp_avg.vector" not in second
    assert first["exp_avg_sq.matrix"] == (2, 0, 6)
    assert second["exp_avg_sq.matrix"] == (4, 2, 6)
    assert first["exp_avg.experts"] == (8, 0, 16)
    assert second["exp_avg.experts"] == (8, 8, 16)


def test_spans_come_back_however_they_were_cut(on, tmp_path):
    on(2, save_row, tmp_path, [0, 7, 10])
    path = checkpoint_files.all_of(tmp_path)[0]
    row = [float(number) for number in range(10)]
    assert on(2, load_row, path, [0, 4, 10]) == [row[:4], row[4:]]
    about = checkpoint_files.read_about(path)
    assert about["bytes_sent"] == 1 + 2
    assert about["tensors"]["row"] == {
        "dtype": "float32",
        "size": 10,
        "spans": [[0, 7, "0.safetensors"], [7, 3, "1.safetensors"]],
    }
    assert len(about["tensors"]["both"]["spans"]) == 1  # of two copies, one


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("random.cpu.0", None),
        ("good.head.weight", "it holds no good.head.weight, 32,768 numbers of"),
    ],
)
def test_a_checkpoint_that_lacks_something_says_what(tmp_path, name, said):
    job = job_in(tmp_path)
    losses(0, job, until=KEPT_AT)
    about = checkpoint_files.read_about(newest(job))
    del about["tensors"][name], about["format"], about["version"]
    draft = checkpoint_files.new_draft(job.out)
    for file in about["files"]:
        (draft / file).write_bytes((newest(job) / file).read_bytes())
    changed = checkpoint_files.publish(draft, about | {"step": 3})
    if said is None:  # no model here draws: the rest of the run is the same
        begin(replace(job, start=changed))
        return
    with pytest.raises(CheckpointError, match=said) as caught:
        begin(replace(job, start=changed))
    assert "\n" not in str(caught.value) and str(changed) in str(caught.value)


def test_another_models_checkpoint_is_told_by_what_does_not_fit(tmp_path: Path):
    job = job_in(tmp_path)
    losses(0, job, until=KEPT_AT)
    wider = replace(job.config, d_ffn=2 * job.config.d_ffn)
    with pytest.raises(CheckpointError, match="fit: of .* it holds .*, not"):
        begin(replace(job, start=newest(job), config=wider))
