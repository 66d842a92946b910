"""The front page's record: what one call of the course's main command gives."""

from math import log

import pytest

from tiny_lm.config import TrainConfig
from tiny_lm.course.experiments.first_run import (
    RATES,
    read_first_run,
    read_rates,
    record,
    record_rates,
)


def test_the_record_holds_what_the_run_said_and_wrote(tmp_path):
    training = TrainConfig(steps=2, batch_size=2, seq_len=16, eval_batches=1)
    made = record(tmp_path, training, ranks=1, length=4)
    kept = read_first_run(tmp_path)
    assert kept["summary"] == made["summary"] and kept["losses"] == made["losses"]
    assert (made["summary"]["steps"], len(made["losses"])) == (2, 2)
    assert made["losses"][0] == pytest.approx(log(256), abs=0.3)
    assert len(made["written"]) > 0


def test_the_kept_record_is_of_the_default_run_and_learned():
    kept = read_first_run()
    assert kept["summary"]["steps"] == len(kept["losses"]) == TrainConfig().steps
    assert (kept["summary"]["preset"], kept["summary"]["ranks"]) == ("tiny", 4)
    assert kept["summary"]["val_loss"] < 0.4 * log(256)


def test_rates_are_recorded_for_both_models_and_kept_once_there(tmp_path):
    training = TrainConfig(steps=1, batch_size=2, seq_len=16, eval_batches=1)
    runs = record_rates(tmp_path, training)["runs"]
    assert [(run["preset"], run["lr"]) for run in runs] == [
        (preset, lr) for preset in ("tiny", "tiny_dense") for lr in RATES
    ]
    assert record_rates(tmp_path, training)["runs"] == runs
    assert read_rates(tmp_path)["runs"] == runs


def test_the_kept_rates_cover_both_models():
    kept = read_rates()["runs"]
    assert {(run["preset"], run["lr"]) for run in kept} == {
        (preset, lr) for preset in ("tiny", "tiny_dense") for lr in RATES
    }


def test_a_missing_record_says_how_to_make_it(tmp_path):
    with pytest.raises(ValueError, match="no record of first_run: run `make exper"):
        read_first_run(tmp_path)
