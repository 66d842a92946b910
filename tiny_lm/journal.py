"""What a run says while it trains, and what is kept of it in the end.

Chapter: 06_together/full_model
"""

import platform
import threading
from dataclasses import asdict
from typing import Any

import torch
from tqdm import tqdm

from tiny_lm import costs, data, events, runs
from tiny_lm.job import Job


class Bar(tqdm):
    """A progress bar of one process.

    tqdm's own can be shared between processes and so takes a semaphore of the system.
    Of a process that is killed, as ranks are, semaphores stay and are complained of.
    """


Bar.set_lock(threading.RLock())


def progress(job: Job, rank: int, done: int = 0) -> Bar:
    """The bar of the first rank; others have none.

    Args:
        done: steps that are done already.
    """
    hidden = rank > 0 or not job.progress
    about = f"training {job.config.name} on {job.ranks} rank(s)"
    total = job.training.steps
    return Bar(total=total, initial=done, desc=about, disable=hidden, unit="step")


def board(job: Job, rank: int) -> events.Board:
    """Where the first rank writes for TensorBoard, if the job asks for it."""
    wanted = job.tensorboard and rank == 0
    folder = job.out / events.FOLDER if wanted else None
    return events.Board(folder, job.config.num_dense_layers)


def report(job: Job, bar: Bar, metrics: dict[str, Any], board: events.Board) -> None:
    """Keep the metrics of one step, and show the most important ones."""
    runs.append_metrics(job.out, metrics)
    board.add(metrics)
    shown = {"loss": f"{metrics['loss']:.3f}"}
    if "val_loss" in metrics:
        shown["val"] = f"{metrics['val_loss']:.3f}"
    shown["tokens/s"] = f"{metrics['tokens_per_s']:,.0f}"
    if metrics["max_violation"]:
        shown["MaxVio"] = f"{max(metrics['max_violation']):.2f}"
    bar.set_postfix(shown, refresh=False)
    bar.update()


def about(job: Job, corpus: data.Corpus) -> dict[str, Any]:
    """What makes a run the one it is: its model, and how the weights came about."""
    return {"model": job.config.to_dict(), "training": origin(job, corpus)}


def origin(job: Job, corpus: data.Corpus) -> dict[str, Any]:
    """How the weights came about: settings, data, versions."""
    t = job.training
    return asdict(t) | {
        "final_lr": t.lowest_lr,
        "warmup_steps": t.warmup,
        "corpus": corpus.name,
        "corpus_bytes": corpus.num_bytes,
        "corpus_sha256": corpus.sha256,
        "ranks": job.ranks,
        "device": job.device,
        "torch": torch.__version__,
        "python": platform.python_version(),
        **(job.maker.identity() if job.maker else {}),
    }


def summary(job: Job, metrics: dict[str, Any], bytes_sent: int) -> dict[str, Any]:
    """What a run came to: the last metrics, sizes, traffic.

    Args:
        metrics: of the last step; empty where there was none.
        bytes_sent: by all ranks together.
    """
    count = costs.count_parameters(job.config)
    return {
        "preset": job.config.name,
        "ranks": job.ranks,
        "steps": metrics.get("step", 0),
        "loss": metrics.get("loss"),
        "val_loss": metrics.get("val_loss"),
        "tokens_per_s": metrics.get("tokens_per_s"),
        "params_total": count.total,
        "params_active": count.active,
        "kv_bytes_per_token": costs.kv_bytes_per_token(job.config, 4),
        "bytes_sent": bytes_sent,
        "run": str(job.out),
        **(job.maker.notes(job) if job.maker else {}),
    }
