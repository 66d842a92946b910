"""A job is refused for what cannot run, before anything starts."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tiny_lm.config import TrainConfig, preset
from tiny_lm.job import Job, choose_device

TRAINING = TrainConfig(steps=3, batch_size=4, seq_len=32, warmup_steps=1)


def _job(tmp_path: Path, **changes) -> Job:
    fields = {"config": preset("tiny"), "training": TRAINING, "out": tmp_path / "run"}
    return Job(**(fields | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ranks": 3}, "3 ranks cannot share 16 experts evenly"),
        ({"ranks": 0}, "ranks must be at least 1"),
        ({"ranks": 8}, "8 ranks cannot share 4 sequences evenly"),
        ({"device": "tpu"}, "device must be cpu or cuda, got 'tpu'"),
        ({"training": replace(TRAINING, seq_len=5000)}, "longer than max_len=4096"),
        ({"config": replace(preset("tiny"), num_mtp=32)}, "num_mtp=32 further tokens"),
        ({"config": replace(preset("tiny"), vocab_size=255)}, "bytes have 256 values"),
        ({"data": Path("no/such/file")}, "no such file or folder"),
    ],
)
def test_a_job_that_cannot_run_is_refused_with_what_came(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        _job(tmp_path, **changes).check()


def test_too_little_data_says_how_much_is_wanted(tmp_path):
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(ValueError, match="9 bytes"):
        _job(tmp_path, data=tmp_path / "short.txt").check()


def test_a_folder_with_anything_in_it_is_not_written_to(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="not empty: it holds thesis.tex; name anoth"):
        _job(tmp_path, out=tmp_path).open_folder()
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write to .*file"):
        _job(tmp_path, out=tmp_path / "file" / "run").open_folder()


def test_two_runs_never_share_a_folder(tmp_path, monkeypatch):
    job = _job(tmp_path)
    assert job.open_folder().out == tmp_path / "run"
    with pytest.raises(ValueError, match="run is not empty: it holds metrics.jsonl"):
        job.open_folder()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "tiny-1").mkdir(parents=True)
    nameless = _job(tmp_path, out=None)
    assert [nameless.open_folder().out.name for _ in "23"] == ["tiny-2", "tiny-3"]


@pytest.mark.parametrize(
    ("asked", "local_ranks", "gpus", "device"),
    [
        (None, 0, 8, "cpu"),  # emulated ranks
        (None, 2, 0, "cpu"),
        (None, 2, 2, "cuda"),
        (None, 2, 8, "cuda"),
        ("cpu", 2, 8, "cpu"),
        ("cuda", 0, 1, "cuda"),
    ],
)
def test_under_torchrun_the_gpus_are_taken_that_are_there(
    asked, local_ranks, gpus, device, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert choose_device(asked, local_ranks) == device


def test_more_ranks_than_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match=r"8 ranks here and 2 GPU.*--device cpu"):
        choose_device(None, 8)


def test_a_default_dtype_that_is_not_the_models_is_refused(tmp_path):
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.raises(ValueError, match="torch's default dtype is torch.float64"):
            _job(tmp_path).check()
    finally:
        torch.set_default_dtype(torch.float32)
