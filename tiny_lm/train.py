"""Training: the loop over steps, on one rank or on many, and what is kept of a run.

Chapter: 06_together/full_model
Source: deepseek_v3, section 4.2

Every rank runs the same loop on its own share of each batch; `step` has what it does in
a step.
"""

import sys
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tiny_lm import checkpoint_files, files, journal, memory, resume, runs
from tiny_lm.checkpoint import CheckpointError, Keeper
from tiny_lm.config import TrainConfig
from tiny_lm.divergence import LastGood, NotFinite
from tiny_lm.gpus import comm, launch, mesh, torchrun
from tiny_lm.gpus.mesh import Group
from tiny_lm.job import Job, batches, read_corpus
from tiny_lm.parallel.gather_tapes import gather_tapes
from tiny_lm.replay import specs
from tiny_lm.replay.tape import Tape
from tiny_lm.router import max_violation
from tiny_lm.step import Worker, build_worker


def learning_rate(step: int, training: TrainConfig) -> float:
    """Up in a straight line, down along half a cosine."""
    t = training
    if step < t.warmup:
        return t.lr * (step + 1) / t.warmup
    done = (step - t.warmup) / max(t.steps - t.warmup, 1)
    half_turn = torch.tensor(torch.pi * done, dtype=torch.float64, device="cpu")
    cosine = half_turn.cos().item()
    return t.lowest_lr + (t.lr - t.lowest_lr) * (1 + cosine) / 2


def steps(
    job: Job,
    worker: Worker,
    parts: tuple[Tensor, Tensor],
    tapes: list[Tape] | None = None,
    good: LastGood | None = None,
    first: int = 0,
) -> Iterator[dict[str, Any]]:
    """Train, and yield the metrics of every step.

    Args:
        tapes: where the last step is recorded; it gets this rank's tape of it.
        good: of the worker's model, as it was after step `first`.
        first: steps that are done already.

    Raises:
        NotFinite: a loss is no number any more; the model has its last good weights.
    """
    t, (training, validation) = job.training, batches(job, *parts)
    good, group, device = good or LastGood(worker.model), worker.group, worker.device
    started = time.perf_counter()
    for step in range(first, t.steps):
        lr = learning_rate(step, t)
        worker.set_rate(lr)
        tokens = training.at(step, group.rank, group.size).to(device)
        good.before_step()
        metrics = {"step": step + 1, "lr": lr}
        if tapes is None or step + 1 < t.steps:
            metrics |= worker.step(tokens)
        else:
            done, tape = worker.record(tokens)
            metrics |= done
            tapes.append(tape)
        good.check(metrics)
        if (step + 1) % t.eval_every == 0 or step + 1 == t.steps:
            metrics["val_loss"] = worker.evaluate(validation)
            good.check(metrics)
        seconds = time.perf_counter() - started
        tokens_done = (step + 1 - first) * t.batch_size * t.seq_len
        metrics["tokens_per_s"] = round(tokens_done / seconds, 1)
        metrics["max_violation"] = [
            round(max_violation(torch.tensor(load)), 3) for load in metrics["load"]
        ]
        yield metrics


def train(job: Job, group: Group, device: torch.device | str) -> dict[str, Any] | None:
    """Train on this rank; the first rank writes the run and returns its summary.

    Where a loss is no number any more, the run ends with the last good weights, and
    the summary says under `stopped` what happened. Where it could not be kept, it ends
    without a model, and the summary has nothing but the reason, under `failed`.
    """
    corpus, *parts = read_corpus(job)
    make = job.maker.worker if job.maker else build_worker
    worker = make(job, group, device)
    good, about = LastGood(worker.model), journal.about(job, corpus)
    keeper = Keeper(job, worker, good, group, about)
    metrics, stopped, tapes = {}, None, []
    try:
        keeper.begin()
        worker.check()
        bar = journal.progress(job, group.rank, keeper.first)
        board = journal.board(job, group.rank)
        with memory.settled(), comm.metering() as meter, bar, board:
            for metrics in steps(job, worker, parts, tapes, good, keeper.first):
                if group.rank == 0:
                    journal.report(job, bar, metrics, board)
                keeper.after(metrics["step"], meter.total_bytes)
    except NotFinite as error:
        stopped = error
    except CheckpointError as error:
        return None if group.rank else {"failed": str(error)}
    sent = torch.tensor(keeper.sent + meter.total_bytes, device=device)
    sent = int(comm.all_reduce(sent, group))
    state = worker.gather_state()
    tapes = [] if stopped else gather_tapes(*tapes, group, device)
    if group.rank:
        return None
    summary = journal.summary(job, metrics, sent)
    summary["emulated"] = specs.emulate(tapes) if tapes else {}
    if keeper.first:
        summary["resumed_after"] = keeper.first
    if stopped:
        summary["stopped"], summary["steps"] = str(stopped), stopped.kept
    if not stopped or stopped.kept:
        runs.save_model(job.out, job.config, state, about["training"])
    summary["seconds"] = round(keeper.seconds, 1)
    runs.save_summary(job.out, summary)
    if not stopped:
        checkpoint_files.drop(job.out)
    return summary


def _rank_main(rank: int, job: Job) -> dict[str, Any] | None:
    device = torch.device(job.device)
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    if rank:
        return train(job, mesh.world(), device)
    with files.share(job.out / runs.METRICS):
        return train(job, mesh.world(), device)


def run(job: Job) -> dict[str, Any] | None:
    """Do the job on as many ranks as it asks for, and return its summary.

    Under torchrun this process is one of the ranks, and only the first returns it. A
    job that goes on with a run that has come to its end returns that one's summary.

    Raises:
        ValueError: the job cannot run.
        RuntimeError: a rank failed; or a loss was no number any more, and the run ended
            with the last good weights; or it could not be kept.
        KeyboardInterrupt: somebody stopped it; it says what is left.
    """
    job.check()
    place = torchrun.placement()
    if job.device == "cuda" and job.ranks > 1 and place is None:
        raise ValueError(
            f"emulated GPUs are processes of the CPU: for {job.ranks} real ones start "
            f"with torchrun --nproc-per-node {job.ranks}, or take --ranks 1"
        )
    if place is None and job.ranks > 1:
        launch.check_temp()
    if job.resume and (summary := resume.finished(job)):
        return summary if place is None or place.rank == 0 else None
    if place and place.rank:  # torchrun's other ranks leave the folder alone
        return torchrun.run_rank(_rank_main, job, device=job.device)
    resume.check_room(job)
    with resume.opened(job, begins=place is not None) as job:
        summary = _run_in_folder(job, place is not None)
    if "failed" in summary:
        raise RuntimeError(f"{summary['failed']}: {resume.how_to_go_on(job)}")
    if "stopped" in summary:
        raise RuntimeError(_how_it_stopped(job, summary))
    return summary


def _run_in_folder(job: Job, under_torchrun: bool) -> dict[str, Any]:
    try:
        if under_torchrun:
            return torchrun.run_rank(_rank_main, job, device=job.device)
        if job.ranks == 1:
            return train(job, mesh.solo(), job.device)
        return launch.run_ranks(job.ranks, _rank_main, job, timeout_s=86_400.0)[0]
    except KeyboardInterrupt as error:
        if job.progress and job.ranks > 1:
            print(file=sys.stderr)  # a killed rank's bar leaves its line open
        said = [*error.args, resume.how_to_go_on(job)]
        raise type(error)("; ".join(said)) from None
    except RuntimeError as error:
        if not checkpoint_files.all_of(job.out):
            raise
        raise RuntimeError(f"{error}\n{resume.how_to_go_on(job)}") from error


def _how_it_stopped(job: Job, summary: dict[str, Any]) -> str:
    kept = "before anything was learnt"
    if step := summary["steps"]:
        kept = f"the weights of step {step}, its last good one, are in {job.out}"
    return f"{summary['stopped']}: {kept}; a lower --lr than {job.training.lr:g} helps"
