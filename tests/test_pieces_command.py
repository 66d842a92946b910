"""`python -m tiny_lm train --pieces`: whose they are, what is wrong, and then a run."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
from kept_runs import PLAIN
from piece_styles import put, short, small, sources

from tiny_lm import generate, runs
from tiny_lm.__main__ import main
from tiny_lm.config import tiny
from tiny_lm.course.assembly import command, kept, places, verify
from tiny_lm.course.assembly.kept import Assembly
from tiny_lm.job import Job
from tiny_lm.layout import Layout

SIZE = ["--steps", "2", "--batch-size", "4", "--seq-len", "16", "--data", "text.txt"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two right pieces, and a text to learn."""
    (tmp_path / "text.txt").write_text("the cat sat on the mat. " * 400)
    monkeypatch.chdir(tmp_path)
    texts = {n: t for n, t in sources(1).items() if n in ("moe.gate", "fp8.linear")}
    passed = [verify._mark(*one) for one in texts.items()]
    where = put(tmp_path / "kept", texts)
    (where / kept.CACHE).write_text(json.dumps(passed))  # so that no process is started
    return where


@pytest.fixture
def two_are_wrong(folder, monkeypatch):
    wrong = {"moe.gate": "does not return: why", "mla.expand": "its file: why"}
    monkeypatch.setattr(kept, "verify", lambda *given: wrong)
    return folder


def test_wrong_pieces_end_it_with_a_line_each_and_exit_code_2(two_are_wrong, capsys):
    assert main(["train", "--pieces", "kept", "--ranks", "1", *SIZE]) == 2
    told = capsys.readouterr()
    lines = told.err.splitlines()
    assert lines[0] == "error: moe.gate: does not return: why"
    assert lines[1] == "mla.expand: its file: why"
    assert lines[2].startswith("Nothing was started. Mend kept, or add --stand-in")
    assert not told.out
    assert not (two_are_wrong.parent / "runs").exists()


def test_with_stand_in_others_take_their_places(two_are_wrong, capsys):
    args = ["train", "--pieces", "kept", "--stand-in", "--ranks", "1", *SIZE, "--json"]
    assert main(args) == 0
    told = capsys.readouterr()
    assert "moe.gate: does not return: why; tiny_lm's own stands in" in told.err
    assert "tiny_lm's  2.2  moe.gate" in told.err
    assert "yours      4.6  fp8.linear" in told.err
    summary = json.loads(told.out)
    assert summary["pieces"]["yours"] == ["fp8.linear"]
    assert "moe.gate" in summary["pieces"]["tiny_lm's"]


def test_a_run_of_pieces_is_read_and_continued_by_tiny_lm(folder, monkeypatch, capsys):
    monkeypatch.setattr("tiny_lm.__main__.SAMPLE_BYTES", 8)
    args = ["train", "--pieces", "kept", "--ranks", "1", "--out", "run", *SIZE]
    assert main(args) == 0
    told = capsys.readouterr()
    assert told.err.index("2 of the") < told.err.index("training tiny")
    assert "The likeliest after it:" in told.out
    assert '"pieces"' not in told.out
    summary = json.loads((folder.parent / "run" / "summary.json").read_text())
    assert summary["pieces"]["yours"] == ["moe.gate", "fp8.linear"]
    about = json.loads((folder.parent / "run" / "config.json").read_text())
    assert (
        about["training"]["pieces"]
        == kept.gather(folder, check=False).identity()["pieces"]
    )
    model = runs.load_model(folder.parent / "run")
    assert len(generate.generate(model, "the ", 5)) > 0


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--pieces", "absent"], "no such folder of pieces: absent"),
        (["--stand-in"], "--stand-in is about --pieces: name their folder"),
        (["--pieces", "kept", "--ranks", "3"], "3 ranks cannot share 16 experts"),
        (
            ["--pieces", "kept", "--overlap", "--ranks", "1"],
            "--overlap is about several",
        ),
        (["--pieces", "kept", "--device", "cuda"], "torch sees no GPU here"),
    ],
)
def test_wrong_use_is_one_line_before_a_piece_is_checked(
    args, message, folder, monkeypatch, capsys
):
    def too_early(*given):
        raise AssertionError("pieces were checked for wrong use")

    monkeypatch.setattr(kept, "verify", too_early)
    assert main(["train", *SIZE, *args]) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert len(told.err.splitlines()) == 1


def test_torchrun_s_ranks_train_on_what_the_first_has_checked(folder):
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    line += ["--nproc-per-node", "2", "-m", "tiny_lm", "train", "--json", *SIZE]
    line += ["--pieces", "kept", "--out", "run"]
    done = subprocess.run(
        line, capture_output=True, text=True, timeout=180, env=os.environ | PLAIN
    )
    assert done.returncode == 0, done.stderr
    (summary,) = (x for x in done.stdout.splitlines() if x.startswith("{"))
    assert json.loads(summary)["pieces"]["yours"] == ["moe.gate", "fp8.linear"]
    assert done.stderr.count("pieces of this run are yours") == 1


# ---- what does not go together


def job(**options):
    return Job(config=small("fp32"), training=short(), **options)


def test_pieces_stay_on_the_cpu():
    with pytest.raises(ValueError, match="may make tensors there: --device cpu"):
        Assembly().check(job(device="cuda"))


@pytest.mark.parametrize(
    "other", [{"block": 32}, {"gate": True}, {"scales": "round_up"}]
)
def test_pieces_multiply_by_one_recipe(other):
    config = small("fp8")
    config = replace(config, fp8=replace(config.fp8, **other))
    with pytest.raises(ValueError, match="pieces multiply in FP8 as DeepSeek-V3 does"):
        Assembly(sources()).model(config)
    Assembly(sources(leave_out=kept.FP8)).model(config)


def test_other_pieces_are_another_run():
    mine = Assembly(sources())
    again = Assembly(dict(reversed(mine.sources.items())))
    assert mine.identity() == again.identity()
    other = Assembly(mine.sources | {"moe.gate": mine.sources["moe.gate"] + "\n"})
    marks = [x.identity()["pieces"] for x in (mine, other)]
    differ = [name for name in marks[0] if marks[0][name] != marks[1][name]]
    assert differ == ["moe.gate"]
    assert Assembly().identity() == {"pieces": {}}


# ---- whose pieces are where


def test_every_task_has_a_place_or_a_reason():
    assert list(places.PLACES) == [task.piece for task in places.tasks()]


@pytest.mark.parametrize(
    ("piece", "options", "why"),
    [
        ("baseline.training_step", {"layout": Layout(zero=True)}, "--zero"),
        ("baseline.training_step", {"layout": Layout(pp=2)}, "a pipeline drives"),
        ("baseline.attention", {}, "latent"),
        ("comm.dispatch", {"ranks": 1}, "there is one rank"),
        ("comm.dispatch", {"layout": Layout(overlap=True)}, "it waits for what it"),
        ("comm.fp8_wire", {"config": small("fp32")}, "rows travel as they are"),
        ("comm.ring_all_reduce", {"layout": Layout(zero=True)}, "in parts"),
        ("moe.gate", {"config": small("dense")}, "no experts"),
        ("mla.expand", {"config": small("dense")}, "plain heads"),
        ("fp8.linear", {"config": small("fp32")}, "multiplies in FP32"),
        ("comm.overlapped", {}, "without --overlap"),
    ],
)
def test_a_piece_without_a_place_says_why(piece, options, why):
    given = {"config": tiny(), "ranks": 4} | options
    (row,) = (r for r in Assembly().describe(**given) if r.piece == piece)
    assert why in row.why_not
    assert row.whose == places.NOWHERE


def test_the_words_name_every_piece_once_and_count_the_learner_s():
    mine = Assembly(sources(leave_out=("moe.gate",)))
    lines = mine.told(tiny(), ranks=4).splitlines()
    assert lines[0] == "26 of the 27 pieces of this run are yours:"
    named = [word for line in lines for word in line.split() if word in places.PLACES]
    assert sorted(named) == sorted(places.PLACES)
    assert mine.without("moe.limit_groups").yours == [
        name for name in mine.yours if name != "moe.limit_groups"
    ]
    assert command.told(Assembly(), job(ranks=2)).startswith("0 of the 2")
