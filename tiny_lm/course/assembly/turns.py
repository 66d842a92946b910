"""A model whose two halves of a batch go through its layers in the learner's order.

Chapter: 06_together/full_model
Source: deepseek_v3, section 3.2.1

Forward the learner's `overlapped` decides which micro-batch computes while the other
travels. Rows travel by tiny_lm's own dispatcher, which can start without waiting.
Backward, autograd goes the same way back, and every trip is waited for.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tiny_lm.cache import Context
from tiny_lm.course.assembly.chosen import Chosen
from tiny_lm.course.labs.two_batches import Batch, Layer
from tiny_lm.model import Block, LanguageModel
from tiny_lm.moe import MoE, collect
from tiny_lm.parallel.dispatch import Moving, Route
from tiny_lm.replay.recorder import inside

ORDER = ("comm.overlapped",)


class Held(NamedTuple):
    """What a micro-batch holds.

    x: the residual stream
    balance: the balance losses so far
    normed: what experts read, a row a token
    """

    x: Float[Tensor, "B T D"]
    balance: Float[Tensor, ""]
    normed: Float[Tensor, "N D"] | None = None
    weights: Float[Tensor, "N k"] | None = None
    experts: Int[Tensor, "N k"] | None = None
    rows: Float[Tensor, "R D"] | None = None
    route: Route | None = None


class _Arrived(torch.autograd.Function):
    """Rows that were sent, once they are here. Backward, gradients go back at once."""

    @staticmethod
    def forward(ctx, rows, moving, back):
        ctx.back = back
        return moving.wait()

    @staticmethod
    def backward(ctx, grad):
        return ctx.back(grad).wait(), None, None


class BlockParts:
    """A block of experts, cut where rows leave and where they arrive."""

    def __init__(self, block: Block) -> None:
        self.block, self.moe = block, block.ffn
        self.dispatcher = block.ffn.dispatcher

    def attend(self, held: Held) -> Held:
        x, normed = self.block.attend(held.x)
        weights, experts, balance = self.moe.route(normed)
        return Held(x, held.balance + balance, normed.flatten(0, 1), weights, experts)

    def start_dispatch(self, held: Held) -> Moving:
        to, tokens = self.dispatcher, held.normed
        with inside(self.moe):
            plan = to.start_plan(held.experts)
            packed = to.pack(tokens.detach(), plan.leaving)
            route = plan.wait()
            moving = to.start_dispatch(packed, route, like=tokens)
        return _Later(
            lambda: held._replace(
                rows=_Arrived.apply(
                    tokens, moving, lambda grad: to.start_dispatch_backward(grad, route)
                ),
                route=route,
            )
        )

    def experts(self, held: Held) -> Held:
        with inside(self.moe):
            rows = self.moe.experts(held.rows, held.route.arriving.ends)
        if self.moe.shared is None:
            return held._replace(rows=rows)
        x = held.x + self.moe.shared(held.normed).view_as(held.x)
        return held._replace(x=x, rows=rows)

    def start_combine(self, held: Held) -> Moving:
        to, route = self.dispatcher, held.route
        with inside(self.moe):
            moving = to.start_combine(held.rows.detach(), route)

        def becomes() -> Held:
            home = _Arrived.apply(
                held.rows, moving, lambda grad: to.start_combine_backward(grad, route)
            )
            found = collect(home, held.weights, route.leaving)
            return Held(held.x + found.view_as(held.x), held.balance)

        return _Later(becomes)


class _Later:
    """What a micro-batch becomes when what it sent has arrived."""

    def __init__(self, becomes) -> None:
        self._becomes = becomes

    def wait(self) -> Held:
        return self._becomes()


class TakesTurns(LanguageModel):
    """The language model; in training its sequences are two micro-batches in turn."""

    mine: Chosen

    def hidden(
        self,
        tokens: Int[Tensor, "B T"],
        context: Context | None = None,
        real: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, ""]]:
        if context is not None or not torch.is_grad_enabled() or len(tokens) < 2:
            return super().hidden(tokens, context, real)
        x = self.embedding(tokens)
        blocks = list(self.blocks)
        while blocks and not isinstance(blocks[0].ffn, MoE):
            x, _ = blocks.pop(0)(x)
        layers = [Layer(n, BlockParts(x), []) for n, x in enumerate(blocks)]
        halves = x.tensor_split(2)
        batches = (
            Batch(name, Held(half, x.new_zeros(())))
            for name, half in zip("ab", halves, strict=True)
        )
        found = [one.held for one in self.mine("comm.overlapped")(layers, *batches)]
        shares = [len(half) / len(x) for half in halves]
        balance = sum(s * held.balance for s, held in zip(shares, found, strict=True))
        return torch.cat([held.x for held in found]), balance
