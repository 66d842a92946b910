"""One run: a model trained with the course's own loop, and what is noted on the way.

Chapter: 02_moe/conditional_computation
Source: course
"""

import json
import platform
import time
import tomllib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from tiny_lm import costs, train
from tiny_lm.course.experiments.fp8_training import train_exact
from tiny_lm.course.experiments.plan import Run
from tiny_lm.course.experiments.products import products_for
from tiny_lm.course.experiments.records import ROOT, Record, Store, today
from tiny_lm.files import to_json
from tiny_lm.gpus import mesh
from tiny_lm.job import Job
from tiny_lm.model import LanguageModel
from tiny_lm.runs import save_weights
from tiny_lm.step import Worker

Parts = tuple[Tensor, Tensor]  # bytes to train on, bytes to validate on
Tick = Callable[[], None]


def train_and_save(
    run: Run, store: Store, parts: Parts, device: str, commit: str, tick: Tick
) -> None:
    """Train, and write the run's record, and its weights if they are kept.

    Args:
        tick: called after every step.
    """
    started = time.perf_counter()
    if run.exact:
        weights = store.weights_path(run.start) if run.start else None
        model, curves = train_exact(run, weights, parts, device, tick)
    else:
        products = products_for(device)
        model = LanguageModel(run.config, seed=run.training.seed, products=products)
        curves = train_run(run, model.to(device), parts, tick)
    record = describe(run, device, commit) | curves
    record["seconds"] = round(time.perf_counter() - started, 1)
    if run.keep_weights:
        store.folder.mkdir(parents=True, exist_ok=True)
        save_weights(store.weights_path(run), model.state_dict())
    store.save(run, record)


def train_run(run: Run, model: LanguageModel, parts: Parts, tick: Tick) -> Record:
    """Train the model and return its curves, one entry an evaluation.

    Between two evaluations there are many batches: `train_loss` and `max_violation`
    are means over them, the latter of each batch's own MaxVio, and `load` is the sum
    over those after the last evaluation but one.
    """
    t = run.training
    job = Job(config=run.config, training=t, out=Path(), ranks=1)
    curves: Record = {
        name: [] for name in ("steps", "tokens", "val_loss", "train_loss")
    } | {"max_violation": []}
    seen: list[dict[str, Any]] = []
    worker = Worker(model, job.training, mesh.solo())
    for metrics in train.steps(job, worker, parts):
        seen.append(metrics)
        tick()
        if "val_loss" in metrics:
            _note(curves, seen, t.batch_size * t.seq_len)
            load = torch.tensor([m["load"] for m in seen]).sum(0).tolist()
            seen = []
    curves["load"] = load
    curves["final_val_loss"] = curves["val_loss"][-1]
    return curves


def _note(curves: Record, seen: list[dict[str, Any]], tokens_per_step: int) -> None:
    last = seen[-1]
    curves["steps"].append(last["step"])
    curves["tokens"].append(last["step"] * tokens_per_step)
    curves["val_loss"].append(round(last["val_loss"], 6))
    curves["train_loss"].append(round(fmean(m["loss"] for m in seen), 6))
    layers = zip(*(m["max_violation"] for m in seen), strict=True)
    curves["max_violation"].append([round(fmean(layer), 4) for layer in layers])


def describe(run: Run, device: str, commit: str) -> Record:
    """What was trained, on what, with what."""
    t, count = run.training, costs.count_parameters(run.config)
    return {
        "seed": t.seed,
        "config": run.config.to_dict(),
        "training": json.loads(to_json(asdict(t))),  # lists, as they come back
        "params_total": count.total,
        "params_active": count.active,
        "flops_per_token": costs.flops_per_token(run.config, t.seq_len),
        "validation_tokens": run.validation_tokens
        or t.eval_batches * t.batch_size * t.seq_len,
        "created": today(),
        "commit": commit,
        "versions": versions(),
        "device": device_name(device),
    }


def versions() -> dict[str, str]:
    """Of what computes. The course's own is read from its files: a copy may do."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "tiny_lm": project["version"],
    }


def device_name(device: str) -> str:
    """The GPU's name, or the kind of processor."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"cpu ({platform.machine()})"
