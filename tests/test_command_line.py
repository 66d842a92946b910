"""The command line, as a user meets it: a process, its output, its exit code."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kept_runs import PLAIN

from tiny_lm import __main__ as command
from tiny_lm import console
from tiny_lm.__main__ import main


def _tiny_lm(*args: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "tiny_lm", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=180,
        env=os.environ | PLAIN,  # as a user has it; test_train.py checks shapes
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> tuple[Path, dict, subprocess.CompletedProcess]:
    """One short run on four ranks, on a text of its own."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "text.txt").write_text("the cat sat on the mat. " * 400)
    out = folder / "run"
    size = ("--steps", 4, "--batch-size", 4, "--seq-len", 16)
    result = _tiny_lm(
        "train", "--data", folder / "text.txt", "--out", out, *size, "--json"
    )
    assert result.returncode == 0, result.stderr
    return out, json.loads(result.stdout.splitlines()[-1]), result


def test_train_ends_in_one_json_line_with_everything_promised(trained):
    out, summary, result = trained
    promised = """preset ranks steps loss val_loss tokens_per_s params_total
        params_active kv_bytes_per_token bytes_sent emulated seconds run"""
    assert set(promised.split()) == set(summary)
    assert summary["ranks"] == 4
    assert summary["steps"] == 4
    assert len(result.stdout.splitlines()) == 1
    assert "loss=" in result.stderr
    assert "MaxVio=" in result.stderr


def test_the_last_step_is_emulated_on_the_twin_and_on_two_real_machines(trained):
    emulated = trained[1]["emulated"]
    assert list(emulated) == ["scaled_twin", "h800", "h100"]
    for times in emulated.values():
        assert times["step_ms"] > times["exposed_comm_ms"] > 0
    assert emulated["h800"]["exposed_comm_ms"] > emulated["h100"]["exposed_comm_ms"]


def test_a_run_leaves_its_four_files(trained):
    names = {path.name for path in trained[0].iterdir()}
    wanted = {"config.json", "model.safetensors", "metrics.jsonl", "summary.json"}
    assert names == wanted


def test_generate_continues_the_prompt(trained, capfdbinary):
    code = main(["generate", str(trained[0]), "--prompt", "the ", "--bytes", "20"])
    printed = capfdbinary.readouterr().out
    assert code == 0
    assert printed.startswith(b"the ")
    assert len(printed) == len(b"the ") + 20 + 1
    bad = ["generate", str(trained[0]), "--prompt", "the ", "--bytes", "4093"]
    for option in ([], ["--temperature", "nan"], ["--top-p", "0"]):
        assert main([*(bad if not option else bad[:-2]), *option]) == 2
    assert capfdbinary.readouterr().out == b""  # refused before anything is written
    assert (
        main(["generate", str(trained[0]), "--prompt", "\udcff", "--bytes", "1"]) == 0
    )
    assert capfdbinary.readouterr().out.startswith(b"\xff")


def test_a_sample_is_printed_on_a_console_that_knows_ascii(trained, monkeypatch):
    out, summary, _ = trained
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, "ascii"))
    monkeypatch.setattr(command, "generate", lambda *_: "π \ufffd")
    assert console.run(lambda: command._print_summary(summary, as_json=False)) == 0
    assert raw.getvalue().endswith(rb"def \u03c0 \ufffd" + b"\n")


def test_cost_prints_the_published_counts(capsys):
    assert main(["cost", "deepseek_v3", "--json"]) == 0
    cost = json.loads(capsys.readouterr().out)
    assert cost["params_total"] == pytest.approx(671.026e9, rel=1e-6)
    assert cost["kv_bytes_per_token"] == 70_272
    assert main(["cost", "deepseek_v3"]) == 0
    assert "671.026" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train", "--pp", "3"], "--pp 3 does not divide 4 ranks evenly"),
        (["train", "--schedule", "zbv"], "--schedule zbv orders a pipeline: add"),
        (["train", "--pp", "2", "--schedule", "x"], "one of 1f1b, zbv, dualpipev"),
        (["train", "tinny"], "unknown preset 'tinny'; there are: tiny,"),
        (["train", "deepseek_v3"], "deepseek_v3 is too large to train here"),
        (["train", "--ranks", "3"], "3 ranks cannot share 16 experts"),
        (["train", "--data", "absent.txt"], "no such file or folder: absent.txt"),
        (["train", "--data", "empty.txt"], "empty file: empty.txt"),
        (["train", "--data", "binary.bin"], "binary.bin"),
        (["train", "--data", "short.txt"], "short.txt is too short"),
        (["train", "--out", "/proc/none"], "cannot write to /proc/none"),
        (["train", "--out", "."], ". is not empty: it holds binary.bin; name another"),
        (["train", "--lr", "nan"], "TrainConfig.lr must be a finite number"),
        (["train", "--mtp", "128"], "num_mtp=128 further tokens need sequences longer"),
        (["train", "--device", "cuda"], "torch sees no GPU here"),
        (["train", "--device", "gpu"], "device must be cpu or cuda, got 'gpu'"),
        (["generate", ".", "--prompt", "x", "--bytes", "0"], "--bytes must be posit"),
        (["generate", ".", "--prompt", "x", "--seed", str(2**63)], "--seed has 64 bit"),
        (["train", "--steps", "0"], "steps must be positive, got 0"),
        (["generate", "absent", "--prompt", "x"], "absent is not a run"),
        (["export", "absent", "out"], "absent is not a run"),
        (["cost", "gpt5"], "unknown preset 'gpt5'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    args, message, tmp_path, monkeypatch, capsys
):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "short.txt").write_text("short")
    (tmp_path / "binary.bin").write_bytes(bytes(range(256)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tiny_lm.gpus.launch.run_ranks", _no_process)
    assert main(args) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert len(printed.err.splitlines()) == 1
    assert not printed.out


def _no_process(*_: object, **__: object) -> None:
    raise AssertionError("a process was started for bad input")
