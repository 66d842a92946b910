"""A run's own words: the bar, the metrics, where weights came from, the summary."""

import json
from dataclasses import replace
from pathlib import Path

from tiny_lm import journal, runs
from tiny_lm.config import TrainConfig, tiny
from tiny_lm.data import Corpus, Document
from tiny_lm.job import Job

METRICS = {
    "step": 7,
    "loss": 2.5,
    "val_loss": 2.75,
    "tokens_per_s": 1000.0,
    "max_violation": [0.5, 1.25],
}


def _job(out: Path) -> Job:
    return Job(config=tiny(), training=TrainConfig(steps=9, lr=1e-3), out=out, ranks=2)


def test_a_step_is_kept_and_shown(tmp_path, capsys):
    with journal.progress(_job(tmp_path), rank=0) as bar:
        board = journal.board(_job(tmp_path), rank=0)
        journal.report(_job(tmp_path), bar, METRICS, board)
    assert runs.read_metrics(tmp_path) == [METRICS]
    assert [path.name for path in tmp_path.iterdir()] == [runs.METRICS]
    shown = capsys.readouterr().err
    assert "training tiny on 2 rank(s)" in shown
    assert "loss=2.500, val=2.750, tokens/s=1,000, MaxVio=1.25" in shown


def test_only_the_first_rank_has_a_bar_and_only_where_it_is_wanted(tmp_path):
    job = _job(tmp_path)
    assert journal.progress(job, rank=1).disable
    assert journal.progress(replace(job, progress=False), rank=0).disable


def test_where_weights_came_from_holds_what_was_used_not_what_was_left_open(tmp_path):
    corpus = Corpus("two", (Document("a", b"x"),))
    about = journal.origin(_job(tmp_path), corpus)
    assert (about["final_lr"], about["warmup_steps"]) == (1e-4, 9)
    assert (about["corpus"], about["corpus_bytes"], about["ranks"]) == ("two", 1, 2)


def test_a_summary_is_json_even_where_nothing_was_done(tmp_path):
    summary = journal.summary(_job(tmp_path), METRICS, bytes_sent=12)
    assert (summary["steps"], summary["loss"], summary["bytes_sent"]) == (7, 2.5, 12)
    nothing = json.loads(json.dumps(journal.summary(_job(tmp_path), {}, 0)))
    assert (nothing["steps"], nothing["loss"]) == (0, None)
