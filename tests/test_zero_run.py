"""Runs with sharded states, from the command line."""

import json

import pytest

from tiny_lm.__main__ import main

SHORT = ("--steps", "3", "--batch-size", "4", "--seq-len", "32", "--json")


@pytest.fixture(scope="module")
def summary(tmp_path_factory):
    """Train `tiny` on two ranks; returns what the run says of itself."""
    folder = tmp_path_factory.mktemp("zero")
    text = folder / "text.txt"
    text.write_text("the cat sat on the mat. " * 400)

    def run(name, *options, capsys):
        place = ("--data", str(text), "--out", str(folder / name), "--ranks", "2")
        assert main(["train", *place, *SHORT, *options]) == 0
        found = json.loads(capsys.readouterr().out.splitlines()[-1])
        return {k: v for k, v in found.items() if k not in TIMED}

    return run


TIMED = ("seconds", "run", "tokens_per_s")  # of this machine, and this run's folder


def test_a_run_learns_and_sends_as_much_with_sharded_states(summary, capsys):
    plain = summary("plain", capsys=capsys)
    sharded = summary("sharded", "--zero", capsys=capsys)
    again = summary("again", "--zero", capsys=capsys)
    assert sharded == again  # `emulated` included
    for name in ("loss", "val_loss"):
        assert sharded[name] == pytest.approx(plain[name], rel=1e-4)
    # Routes differ where scores tie but for rounding; the rest is equal to the byte.
    assert sharded["bytes_sent"] == pytest.approx(plain["bytes_sent"], rel=1e-3)
    assert sharded["emulated"] != plain["emulated"]


def test_one_rank_has_nobody_to_share_with(capsys):
    assert main(["train", "--zero", "--ranks", "1", *SHORT]) == 2
    assert "--zero is about several ranks, and there is one" in capsys.readouterr().err
