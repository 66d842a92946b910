"""Which checkpoint a run goes on from, and every reason not to, in one line each.

Chapter: 06_together/keep_and_resume

All of this is looked at before any process starts and before anything is changed: a run
that cannot go on is as it was.

Under torchrun, `--resume` also begins: where nothing is there yet, or nothing was kept
before a kill. So one command line serves the first attempt and all that torchrun or a
queue makes after it. Elsewhere that would hide a mistyped folder.
"""

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tiny_lm import checkpoint_files, costs, events, files, journal, runs
from tiny_lm.job import Job, read_corpus

# What a run may change when it goes on, and what is only there for the reader.
FREE = {"ranks", "device", "torch", "python", "corpus", "corpus_bytes"}
OPTIONS = {
    "name": "the preset",
    "num_mtp": "--mtp",
    "batch_size": "--batch-size",
    "seq_len": "--seq-len",
    "lr": "--lr",
    "seed": "--seed",
    "corpus_sha256": "--data of sha256",
}
NUMBERS_A_WEIGHT, BYTES_A_NUMBER = 4, 4


def checkpoint_bytes(job: Job) -> int:
    """What a checkpoint takes, its names and the generators' states left out."""
    weights = costs.count_parameters(job.config).total
    return NUMBERS_A_WEIGHT * BYTES_A_NUMBER * weights


def check_room(job: Job) -> None:
    """Refuse a run whose checkpoints will not fit, before it has computed anything.

    Raises:
        ValueError: the disk has no room for those that are there at a time, or no file
            may be that large.
    """
    if not job.checkpoint_every:
        return
    size, times = checkpoint_bytes(job), checkpoint_files.KEPT + 1
    folder = (job.out or Path("runs")).absolute()
    while not folder.exists():
        folder = folder.parent
    disk, most = shutil.disk_usage(folder), _largest_file()
    wayout = "or --checkpoint-every 0 keeps none"
    if disk.total and disk.free < times * size:  # without a total, it is no disk
        raise ValueError(
            f"checkpoints take {size:,} bytes each, {times} of them at a time, and "
            f"{folder} has {disk.free:,} left: make room, {wayout}"
        )
    if most < size // job.ranks:
        raise ValueError(
            f"a checkpoint's files take {size // job.ranks:,} bytes each, and no file "
            f"may have more than {most:,} here (ulimit -f): raise that, {wayout}"
        )


def _largest_file() -> float:
    try:
        import resource  # not on Windows
    except ImportError:
        return float("inf")
    most = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    return float("inf") if most == resource.RLIM_INFINITY else most


def finished(job: Job) -> dict[str, Any] | None:
    """The summary of a run that has come to its end already; None if it has not.

    Raises:
        ValueError: it was another run, or its loss was no number any more.
    """
    place = job.out / "summary.json"
    if not place.is_file():
        return None
    _refuse_other(job, files.read_json(job.out / "config.json"))
    summary = files.read_json(place)
    if "stopped" in summary:
        raise ValueError(
            f"{job.out} has ended: {summary['stopped']}, and would again; begin anew "
            f"with a lower --lr than {job.training.lr:g} and another --out"
        )
    return summary


@contextmanager
def opened(job: Job, begins: bool) -> Iterator[Job]:
    """The job with a folder that no other program uses meanwhile.

    Where it goes on, `start` says from which checkpoint, and the metrics end there.

    Args:
        begins: whether `resume` may begin, where there is nothing to go on from.

    Raises:
        ValueError: the folder cannot be used, or the run cannot go on from it.
    """
    goes_on = job.resume and not (begins and _is_empty(job.out))
    if not goes_on:
        job = job.open_folder()
    elif not (job.out / runs.METRICS).is_file():
        raise ValueError(
            f"{job.out} holds no run to go on with: leave --resume away to begin one"
        )
    with files.in_use(job.out / runs.METRICS):
        if goes_on:
            job = replace(job, start=_start(job, begins))
        elif job.resume:
            _say(job, f"nothing in {job.out} to go on from: beginning at step 1")
        yield job


def _is_empty(folder: Path) -> bool:
    return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))


def _start(job: Job, begins: bool) -> Path | None:
    """The newest checkpoint, when it is sure to be this run's and whole."""
    files.prepare(job.out)
    there = checkpoint_files.all_of(job.out)
    if not there:
        return _begin_again(job, begins)
    newest = there[-1]
    try:
        about = checkpoint_files.read_about(newest)
        _refuse_other(job, about)
        checkpoint_files.check_files(newest, about)
    except checkpoint_files.Damaged as error:
        raise ValueError(f"{error}{_fall_back(there)}") from error
    runs.cut_metrics(job.out, about["step"])
    checkpoint_files.clear_drafts(job.out)
    done, steps = about["step"], job.training.steps
    _say(job, f"going on after step {done} of {steps}, in {job.out}")
    return newest


def _fall_back(there: list[Path]) -> str:
    if len(there) < 2:
        return ", and there is no older one"
    step = checkpoint_files.step_of(there[-2])
    return f"; remove {there[-1].name} to go on after step {step}"


def _begin_again(job: Job, begins: bool) -> None:
    """After a kill before the first checkpoint."""
    others = {p.name for p in job.out.iterdir()}
    others -= {runs.METRICS, checkpoint_files.FOLDER, events.FOLDER}
    if others or not begins:
        raise ValueError(
            f"{job.out} holds no checkpoint to go on from: begin anew with another "
            "--out, without --resume"
        )
    runs.cut_metrics(job.out, 0)
    checkpoint_files.clear_drafts(job.out)
    _say(job, f"nothing was kept in {job.out} yet: beginning at step 1 again")


def _refuse_other(job: Job, about: Mapping[str, Any]) -> None:
    """Make sure that the folder's run is the one that is asked for now."""
    then, now = _identity(about), _identity(journal.about(job, read_corpus(job)[0]))
    if then.get("steps") != now["steps"]:
        raise ValueError(
            f"{job.out} is a run of {then.get('steps')} steps, along which its learning"
            f" rate falls: with --steps {now['steps']} it would be another run; leave "
            "that as it was, or name another --out"
        )
    for name in sorted(then.keys() | now.keys(), key=lambda n: n not in OPTIONS):
        if then.get(name) != now.get(name):
            raise ValueError(
                f"{job.out} was begun with {OPTIONS.get(name, name)} {then.get(name)}, "
                f"not {now.get(name)}: leave that as it was, or name another --out"
            )


def _identity(about: Mapping[str, Any]) -> dict[str, Any]:
    """All that makes a run the one it is, by flat names and as JSON has it."""
    try:
        parts = json.loads(files.to_json({k: about[k] for k in ("model", "training")}))
        names = parts["model"] | parts["training"]
    except (KeyError, TypeError) as error:
        raise ValueError("this is not a run of this version of tiny_lm") from error
    return {name: value for name, value in names.items() if name not in FREE}


def how_to_go_on(job: Job) -> str:
    """What is left of a run that was stopped, for whoever stopped it."""
    if there := checkpoint_files.all_of(job.out) if job.out else []:
        step = checkpoint_files.step_of(there[-1])
        return (
            f"step {step} is kept; the same command with --out {job.out} --resume goes "
            "on from it"
        )
    return "nothing was kept yet"


def _say(job: Job, words: str) -> None:
    if job.progress:
        print(words, file=sys.stderr, flush=True)
