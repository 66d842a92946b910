"""A run with sharded states, from the command line."""

import json

from tiny_lm.__main__ import main

SHORT = ("--steps", "2", "--batch-size", "2", "--seq-len", "32", "--json")


def test_a_run_with_sharded_states_ends_like_any_other(tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("the cat sat on the mat. " * 400)
    place = ("--data", str(text), "--out", str(tmp_path / "run"), "--ranks", "2")
    assert main(["train", "--zero", *place, *SHORT]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert 0 < summary["val_loss"] < 6
    assert summary["emulated"]["scaled_twin"]["hidden_comm_ms"] > 0
    assert (tmp_path / "run" / "model.safetensors").exists()


def test_one_rank_has_nobody_to_share_with(capsys):
    assert main(["train", "--zero", "--ranks", "1", *SHORT]) == 2
    assert "--zero is about several ranks, and there is one" in capsys.readouterr().err
