"""A job is refused for what cannot run, before anything starts."""

from dataclasses import replace
from pathlib import Path

import pytest

from tiny_lm.config import TrainConfig, preset
from tiny_lm.job import Job, new_run_folder

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


def test_a_folder_that_holds_a_run_is_not_overwritten(tmp_path):
    (tmp_path / "model.safetensors").write_text("precious")
    with pytest.raises(ValueError, match="holds a run already"):
        _job(tmp_path, out=tmp_path).open_folder()
    assert (tmp_path / "model.safetensors").read_text() == "precious"


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot write to .*file"):
        _job(tmp_path, out=tmp_path / "file" / "run").open_folder()


def test_new_runs_get_the_next_free_number(tmp_path):
    (tmp_path / "tiny-1").mkdir()
    assert new_run_folder(tmp_path, "tiny") == tmp_path / "tiny-2"
