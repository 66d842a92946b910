"""TensorBoard's own reader finds in the event files what metrics.jsonl says."""

import sys
from pathlib import Path

import pytest

from tiny_lm import events, journal, runs
from tiny_lm.__main__ import main
from tiny_lm.config import TrainConfig, preset
from tiny_lm.job import Job
from tiny_lm.train import learning_rate

SIZE = ["--steps", "3", "--batch-size", "2", "--seq-len", "32", "--mtp", "1"]


def _read(folder: Path) -> dict[str, list[tuple[int, float]]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return {
        tag: [(event.step, event.value) for event in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
    }


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("events")
    (folder / "text.txt").write_text("the cat sat on the mat. " * 400)
    out = folder / "run"
    command = ["train", "--ranks", "1", *SIZE, "--tensorboard"]
    command += ["--data", str(folder / "text.txt"), "--out", str(out), "--json"]
    assert main(command) == 0
    return out


def test_tensorboard_reads_every_metric_of_every_step(run_folder):
    found = _read(run_folder / events.FOLDER)
    metrics = runs.read_metrics(run_folder)
    layers = [f"max_violation/layer_{layer}" for layer in (1, 2, 3, 4)]
    assert sorted(found) == sorted([*events.NAMES, *layers])
    for name in events.NAMES:
        wanted = [(m["step"], m[name]) for m in metrics if name in m]
        assert [step for step, _ in found[name]] == [step for step, _ in wanted]
        values = [value for _, value in wanted]
        assert [value for _, value in found[name]] == pytest.approx(values, rel=1e-6)
    assert len(found["loss"]) == 3 and len(found["val_loss"]) == 1
    for place, name in enumerate(layers):
        values = [m["max_violation"][place] for m in metrics]
        assert [v for _, v in found[name]] == pytest.approx(values, rel=1e-6)


def test_the_rate_that_is_reported_is_the_one_that_was_set(run_folder):
    training = TrainConfig(steps=3, batch_size=2, seq_len=32, warmup_steps=0)
    wanted = [learning_rate(step, training) for step in range(3)]
    assert [m["lr"] for m in runs.read_metrics(run_folder)] == wanted
    assert len(set(wanted)) == 3


def _metrics(step: int, loss: float) -> dict:
    return {"step": step, "loss": loss, "max_violation": []}


def test_a_run_that_is_taken_up_again_replaces_the_steps_after_its_return(tmp_path):
    with events.Board(tmp_path) as board:
        for step in (1, 2, 3, 4):
            board.add(_metrics(step, float(step)))
    with events.Board(tmp_path) as board:
        for step in (3, 4):
            board.add(_metrics(step, 10.0 * step))
    assert _read(tmp_path)["loss"] == [(1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0)]


def test_only_the_first_rank_writes_and_only_where_it_is_wanted(tmp_path):
    for asked, rank, written in ((True, 0, True), (True, 1, False), (False, 0, False)):
        out = tmp_path / f"{asked}-{rank}"
        out.mkdir()
        config, training = preset("tiny_dense"), TrainConfig()
        job = Job(config=config, training=training, out=out, tensorboard=asked)
        with journal.board(job, rank) as board:
            board.add(_metrics(1, 2.0))
        assert (out / events.FOLDER).exists() == written


def test_without_the_package_nothing_is_started(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    for name in [n for n in sys.modules if n.startswith("torch.utils.tensorboard")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.chdir(tmp_path)
    assert main(["train", "--tensorboard"]) == 2
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 1
    assert "pip install -c constraints.txt tensorboard" in printed
    assert not list(tmp_path.iterdir())
