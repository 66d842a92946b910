"""Whether a run can go on: every reason not to is one line, and changes nothing."""

import json
import os
import resource
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from kept_runs import KEPT_AT, OPTIONS, STEPS, job_in, losses, newest

from tiny_lm import checkpoint_files, files, resume, runs, train
from tiny_lm.__main__ import main
from tiny_lm.config import preset
from tiny_lm.job import Job


@pytest.fixture(scope="module")
def kept(tmp_path_factory) -> Job:
    """A run that was killed after it was kept twice, as the command line has it."""
    training = train.TrainConfig(steps=STEPS, batch_size=8, seq_len=16, warmup_steps=0)
    folder = tmp_path_factory.mktemp("kept")
    job = job_in(folder, config=preset("tiny"), training=training, checkpoint_every=1)
    losses(0, job, until=KEPT_AT + 1)
    return job


@pytest.fixture
def job(kept, monkeypatch) -> Iterator[Job]:
    """A copy of it; nothing is trained. Its folder may be read by anybody."""
    monkeypatch.setattr("tiny_lm.train.train", _no_training)
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        shutil.copytree(kept.out, Path(name, "run"))
        shutil.copy(kept.data, name)
        yield replace(kept, out=Path(name, "run"), data=Path(name, "text.txt"))


def _no_training(*_: object) -> None:
    raise AssertionError("something was started")


def _refused(job: Job, *options: str) -> int:
    place = ("--data", str(job.data), "--out", str(job.out))
    return main(["train", *place, *OPTIONS, *options, "--resume"])


def _content(folder: Path) -> dict[str, bytes | None]:
    return {
        str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
        for p in folder.rglob("*")
    }


def _flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-5] ^= 64
    path.write_bytes(raw)


def _older(job: Job) -> None:
    path = newest(job) / checkpoint_files.ABOUT
    path.write_text(path.read_text().replace('"version": 1', '"version": 0'))


def _shorten_metrics(job: Job) -> None:
    path = job.out / runs.METRICS
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])


def _foreign(job: Job) -> None:
    shutil.rmtree(job.out)
    job.out.mkdir()
    (job.out / ".metadata").write_bytes(b"cos\nsystem\n.")


ANOTHER = [
    (["--seed", "3"], "was begun with --seed 0, not 3: leave that as it was, or name"),
    (["--batch-size", "16"], "was begun with --batch-size 8, not 16"),
    (["--seq-len", "32"], "was begun with --seq-len 16, not 32"),
    (["--lr", "0.1"], "was begun with --lr 0.003, not 0.1"),
    (["--steps", "9"], "is a run of 4 steps, along which its learning rate falls: wi"),
    (["--mtp", "1"], "was begun with --mtp 0, not 1"),
    (["tiny_dense"], "was begun with the preset tiny, not tiny_dense"),
]
BROKEN = [
    (lambda j: _flip(newest(j) / "0.safetensors"), "is damaged: its checksum does not"),
    (lambda j: os.truncate(newest(j) / "0.safetensors", 9), "damaged: it has 9 bytes"),
    (lambda j: _flip(newest(j) / "0.safetensors"), "; remove step-000003 to go on aft"),
    (lambda j: (newest(j) / "checkpoint.json").unlink(), "it has no checkpoint.json"),
    (lambda j: os.truncate(newest(j) / "checkpoint.json", 99), "is cut short or no JS"),
    (_older, "has the format of another version of tiny_lm: number 0"),
    (_shorten_metrics, "metrics.jsonl ends after step 1, before step 3"),
    (_foreign, "holds no run to go on with: leave --resume away to begin one"),
    (lambda j: shutil.rmtree(j.out / "checkpoints"), "holds no checkpoint to go on f"),
    (lambda j: shutil.rmtree(j.out), "holds no run to go on with"),
    (lambda j: j.data.write_text("b" * 9000), "was begun with --data of sha256 "),
]


def _one_line(capsys) -> str:
    said = capsys.readouterr()
    assert said.out == "" and len(said.err.splitlines()) == 1, said.err
    return said.err


@pytest.mark.parametrize(("options", "said"), ANOTHER)
def test_another_run_is_refused_by_the_option_that_differs(job, options, said, capsys):
    before = _content(job.out)
    assert _refused(job, *options) == 2
    assert said in _one_line(capsys)
    assert _content(job.out) == before


@pytest.mark.parametrize(("break_it", "said"), BROKEN)
def test_what_cannot_be_gone_on_from_is_refused(job, break_it, said, capsys):
    break_it(job)
    before = _content(job.out) if job.out.exists() else None
    assert _refused(job) == 2
    assert said in _one_line(capsys)
    assert (_content(job.out) if job.out.exists() else None) == before


def test_the_only_checkpoint_has_no_older_one_to_fall_back_on(job, capsys):
    checkpoint_files.prune(job.out, kept=1)
    _flip(newest(job) / "0.safetensors")
    assert _refused(job) == 2
    assert "fit, and there is no older one" in _one_line(capsys)


def test_the_fallback_that_a_refusal_names_works(job):
    shutil.rmtree(newest(job))
    with resume.opened(replace(job, resume=True), begins=False) as opened:
        assert checkpoint_files.step_of(opened.start) == KEPT_AT
        assert len(runs.read_metrics(job.out)) == KEPT_AT


def test_a_second_program_is_refused_while_the_first_or_a_rank_of_it_lives(job, capsys):
    before, said = _content(job.out), f"{job.out} is in use by another program"
    for use in (files.in_use, files.share):
        with use(job.out / runs.METRICS):
            assert _refused(job) == 2
        assert said in _one_line(capsys)
    assert _content(job.out) == before
    assert main(["train", *OPTIONS, "--out", str(job.out)]) == 2
    assert "; --resume goes on with the run in it, or name" in _one_line(capsys)


def test_ranks_share_what_their_program_uses(job):
    with files.in_use(job.out / runs.METRICS), files.share(job.out / runs.METRICS):
        pass
    with files.in_use(job.out / runs.METRICS):
        pass  # free again


def test_where_to_go_on_has_to_be_said(capsys):
    assert main(["train", "--resume"]) == 2
    assert "--resume goes on with the run in a folder: add --out" in _one_line(capsys)
    assert main(["train", "--checkpoint-every", "-1"]) == 2
    assert "must not be negative, got -1" in _one_line(capsys)


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Rights are not checked for root."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_folder_that_may_only_be_read_is_refused(job, capsys):
    (job.out / runs.METRICS).chmod(0o666)
    job.out.chmod(0o555)
    before = _content(job.out)
    with _as_nobody():
        assert _refused(job) == 2
    assert f"cannot write to {job.out}: Permission denied" in _one_line(capsys)
    assert _content(job.out) == before
    job.out.chmod(0o755)


def test_a_disk_without_room_is_told_before_anything_starts(job, capsys, monkeypatch):
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: SimpleNamespace(total=1, free=3 * 27_000_000)
    )
    assert _refused(job) == 2
    said = _one_line(capsys)
    assert "take 27,256,832 bytes each, 3 of them at a time, and" in said
    assert "has 81,000,000 left: make room, or --checkpoint-every 0 keeps" in said


@contextmanager
def _no_file_above(num_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_limit_on_files_is_told_before_anything_starts(job, capsys):
    with _no_file_above(1_000_000):
        assert _refused(job) == 2
        said = _one_line(capsys)
        resume.check_room(replace(job, checkpoint_every=0))
    assert "files take 27,256,832 bytes each, and no file may have more than 1" in said


def test_a_disk_that_fills_up_on_the_way_leaves_the_last_good_one(tmp_path, capsys):
    job = job_in(tmp_path, out=tmp_path / "new", checkpoint_every=1)
    report = train.journal.report

    def fill(job: Job, bar: object, metrics: dict, board: object) -> None:
        report(job, bar, metrics, board)
        if metrics["step"] == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, most[1]))

    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train.journal, "report", fill)
        with _no_file_above(most[0]), pytest.raises(RuntimeError) as caught:
            train.run(job)
    said = str(caught.value)
    assert "\n" not in said and "step 3 is not written: [Errno 27] File too" in said
    assert f"step 2 is kept; the same command with --out {job.out} --resume" in said
    about = checkpoint_files.read_about(newest(job))
    checkpoint_files.check_files(newest(job), about)
    assert train.run(replace(job, resume=True))["resumed_after"] == 2
    whole = [{**m, "tokens_per_s": 0} for m in runs.read_metrics(job.out)]
    other = job_in(tmp_path, out=tmp_path / "other", checkpoint_every=0)
    train.run(other)
    assert whole == [{**m, "tokens_per_s": 0} for m in runs.read_metrics(other.out)]


@pytest.fixture
def begun(job) -> Job:
    """Killed before its first checkpoint."""
    checkpoint_files.drop(job.out)
    return replace(job, resume=True, progress=True)


def test_under_torchrun_a_run_begins_where_nothing_is_yet(begun, capsys):
    with resume.opened(begun, begins=True) as opened:
        assert opened.start is None
        assert (begun.out / runs.METRICS).read_bytes() == b""
    assert "nothing was kept in" in _one_line(capsys)
    shutil.rmtree(begun.out)
    for _ in range(2):
        with resume.opened(begun, begins=True) as opened:
            assert opened.start is None
        assert "beginning at step 1" in _one_line(capsys)


def test_under_torchrun_a_foreign_folder_is_refused_all_the_same(begun):
    (begun.out / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match="holds no checkpoint to go on from"):
        resume.opened(begun, begins=True).__enter__()
    (begun.out / runs.METRICS).unlink()
    with pytest.raises(ValueError, match="holds no run to go on with"):
        resume.opened(begun, begins=True).__enter__()


def test_a_run_that_has_ended_says_again_what_it_came_to(job, capsys):
    about = checkpoint_files.read_about(newest(job))
    (job.out / "config.json").write_text(json.dumps(about))
    (job.out / "summary.json").write_text('{"steps": 4, "loss": 1.5}')
    again = replace(job, resume=True)
    assert train.run(again) == {"steps": 4, "loss": 1.5}
    assert _refused(job, "--seed", "1") == 2
    assert "was begun with --seed 0, not 1" in _one_line(capsys)
    (job.out / "summary.json").write_text('{"stopped": "loss was nan at step 3"}')
    assert _refused(job) == 2
    assert "has ended: loss was nan at step 3, and would again" in _one_line(capsys)


def test_what_else_makes_a_run_is_compared_by_its_name(job, monkeypatch):
    about = resume.journal.about

    def with_pieces(*args: object) -> dict:
        found = about(*args)
        found["training"]["pieces"] = {"moe.route": "0123"}
        return found

    monkeypatch.setattr(resume.journal, "about", with_pieces)
    with pytest.raises(ValueError, match="with pieces None, not {'moe.route': '0123'}"):
        resume.opened(replace(job, resume=True), begins=False).__enter__()
