"""One training step, on one rank or on many.

Chapter: 06_together/full_model
Source: deepseek_v3, section 4.2

What ranks must agree on crosses the wires: tokens travel to their experts and back
inside the model; after the backward pass the gradients of everything but the experts
are added up; and after the step the load of each expert, counted over the whole batch,
moves the routing biases.
A `Worker` is what one rank does of a run. The plain one holds all layers and its share
of the experts; `job.layout` may ask for another.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from tiny_lm import data, fp8_recipes
from tiny_lm.config import ModelConfig, TrainConfig
from tiny_lm.gpus import comm, mesh
from tiny_lm.gpus.mesh import Group
from tiny_lm.job import Job
from tiny_lm.model import LanguageModel, Loss, is_expert, multiplied_in_fp8
from tiny_lm.parallel import overlap, shard
from tiny_lm.parallel.buckets import BUCKET_BYTES, BucketedSums
from tiny_lm.parallel.dispatch import build_dispatcher
from tiny_lm.parallel.pipeline import grid
from tiny_lm.parallel.stages import Share
from tiny_lm.parallel.zero import ShardedOptimizer
from tiny_lm.pipelined import PipelinedWorker
from tiny_lm.replay.recorder import recording
from tiny_lm.replay.tape import Tape

Optimizer = torch.optim.Optimizer | ShardedOptimizer
Sums = shard.WholeSums | BucketedSums | ShardedOptimizer
Differentiate = Callable[[LanguageModel, Tensor, float], Loss]


def build_model(
    config: ModelConfig, group: Group, seed: int, device: torch.device | str = "cpu"
) -> LanguageModel:
    """The model of this rank: all of it, but only its own share of the experts."""
    return LanguageModel(config, build_dispatcher(config, group), seed).to(device)


def build_optimizer(
    model: LanguageModel | Share, training: TrainConfig
) -> torch.optim.Optimizer:
    """AdamW; matrices decay, norms and biases do not.

    It keeps weights in FP32, unless `config.fp8` asks for less.
    """
    matrices = [p for p in model.parameters() if p.dim() > 1]
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = _adamw(training, matrices, vectors)
    _hold_weights(optimizer, model)
    return optimizer


def build_sharded_optimizer(
    model: LanguageModel,
    training: TrainConfig,
    group: Group,
    bucket_bytes: int = BUCKET_BYTES,
    times: int = 1,
) -> ShardedOptimizer:
    """The same, with states of this rank's part of the shared weights alone.

    Args:
        bucket_bytes: size that a bucket of gradients does not exceed.
        times: backward passes in a step.
    """
    make = partial(_adamw, training)
    optimizer = ShardedOptimizer(model, group, is_expert, make, bucket_bytes, times)
    _hold_weights(optimizer, model)
    return optimizer


def _adamw(
    training: TrainConfig, matrices: list[Tensor], vectors: list[Tensor]
) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": training.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=training.lr,
        betas=training.betas,
        fused=True,
    )


def _hold_weights(optimizer: Optimizer, model: LanguageModel | Share) -> None:
    if model.config.fp8 and model.config.fp8.masters != "fp32":
        fp8_recipes.hold_weights(optimizer, multiplied_in_fp8(model), model.config.fp8)


def train_step(
    model: LanguageModel,
    optimizer: Optimizer,
    tokens: Int[Tensor, "B T1"],
    group: Group,
    clip: float,
    sums: Sums | None = None,
    differentiate: Differentiate | None = None,
) -> dict[str, Any]:
    """Forward, backward, agree, step, balance.

    Each rank divides its loss by the number of ranks before the backward pass, so that
    sums over ranks are means over the batch. An expert's gradient is such a sum
    already: the tokens of all ranks came to it.

    Args:
        tokens: this rank's share of the batch.
        sums: how ranks agree on gradients; by default all are summed at the end.
        differentiate: how loss and gradients are found; by default `whole`.

    Returns:
        The mean loss over all ranks, the gradient's norm, and every layer's load.
    """
    sums = sums or shard.WholeSums(model, group, is_expert)
    loss = (differentiate or whole)(model, tokens, 1 / group.size)
    shared, own = sums.agree()
    losses = torch.stack([loss.next_token, loss.mtp, loss.balance]).detach()
    loads = [router.load for router in model.routers]
    own, losses, *loads = shard.add_up([own, losses / group.size, *loads], group)
    norm = (shared + own).sqrt()
    sums.clip_to(clip, norm)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for router, load in zip(model.routers, loads, strict=True):
        router.update_bias(load)
    next_token, mtp, balance = losses.tolist()
    return {
        "loss": next_token,
        "mtp_loss": mtp,
        "balance_loss": balance,
        "grad_norm": float(norm),
        "load": [load.tolist() for load in loads],
    }


def whole(model: LanguageModel, tokens: Int[Tensor, "B T1"], scale: float) -> Loss:
    """The loss, and the gradients of `scale` times it: all sequences at once."""
    loss = model.loss(tokens)
    (loss.total * scale).backward()
    return loss


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


class Worker:
    """What one rank does of a run: here all layers, with its share of the experts.

    Args:
        sharded: an optimizer of this rank's part, in place of one for all it holds.
        differentiate: how it finds loss and gradients.
    """

    def __init__(
        self,
        model: LanguageModel,
        training: TrainConfig,
        group: Group,
        sharded: ShardedOptimizer | None = None,
        differentiate: Differentiate | None = None,
    ) -> None:
        self.model = model
        self.group = group
        self.clip = training.clip
        self.differentiate = differentiate
        self.optimizer = sharded or build_optimizer(model, training)
        self.sums = sharded or shard.WholeSums(model, group, is_expert)

    @property
    def device(self) -> torch.device:
        """Where its tokens are wanted."""
        return next(self.model.parameters()).device

    def set_rate(self, lr: float) -> None:
        """The learning rate of the next step."""
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = lr

    def step(self, tokens: Int[Tensor, "B T1"]) -> dict[str, Any]:
        """`train_step` on this rank's share of a batch."""
        return train_step(
            self.model,
            self.optimizer,
            tokens,
            self.group,
            self.clip,
            self.sums,
            self.differentiate,
        )

    def record(self, tokens: Int[Tensor, "B T1"]) -> tuple[dict[str, Any], Tape]:
        """A step, and the tape of what this rank did."""
        with recording(mesh.world().rank, self.model) as recorder:
            metrics = self.step(tokens)
        return metrics, recorder.tape()

    def evaluate(self, validation: data.EvalBatches) -> float:
        """Mean loss on the validation batches, over all ranks; nats per byte."""
        return evaluate(self.model, validation, self.group)

    def check(self) -> None:
        """Make sure that all ranks start from the same weights.

        Raises:
            RuntimeError: they differ; names what does.
        """
        shard.check_shared(self.model, self.group, is_expert)

    def gather_state(self) -> dict[str, Tensor]:
        """The state of the whole model; all ranks must call it."""
        return shard.gather_state(self.model, self.group, is_expert)


def build_worker(
    job: Job,
    group: Group,
    device: torch.device | str,
    make_model: Callable[..., LanguageModel] = build_model,
) -> Worker | PipelinedWorker:
    """The worker that the job asks for, with a fresh model; all ranks make theirs.

    Args:
        make_model: takes what `build_model` takes.
    """
    if job.layout.pp > 1:
        return _pipelined(job, group, device, make_model)
    training = job.training
    model = make_model(job.config, group, training.seed, device)
    sharded = None
    if job.layout.zero:
        times = 2 if job.layout.overlap else 1  # each micro-batch goes back by itself
        sharded = build_sharded_optimizer(model, training, group, times=times)
    differentiate = overlap.loss_and_gradients if job.layout.overlap else whole
    return Worker(model, training, group, sharded, differentiate)


def _pipelined(
    job: Job,
    group: Group,
    device: torch.device | str,
    make_model: Callable[..., LanguageModel],
) -> PipelinedWorker:
    places, layout = grid(job.layout.pp, group), job.layout
    model = make_model(job.config, places.ep, job.training.seed, device)
    make = partial(build_optimizer, training=job.training)
    return PipelinedWorker(
        model, job.training, places, layout.order, layout.num_micro, make
    )
