"""Training: the loop over steps, on one rank or on many, and what is kept of a run.

Chapter: 06_together/full_model
Source: deepseek_v3, section 4.2

Every rank runs the same loop on its own share of each batch; `step` has what it does in
a step.
"""

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tiny_lm import journal, memory, runs
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
) -> Iterator[dict[str, Any]]:
    """Train, and yield the metrics of every step.

    Args:
        tapes: where the last step is recorded; it gets this rank's tape of it.

    Raises:
        NotFinite: a loss is no number any more; the model has its last good weights.
    """
    t, (training, validation) = job.training, batches(job, *parts)
    good, group, device = LastGood(worker.model), worker.group, worker.device
    started = time.perf_counter()
    for step in range(t.steps):
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
        tokens_done = (step + 1) * t.batch_size * t.seq_len
        metrics["tokens_per_s"] = round(tokens_done / seconds, 1)
        metrics["max_violation"] = [
            round(max_violation(torch.tensor(load)), 3) for load in metrics["load"]
        ]
        yield metrics


def train(job: Job, group: Group, device: torch.device | str) -> dict[str, Any] | None:
    """Train on this rank; the first rank writes the run and returns its summary.

    Where a loss is no number any more, the run ends with the last good weights, and
    the summary says under `stopped` what happened.
    """
    started = time.perf_counter()
    corpus, *parts = read_corpus(job)
    make = job.maker.worker if job.maker else build_worker
    worker = make(job, group, device)
    worker.check()
    metrics, stopped, tapes = {}, None, []
    settled, metering = memory.settled(), comm.metering()
    bar, board = journal.progress(job, group.rank), journal.board(job, group.rank)
    with settled, metering as meter, bar, board:
        try:
            for metrics in steps(job, worker, tuple(parts), tapes):
                if group.rank == 0:
                    journal.report(job, bar, metrics, board)
        except NotFinite as error:
            stopped = error
    sent = torch.tensor(meter.total_bytes, dtype=torch.int64, device=device)
    sent = int(comm.all_reduce(sent, group))
    state = worker.gather_state()
    tapes = [] if stopped else gather_tapes(*tapes, group, device)
    if group.rank:
        return None
    summary = journal.summary(job, metrics, sent)
    summary["emulated"] = specs.emulate(tapes) if tapes else {}
    if stopped:
        summary["stopped"], summary["steps"] = str(stopped), stopped.kept
    if not stopped or stopped.kept:
        runs.save_model(job.out, job.config, state, journal.origin(job, corpus))
    summary["seconds"] = round(time.perf_counter() - started, 1)
    runs.save_summary(job.out, summary)
    return summary


def _rank_main(rank: int, job: Job) -> dict[str, Any] | None:
    device = torch.device(job.device)
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    return train(job, mesh.world(), device)


def run(job: Job) -> dict[str, Any] | None:
    """Do the job on as many ranks as it asks for, and return its summary.

    Under torchrun this process is one of the ranks, and only the first returns it.

    Raises:
        ValueError: the job cannot run.
        RuntimeError: a rank failed; or a loss was no number any more, and the run ended
            with the last good weights.
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
    if place is None or place.rank == 0:  # torchrun's other ranks leave it alone
        job = job.open_folder()
    if place:
        summary = torchrun.run_rank(_rank_main, job, device=job.device)
    elif job.ranks == 1:
        summary = train(job, mesh.solo(), job.device)
    else:
        summary = launch.run_ranks(job.ranks, _rank_main, job, timeout_s=86_400.0)[0]
    if summary and "stopped" in summary:
        raise RuntimeError(_how_it_stopped(job, summary))
    return summary


def _how_it_stopped(job: Job, summary: dict[str, Any]) -> str:
    kept = "before anything was learnt"
    if step := summary["steps"]:
        kept = f"the weights of step {step}, its last good one, are in {job.out}"
    return f"{summary['stopped']}: {kept}; a lower --lr than {job.training.lr:g} helps"
