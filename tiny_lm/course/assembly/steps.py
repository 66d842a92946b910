"""Training steps and validation by the learner's pieces, on one rank or on many.

Chapter: 06_together/full_model
Source: deepseek_v3, section 4.2

A training step written for one model on one machine serves on many ranks unchanged, as
with PyTorch's own data parallelism: what ranks must agree on hides in what it is
handed. The model that it calls also divides its gradient by the number of ranks and
hands on the balance loss; the optimizer that it steps lets the ranks agree, shortens
the gradient of all of them, and moves the routing biases. On one rank the learner's own
clipping counts; on several the length to clip by is known only after all have agreed,
so the step is told a length that nothing exceeds.
"""

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tiny_lm import data
from tiny_lm.config import TrainConfig
from tiny_lm.course.assembly.chosen import Chosen
from tiny_lm.gpus import comm
from tiny_lm.gpus.mesh import Group
from tiny_lm.model import LanguageModel, is_expert
from tiny_lm.parallel import shard
from tiny_lm.step import Worker

STEP, SUMS = ("baseline.training_step",), ("comm.ring_all_reduce",)
CUT, BITS = ("baseline.next_byte_batch",), ("baseline.bits_per_byte",)
NO_LIMIT = 1e30  # nothing is longer, and its own reciprocal is not yet zero


class YourWorker(Worker):
    """What one rank does of a run, where step, sums or validation are the learner's.

    Args:
        own_step: whether the learner's training step drives.
    """

    def __init__(
        self,
        mine: Chosen,
        model: LanguageModel,
        training: TrainConfig,
        group: Group,
        own_step: bool,
    ) -> None:
        super().__init__(model, training, group)
        self.mine, self.own_step = mine, own_step and mine.has(*STEP)
        if mine.has(*SUMS) and group.size > 1:
            ring = mine("comm.ring_all_reduce")
            self.sums = shard.WholeSums(model, group, is_expert, ring)

    def step(self, tokens: Int[Tensor, "B T1"]) -> dict[str, Any]:
        """A step on this rank's share of a batch."""
        inputs, targets = self.cut(tokens)
        if not self.own_step:
            return super().step(torch.cat([inputs, targets[:, -1:]], dim=1))
        alone = self.group.size == 1
        reads = Reads(self.model, 1 / self.group.size, len(inputs))
        moves = Moves(self, reads, math.inf if alone else self.clip)
        step = self.mine("baseline.training_step")
        limit = self.clip if alone else NO_LIMIT
        loss = float(step(reads, moves, inputs, targets, limit))
        reads.forget()
        return moves.metrics(loss)

    def cut(
        self, tokens: Int[Tensor, "B T1"]
    ) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
        """Inputs and targets of windows that the run's own order has drawn.

        The piece draws windows from a text; a text that holds one window leaves it no
        choice but where to cut.
        """
        if not self.mine.has(*CUT):
            return tokens[:, :-1], tokens[:, 1:]
        piece, seq_len = self.mine("baseline.next_byte_batch"), tokens.shape[1] - 1
        none = torch.Generator().manual_seed(0)
        texts = tokens.to(torch.uint8)
        pairs = [piece(text, 1, seq_len, none) for text in texts]
        inputs, targets = (
            torch.cat(parts).long() for parts in zip(*pairs, strict=True)
        )
        return inputs, targets

    @torch.no_grad()
    def evaluate(self, validation: data.EvalBatches) -> float:
        """Mean loss on the validation batches, over all ranks; nats per byte."""
        if not self.mine.has(*BITS, *CUT):
            return super().evaluate(validation)
        self.model.eval()
        piece, group = self.mine("baseline.bits_per_byte"), self.group
        total = torch.zeros((), dtype=torch.float64)
        for number in range(len(validation)):
            inputs, targets = self.cut(validation.at(number, group.rank, group.size))
            logits = self.model(inputs).flatten(0, 1)
            total += float(piece(logits, targets.flatten())) * math.log(2)
        self.model.train()
        return float(comm.all_reduce(total / group.size, group)) / len(validation)


class Reads(nn.Module):
    """The model as a training step sees it: tokens in, logits out.

    `squares` holds the squared length of each parameter's gradient as backward passes
    left it, before anything is clipped.

    Args:
        scale: of the gradient of all that is read.
        num_sequences: in the whole batch of this rank, of which a call may read a part.
    """

    def __init__(self, model: LanguageModel, scale: float, num_sequences: int) -> None:
        super().__init__()
        self.model, self.scale, self.num_sequences = model, scale, num_sequences
        self.balance = 0.0
        self.squares: dict[int, Tensor] = {}
        self._hooks = [
            weight.register_post_accumulate_grad_hook(self._measure)
            for weight in model.parameters()
        ]

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        model, share = self.model, len(tokens) / self.num_sequences
        h, balance = model.hidden(tokens)
        self.balance += share * float(balance.detach())
        logits = model.head(model.norm(h))
        return _WithBalance.apply(logits, balance, self.scale, share)

    def forget(self) -> None:
        """Measure no more."""
        for hook in self._hooks:
            hook.remove()

    def _measure(self, weight: Tensor) -> None:
        self.squares[id(weight)] = weight.grad.square().sum()


class _WithBalance(torch.autograd.Function):
    """The logits; backward, the balance loss gets its part of the gradient as well."""

    @staticmethod
    def forward(ctx, logits, balance, scale, share):
        ctx.scale, ctx.share = scale, share
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx, grad):
        scale = ctx.scale
        return grad * scale, grad.new_tensor(scale * ctx.share), None, None


class Moves:
    """The optimizer as a training step sees it; a step of it is one of all ranks.

    Args:
        clip: what it shortens the gradient of all ranks to.
    """

    def __init__(self, worker: YourWorker, reads: Reads, clip: float) -> None:
        self._worker, self._reads, self._clip = worker, reads, clip
        self._optimizer = worker.optimizer
        self._norm = torch.zeros(())
        self._loads: list[Tensor] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._optimizer, name)

    def step(self) -> None:
        """Agree on gradients, move the weights, and the biases after them."""
        worker, group = self._worker, self._worker.group
        routers = worker.model.routers
        shared, own = worker.sums.agree()
        own, *self._loads = shard.add_up([own, *(r.load for r in routers)], group)
        self._norm = (shared + own).sqrt()
        if group.size == 1:  # as it was before the learner clipped it
            self._norm = torch.stack([*self._reads.squares.values()]).sum().sqrt()
        else:
            worker.sums.clip_to(self._clip, self._norm)
        self._optimizer.step()
        for router, load in zip(routers, self._loads, strict=True):
            router.update_bias(load)

    def metrics(self, loss: float) -> dict[str, Any]:
        """As of `step.train_step`; the loss is this rank's."""
        group = self._worker.group
        mine = torch.tensor([loss, self._reads.balance], dtype=torch.float64)
        (sums,) = shard.add_up([mine / group.size], group)
        next_token, balance = sums.tolist()
        return {
            "loss": next_token,
            "mtp_loss": 0.0,
            "balance_loss": balance,
            "grad_norm": float(self._norm),
            "load": [load.tolist() for load in self._loads],
        }
