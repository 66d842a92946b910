"""A model of pieces on several ranks: rows travel, and gradients agree, by them."""

from dataclasses import replace
from functools import cache

import pytest
from piece_styles import TEXT, short, small, sources

from tiny_lm import runs
from tiny_lm.course.assembly import running, travel
from tiny_lm.course.assembly.kept import Assembly
from tiny_lm.gpus import mesh
from tiny_lm.gpus.launch import Cluster
from tiny_lm.job import Job
from tiny_lm.layout import Layout


@pytest.fixture(scope="module")
def gpus():
    with Cluster(4) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def ours(gpus, tmp_path_factory):
    """What tiny_lm's own model does on these ranks, by kind of config and overlap."""
    return cache(lambda *how: run(gpus, tmp_path_factory.mktemp("ours"), *how))


def run(gpus, folder, kind, overlap=False, maker=None, **layout):
    """A short run: its metrics and its summary."""
    (folder / "text.txt").write_bytes(TEXT)
    job = Job(
        config=small(kind),
        training=short(),
        ranks=gpus.world_size,
        layout=Layout(overlap=overlap, **layout),
        maker=maker,
        data=folder / "text.txt",
        out=folder / "run",
        progress=False,
    )
    summary = running.on(gpus, job)
    return runs.read_metrics(job.out), summary


@pytest.mark.parametrize(
    "kind, overlap, style",
    [
        ("dense", False, 1),
        ("fp32", False, 1),
        ("fp32", False, 2),
        ("fp8", False, 2),
        ("fp32", True, 1),
        ("fp8", True, 2),
    ],
)
def test_right_pieces_in_any_style_train_to_the_reference_s_loss(
    kind, overlap, style, gpus, ours, tmp_path
):
    wanted = ours(kind, overlap)
    found = run(gpus, tmp_path, kind, overlap, Assembly(sources(style)))
    first, rest = (1e-4, 3e-2) if kind == "fp8" else (1e-6, 1e-5)
    for n, (one, other) in enumerate(zip(wanted[0], found[0], strict=True)):
        near = {"abs": rest if n else first}
        for name in ("loss", "balance_loss", "grad_norm"):
            wide = {"abs": 10 * near["abs"]} if name == "grad_norm" else near
            assert other[name] == pytest.approx(one[name], **wide)
    assert found[1]["val_loss"] == pytest.approx(wanted[1]["val_loss"], abs=rest)
    assert found[1]["bytes_sent"] == pytest.approx(wanted[1]["bytes_sent"], rel=2e-3)


BROKEN = {
    "comm.dispatch": {},
    "comm.combine": {},
    "comm.fp8_wire": {},
    "comm.ring_all_reduce": {},
    "comm.overlapped": {"overlap": True},
}


def test_every_piece_of_the_wires_is_tried():
    assert {*travel.TRAVEL} < {*BROKEN}


@pytest.mark.parametrize("name", BROKEN)
def test_a_piece_of_the_wires_is_called(name, gpus, tmp_path):
    function = name.partition(".")[2]
    text = f"def {function}(*arguments):\n    raise ZeroDivisionError('here')\n"
    with pytest.raises(RuntimeError, match="ZeroDivisionError: here"):
        run(gpus, tmp_path, "fp8", maker=Assembly({name: text}), **BROKEN[name])


@pytest.mark.parametrize("layout", [{"zero": True}, {"pp": 2}])
def test_where_tiny_lm_drives_the_pieces_of_layers_still_serve(layout, gpus, tmp_path):
    for style, folder in ((0, tmp_path / "a"), (2, tmp_path / "b")):
        folder.mkdir()
        maker = Assembly(sources(style)) if style else None
        metrics, summary = run(gpus, folder, "fp32", maker=maker, **layout)
        losses = [one["loss"] for one in metrics]
        wanted = wanted if style else losses
    assert losses == pytest.approx(wanted, abs=1e-5)
    held = summary["pieces"]
    assert "moe.run_experts" in held["yours"]
    assert "baseline.training_step" in held["not held"]


def test_the_ranks_hold_the_same_pieces_or_say_which_differ(gpus):
    with pytest.raises(RuntimeError, match="different files of moe.gate$"):
        gpus.run(_with_other_files)


def test_the_first_rank_says_which_pieces_are_taken(gpus):
    assert gpus.run(_first_has_checked) == [["moe.gate"]] * 4


def _with_other_files(rank):
    same, text = sources()["moe.update_bias"], sources()["moe.gate"]
    mine = {"moe.update_bias": same, "moe.gate": text + "\n" * (rank == 2)}
    Assembly(mine)._agreed(mesh.world())


def _first_has_checked(rank):
    texts = {n: sources()[n] for n in ("moe.gate", "moe.update_bias")}
    if rank == 0:
        del texts["moe.update_bias"]
    return Assembly(texts)._agreed(mesh.world()).yours


def test_a_job_for_other_ranks_is_refused(gpus, tmp_path):
    job = Job(config=small("fp32"), training=short(), ranks=2, out=tmp_path / "run")
    with pytest.raises(ValueError, match="the job wants 2 ranks, got 4"):
        running.on(gpus, replace(job, maker=Assembly()))
