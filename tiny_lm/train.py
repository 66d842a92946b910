"""Training: one step, one loop, on one rank or on many.

Chapter: 06_together/full_model
Source: deepseek_v3, section 4.2

Every rank runs the same loop on its own share of each batch. What they must agree on
crosses the wires: tokens travel to their experts and back inside the model; after the
backward pass the gradients of everything but the experts are added up; and after the
step the load of each expert, counted over the whole batch, moves the routing biases.
This is the one file where the model, the ranks and the wires meet.
"""

import time
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tiny_lm import data, fp8_recipes, journal, memory, runs
from tiny_lm.config import ModelConfig, TrainConfig
from tiny_lm.divergence import LastGood, NotFinite
from tiny_lm.gpus import comm, launch, mesh, torchrun
from tiny_lm.gpus.mesh import Group
from tiny_lm.job import Job, batches, read_corpus
from tiny_lm.model import LanguageModel, is_expert, multiplied_in_fp8
from tiny_lm.parallel import shard
from tiny_lm.parallel.dispatch import ExpertParallelDispatcher
from tiny_lm.parallel.gather_tapes import gather_tapes
from tiny_lm.parallel.wire import fp8_wire
from tiny_lm.replay import specs
from tiny_lm.replay.recorder import recording
from tiny_lm.replay.tape import Tape
from tiny_lm.router import max_violation


def build_model(
    config: ModelConfig, group: Group, seed: int, device: torch.device | str = "cpu"
) -> LanguageModel:
    """The model of this rank: all of it, but only its own share of the experts."""
    dispatcher = None
    if config.moe and group.size > 1:
        tile = config.fp8.tile if config.fp8 else 1
        wire = fp8_wire(tile) if config.fp8 and config.fp8.wire else None
        dispatcher = ExpertParallelDispatcher(
            config.moe.num_experts, group, row_multiple=tile, wire=wire
        )
    return LanguageModel(config, dispatcher, seed).to(device)


def build_optimizer(
    model: LanguageModel, training: TrainConfig
) -> torch.optim.Optimizer:
    """AdamW; matrices decay, norms and biases do not.

    It keeps weights in FP32, unless `config.fp8` asks for less.
    """
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": training.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=training.lr,
        betas=training.betas,
        fused=True,
    )
    if model.config.fp8 and model.config.fp8.masters != "fp32":
        fp8_recipes.hold_weights(optimizer, multiplied_in_fp8(model), model.config.fp8)
    return optimizer


def learning_rate(step: int, training: TrainConfig) -> float:
    """Up in a straight line, down along half a cosine."""
    t = training
    if step < t.warmup:
        return t.lr * (step + 1) / t.warmup
    done = (step - t.warmup) / max(t.steps - t.warmup, 1)
    half_turn = torch.tensor(torch.pi * done, dtype=torch.float64, device="cpu")
    cosine = half_turn.cos().item()
    return t.lowest_lr + (t.lr - t.lowest_lr) * (1 + cosine) / 2


def train_step(
    model: LanguageModel,
    optimizer: torch.optim.Optimizer,
    tokens: Int[Tensor, "B T1"],
    group: Group,
    clip: float,
) -> dict[str, Any]:
    """Forward, backward, agree, step, balance.

    Each rank divides its loss by the number of ranks before the backward pass, so that
    sums over ranks are means over the batch. An expert's gradient is such a sum
    already: the tokens of all ranks came to it.

    Args:
        tokens: this rank's share of the batch.

    Returns:
        The mean loss over all ranks, the gradient's norm, and every layer's load.
    """
    loss = model.loss(tokens)
    (loss.total / group.size).backward()
    shard.sum_gradients(model, group, is_expert)
    norm = shard.clip_gradients(model, clip, group, is_expert)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    parts = torch.stack([loss.next_token, loss.mtp, loss.balance]).detach()
    next_token, mtp, balance = comm.all_reduce(parts / group.size, group).tolist()
    return {
        "loss": next_token,
        "mtp_loss": mtp,
        "balance_loss": balance,
        "grad_norm": float(norm),
        "load": _balance(model, group),
    }


def record_step(
    model: LanguageModel,
    optimizer: torch.optim.Optimizer,
    tokens: Int[Tensor, "B T1"],
    group: Group,
    clip: float,
) -> tuple[dict[str, Any], Tape]:
    """`train_step`, and the tape of what this rank did.

    Take a step before: the first one also makes the optimizer's state.
    """
    with recording(mesh.world().rank, model) as recorder:
        metrics = train_step(model, optimizer, tokens, group, clip)
    return metrics, recorder.tape()


@torch.no_grad()
def _balance(model: LanguageModel, group: Group) -> list[list[int]]:
    """Move every router's bias by the load of the whole batch, and return the loads."""
    routers = model.routers
    if not routers:
        return []
    loads = comm.all_reduce(torch.stack([r.load for r in routers]), group)
    for router, load in zip(routers, loads, strict=True):
        router.update_bias(load)
    return loads.tolist()


@torch.no_grad()
def evaluate(model: LanguageModel, validation: data.EvalBatches, group: Group) -> float:
    """Mean loss on the validation batches, over all ranks; nats per byte."""
    model.eval()
    device = model.head.weight.device
    total = torch.zeros((), device=device)
    for number in range(len(validation)):
        tokens = validation.at(number, group.rank, group.size).to(device)
        total += model.loss(tokens).next_token
    model.train()
    return float(comm.all_reduce(total / group.size, group)) / len(validation)


def steps(
    job: Job,
    model: LanguageModel,
    group: Group,
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
    optimizer, good = build_optimizer(model, t), LastGood(model)
    device = model.head.weight.device
    started = time.perf_counter()
    for step in range(t.steps):
        for parameters in optimizer.param_groups:
            parameters["lr"] = learning_rate(step, t)
        tokens = training.at(step, group.rank, group.size).to(device)
        good.before_step()
        metrics = {"step": step + 1}
        if tapes is None or step + 1 < t.steps:
            metrics |= train_step(model, optimizer, tokens, group, t.clip)
        else:
            done, tape = record_step(model, optimizer, tokens, group, t.clip)
            metrics |= done
            tapes.append(tape)
        good.check(metrics)
        if (step + 1) % t.eval_every == 0 or step + 1 == t.steps:
            metrics["val_loss"] = evaluate(model, validation, group)
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
    model = build_model(job.config, group, job.training.seed, device)
    shard.check_shared(model, group, is_expert)
    metrics, stopped, tapes = {}, None, []
    settled, metering = memory.settled(), comm.metering()
    with settled, metering as meter, journal.progress(job, group.rank) as bar:
        try:
            for metrics in steps(job, model, group, tuple(parts), tapes):
                if group.rank == 0:
                    journal.report(job, bar, metrics)
        except NotFinite as error:
            stopped = error
    sent = torch.tensor(meter.total_bytes, dtype=torch.int64, device=device)
    sent = int(comm.all_reduce(sent, group))
    state = shard.gather_state(model, group, is_expert)
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
