"""Two micro-batches that alternate: while the rows of one travel, the other computes.

Chapter: 05_comm/hiding
Source: deepseek_v3, section 3.2.1; dualpipe

Cut at its transfers, a model is a chain of stretches that compute:

    attention, router | experts | sum at tokens, next attention, router | experts | …
                   dispatch  combine                                dispatch

and the backward pass is the same chain the other way round. A micro-batch is a
generator that runs its stretches and yields whenever rows of it have just left. So two
of them take turns, and each transfer has a whole stretch of the other to hide behind.
The shared expert needs no transfer: it runs when its own rows have left, and fills.

Where a stretch ends its results are detached, so that each has a graph of its own; its
backward pass starts from the gradients that the next stretch, or a transfer, left.

One half of the sequences, one share of the loss: of each part of the loss that is a
mean over sequences, a micro-batch counts as many sequences as it has. So loss and
gradients are those of the plain step, up to the order of sums. With FP8, products
share the scales of 128 tokens of a micro-batch, not of a batch, and round otherwise.
"""

from collections.abc import Generator
from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from tiny_lm.cache import require_length
from tiny_lm.layers import cross_entropy, refuse_autocast
from tiny_lm.model import Block, LanguageModel, Loss
from tiny_lm.moe import MoE, collect
from tiny_lm.parallel.dispatch import Route
from tiny_lm.replay.recorder import inside

Turns = Generator[None, None, None]  # yields where the other micro-batch may compute


def loss_and_gradients(
    model: LanguageModel,
    tokens: Int[Tensor, "B T1"],
    scale: float = 1.0,
    num_micro: int = 2,
) -> Loss:
    """What `model.loss(tokens)` gives, and its gradients, by micro-batches in turn.

    Args:
        model: its experts are brought their tokens by an `ExpertParallelDispatcher`.
        scale: what the loss is multiplied by before the backward pass.
        num_micro: how many take turns; one alone hides nothing.

    Raises:
        ValueError: fewer sequences than micro-batches, or longer than the model reads.
    """
    if not 0 < num_micro <= len(tokens):
        raise ValueError(
            f"cannot make {num_micro} micro-batches of {len(tokens)} sequences"
        )
    require_length(tokens.shape[1] - 1, model.config.max_len)
    micros = [
        MicroBatch(model, some, len(some) / len(tokens), scale)
        for some in tokens.tensor_split(num_micro)
    ]
    take_turns(*(micro.run() for micro in micros))
    parts = {
        name: torch.stack([micro.parts[name] for micro in micros]).sum()
        for name in micros[0].parts
    }
    total = parts["next_token"] + model.config.mtp_weight * parts["mtp"]
    return Loss(total=total + parts["balance"], **parts)


def take_turns(*tasks: Turns) -> None:
    """Run each task as far as it yields, one after the other, until all are through."""
    waiting = list(tasks)
    while waiting:
        waiting = [task for task in waiting if next(task, True) is None]


@dataclass
class Crossing:
    """Where a micro-batch leaves its tokens for the experts, and comes back.

    ends: of the stretch before: its stream, what is dispatched, the gates
    losses: what that stretch lost
    starts: of the stretch after: stream, what came home, gates
    rows: of the experts, before and after
    aside: of the shared expert, which needs no transfer and fills one, before and after
    """

    moe: MoE
    experts: Tensor
    ends: list[Tensor]
    losses: list[Tensor]
    route: Route | None = None
    starts: list[Tensor] = field(default_factory=list)
    rows: list[Tensor] = field(default_factory=list)
    aside: list[Tensor] = field(default_factory=list)

    def go(self) -> Generator[None, None, Tensor]:
        """To the experts and back; gives the stream with what they added."""
        stream, normed, gates = self.ends
        dispatcher, tokens = self.moe.dispatcher, normed.detach()
        with inside(self.moe):
            plan = dispatcher.start_plan(self.experts)
            packed = dispatcher.pack(tokens, plan.leaving)  # while the counts travel
            self.route = route = plan.wait()
            moving = dispatcher.start_dispatch(packed, route, like=tokens)
        yield
        with inside(self.moe):
            rows = moving.wait().requires_grad_()
            self.rows = [rows, self.moe.experts(rows, route.arriving.ends)]
            moving = dispatcher.start_combine(self.rows[1].detach(), route)
        if self.moe.shared is not None:
            (aside,) = _leaves(normed)
            self.aside = [aside, self.moe.shared(aside)]
        yield
        with inside(self.moe):
            self.starts = _leaves(stream, moving.wait(), gates)
            stream, home, gates = self.starts
            for result in self.aside[1:]:
                stream = stream + result.detach().view_as(stream)
            return stream + collect(home, gates, route.leaving).view_as(stream)

    def go_back(self) -> Turns:
        """The same way with gradients, and through the stretch before."""
        dispatcher, route = self.moe.dispatcher, self.route
        stream, home, gates = (x.grad for x in self.starts)
        with inside(self.moe, backward=True):
            moving = dispatcher.start_combine_backward(home, route)
        for result in self.aside[1:]:
            torch.autograd.backward(result, stream.view_as(result))
        yield
        rows, results = self.rows
        with inside(self.moe, backward=True):
            torch.autograd.backward(results, moving.wait())
            moving = dispatcher.start_dispatch_backward(rows.grad, route)
        yield
        with inside(self.moe, backward=True):
            normed = moving.wait()
            for x in self.aside[:1]:
                normed = normed + x.grad
        no_grads = [None] * len(self.losses)  # a number's own gradient is 1
        grads = [*no_grads, stream, normed, gates]
        torch.autograd.backward(self.losses + self.ends, grads)


def _leaves(*ends: Tensor) -> list[Tensor]:
    """The same values, with graphs that begin here."""
    return [x.detach().requires_grad_() for x in ends]


class MicroBatch:
    """A part of the sequences on their way through the model and back.

    Args:
        share: of the rank's sequences that are in it.
        scale: of the loss, before the backward pass.

    parts: of the loss, times the share
    """

    def __init__(
        self,
        model: LanguageModel,
        tokens: Int[Tensor, "B T1"],
        share: float,
        scale: float = 1.0,
    ) -> None:
        self.model, self.tokens = model, tokens
        self.share, self.scale = share, scale
        self.parts = {
            name: torch.zeros((), device=tokens.device)
            for name in ("next_token", "mtp", "balance")
        }
        self._crossings: list[Crossing] = []
        self._losses: list[Tensor] = []  # of the stretch that runs

    def run(self) -> Turns:
        """Forward and backward; yields whenever rows have just left."""
        yield from self._forward()
        torch.autograd.backward(self._losses)
        while self._crossings:
            yield from self._crossings.pop().go_back()

    def _forward(self) -> Turns:
        model, tokens = self.model, self.tokens
        x = model.embedding(tokens[:, :-1])
        refuse_autocast(x)
        for block in model.blocks:
            x = yield from self._through(block, x)
        logits = model.head(model.norm(x))
        self._lose("next_token", cross_entropy(logits, tokens[:, 1:]))
        for depth, module in enumerate(model.mtp, start=1):
            x = module.enter(x[:, :-1], model.embedding(tokens[:, depth:-1]))
            x = yield from self._through(module.block, x)
            logits = model.head(module.norm(x))
            further = cross_entropy(logits, tokens[:, depth + 1 :]) / len(model.mtp)
            self._lose("mtp", further, model.config.mtp_weight)

    def _through(self, block: Block, x: Tensor) -> Generator[None, None, Tensor]:
        moe = block.ffn
        if not isinstance(moe, MoE):
            return block(x)[0]
        x, normed = block.attend(x)
        gates, experts, balance = moe.route(normed)
        self._lose("balance", balance)
        ends = [x, normed.flatten(0, 1), gates]
        self._crossings.append(Crossing(moe, experts, ends, self._losses))
        self._losses = []
        return (yield from self._crossings[-1].go())

    def _lose(self, name: str, value: Tensor, weight: float = 1.0) -> None:
        """Count a part of the loss, which the stretch's backward pass starts from."""
        self.parts[name] = self.parts[name] + self.share * value.detach()
        self._losses.append(self.scale * self.share * weight * value)
