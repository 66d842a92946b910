"""Runs that are really killed, by SIGKILL and others, and go on to the same end."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from kept_runs import PLAIN, job_in, quick_ranks

from tiny_lm import checkpoint_files, console, runs, train
from tiny_lm.config import TrainConfig, preset
from tiny_lm.job import Job

RANKS = 2
TRAINING = TrainConfig(steps=6, batch_size=4, seq_len=16, warmup_steps=0)
# The same, as the command line says it.
OPTIONS = ("--batch-size", "4", "--seq-len", "16", "--steps", "6")


@pytest.fixture(scope="module", autouse=True)
def _quick() -> Iterator[None]:
    with quick_ranks():
        yield


def _job(folder: Path) -> Job:
    kinds = {"config": preset("tiny"), "ranks": RANKS, "training": TRAINING}
    return job_in(folder, **kinds, checkpoint_every=2)


def _ended(out: Path) -> tuple[list[dict], bytes, dict]:
    """All that a run leaves, but for how long it took and where it is."""
    clock = {"tokens_per_s", "seconds", "run", "resumed_after"}
    metrics = runs.read_metrics(out)
    summary = json.loads((out / "summary.json").read_text())
    names = {path.name for path in out.iterdir()}
    assert names == {"config.json", "model.safetensors", runs.METRICS, "summary.json"}
    return (
        [{k: v for k, v in m.items() if k not in clock} for m in metrics],
        (out / "model.safetensors").read_bytes(),
        {k: v for k, v in summary.items() if k not in clock},
    )


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> tuple:
    job = _job(tmp_path_factory.mktemp("whole"))
    train.run(job)
    return _ended(job.out)


def _await_steps(out: Path, count: int) -> None:
    metrics, end = out / runs.METRICS, time.monotonic() + 60
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < count:
        assert time.monotonic() < end, "it does not get there"
        time.sleep(0.005)


def _kill_rank(number: int, out: Path, after: int) -> None:
    _await_steps(out, after)
    for process in multiprocessing.active_children():
        if process.name == f"rank {number}":
            os.kill(process.pid, signal.SIGKILL)


def _killed(job: Job, rank: int, after: int) -> int:
    """Run it, kill a rank on the way; the step that is kept then."""
    killer = threading.Thread(target=_kill_rank, args=(rank, job.out, after))
    killer.start()
    with pytest.raises(RuntimeError, match=f"rank {rank} was killed by") as caught:
        train.run(job)
    killer.join()
    step = checkpoint_files.step_of(checkpoint_files.all_of(job.out)[-1])
    assert str(caught.value).splitlines()[-1] == (
        f"step {step} is kept; the same command with --out {job.out} --resume goes on "
        "from it"
    )
    return step


def test_a_killed_rank_costs_what_came_after_the_last_checkpoint_and_nothing_else(
    tmp_path, uninterrupted
):
    job = _job(tmp_path)
    kept = _killed(job, rank=0, after=3)
    assert kept in (2, 4)
    summary = train.run(replace(job, resume=True))
    assert summary["resumed_after"] == kept
    assert _ended(job.out) == uninterrupted  # bit for bit, bytes sent included


def test_torchrun_starts_killed_ranks_again_and_the_run_goes_on(
    tmp_path, uninterrupted
):
    job = _job(tmp_path)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(RANKS), "--max-restarts", "2"]
    command += ["-m", "tiny_lm", "train", *OPTIONS, "--json", "--checkpoint-every", "2"]
    command += ["--data", str(job.data), "--out", str(job.out), "--resume"]
    said, result = tmp_path / "said", tmp_path / "result"
    with said.open("wb") as errors, result.open("wb") as results:
        torchrun = subprocess.Popen(
            command, stdout=results, stderr=errors, env=os.environ | PLAIN
        )
        try:
            _await_steps(job.out, 3)
            os.kill(_children(torchrun.pid)[-1], signal.SIGKILL)
            code = torchrun.wait(timeout=120)
        finally:
            torchrun.terminate()
            torchrun.wait(timeout=60)
    words = said.read_text()
    assert code == 0, words[-3000:]
    assert f"nothing in {job.out} to go on from: beginning at step 1" in words
    assert "going on after step" in words
    (line,) = result.read_text().splitlines()  # of one rank alone
    assert json.loads(line)["ranks"] == RANKS
    metrics, weights, summary = _ended(job.out)
    assert (metrics, weights) == uninterrupted[:2]
    assert summary["bytes_sent"] == uninterrupted[2]["bytes_sent"]


def _children(pid: int) -> list[int]:
    """The ranks that a torchrun has started, in their order."""
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True
    )
    return sorted(map(int, listed.stdout.split()))


@pytest.fixture
def keyboard() -> Iterator[None]:
    """Ctrl-C as in a terminal, even where a shell runs the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def _stop_at(step: int, how: signal.Signals) -> object:
    """In place of `journal.report`: the process gets a signal after a step."""
    report = train.journal.report

    def stop(job: Job, bar: object, metrics: dict, board: object) -> None:
        report(job, bar, metrics, board)
        if metrics["step"] == step:
            signal.raise_signal(how)

    return stop


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.usefixtures("keyboard")
def test_who_stops_a_run_is_told_how_to_go_on(tmp_path, monkeypatch, capsys, how, code):
    if how == signal.SIGTERM:  # as under `nohup … &`, where Ctrl-C does nothing
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    job = replace(_job(tmp_path), ranks=1, config=preset("tiny_dense"))
    monkeypatch.setattr(train.journal, "report", _stop_at(5, how))

    def command() -> None:
        with console.terminable():
            train.run(job)

    assert console.run(command) == code
    said = capsys.readouterr().err
    assert said == (
        f"stopped: step 4 is kept; the same command with --out {job.out} --resume goes "
        "on from it\n"
    )
    monkeypatch.undo()
    assert train.run(replace(job, resume=True))["resumed_after"] == 4


@pytest.mark.usefixtures("keyboard")
def test_a_stop_while_a_checkpoint_is_written_is_a_stop_and_no_failure(
    tmp_path, monkeypatch
):
    job = replace(_job(tmp_path), ranks=1, config=preset("tiny_dense"))
    write = checkpoint_files.write_through

    def stop(path: Path, raw: bytes) -> None:
        if checkpoint_files.all_of(job.out):
            signal.raise_signal(signal.SIGINT)
        write(path, raw)

    monkeypatch.setattr(checkpoint_files, "write_through", stop)
    with pytest.raises(KeyboardInterrupt, match="step 2 is kept"):
        train.run(job)
    left = [p.name for p in (job.out / checkpoint_files.FOLDER).iterdir()]
    assert "step-000002" in left and len(left) == 2  # and a draft that nobody finds
