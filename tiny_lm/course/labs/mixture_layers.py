"""The layers of `two_batches` with numbers in them: real rows, on real ranks.

Chapter: 05_comm/hiding
Source: deepseek_v3, section 3.2.1

Every rank makes the same calls in the same order, in FP32, and its tape says what it
computed and sent in each.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiny_lm.config import ModelConfig, tiny
from tiny_lm.course.labs.two_batches import Batch, Call, Layer
from tiny_lm.gpus import comm, mesh
from tiny_lm.gpus.mesh import Group
from tiny_lm.model import Block, LanguageModel
from tiny_lm.moe import collect, rows_of_tokens, sort_by_expert, spread
from tiny_lm.parallel.dispatch import ExpertParallelDispatcher, Route
from tiny_lm.replay.recorder import Recorder, recording
from tiny_lm.replay.tape import Record

SEQUENCES, SEQ_LEN = 2, 64  # of a micro-batch on one rank
Order = Callable[[list[Layer], Batch, Batch], tuple[Batch, Batch]]
Counts = tuple[list[int], list[int]]  # of rows that are sent, and that come


def config(num_layers: int) -> ModelConfig:
    """Layers like those of `tiny`, all with experts, in FP32.

    Widths are such that attention, experts and both transfers take about equally
    long on the scaled twin, as they do for V3.
    """
    base = tiny()
    moe = replace(base.moe, d_expert=112, top_k=2, num_groups=1, top_groups=1)
    return replace(
        base,
        name="two_batches",
        num_layers=num_layers,
        num_dense_layers=0,
        moe=moe,
        fp8=None,
        init_std=0.05,
    )


class Held(NamedTuple):
    """What a micro-batch holds.

    x: the residual stream
    normed: the same, as experts read it
    """

    x: Float[Tensor, "B T D"]
    normed: Float[Tensor, "B T D"] | None = None
    weights: Float[Tensor, "N k"] | None = None
    experts: Int[Tensor, "N k"] | None = None
    rows: Float[Tensor, "R D"] | None = None
    route: Route | None = None


class _Trip(torch.autograd.Function):
    """Rows that were sent, once they are here. Backward, gradients go back at once."""

    @staticmethod
    def forward(ctx, rows, trip):
        ctx.trip = trip
        return trip.pending.wait()

    @staticmethod
    def backward(ctx, grad):
        sends, receives = ctx.trip.counts
        return comm.all_to_all(grad, receives, sends, ctx.trip.group), None


class _Later:
    """Rows that leave now, and what they become where they arrive."""

    def __init__(
        self,
        rows: Float[Tensor, "n D"],
        counts: Counts,
        group: Group,
        becomes: Callable[[Tensor], Held],
    ) -> None:
        self.rows, self.counts, self.group = rows, counts, group
        self.becomes = becomes
        self.pending = comm.start_all_to_all(rows, *counts, group)

    def wait(self) -> Held:
        return self.becomes(_Trip.apply(self.rows, self))


class BlockParts:
    """A block of the language model, cut where rows leave and arrive."""

    def __init__(self, block: Block) -> None:
        self.block = block
        self.dispatcher: ExpertParallelDispatcher = block.ffn.dispatcher

    def attend(self, held: Held) -> Held:
        block = self.block
        x = held.x + block.attention(block.attention_norm(held.x))
        normed = block.ffn_norm(x)
        weights, experts, _ = block.ffn.router(normed)
        return Held(x, normed, weights.flatten(0, 1), experts.flatten(0, 1))

    def start_dispatch(self, held: Held) -> _Later:
        """What can wait until rows are here waits: until then the wire stands idle."""
        group, num_local = self.dispatcher.group, len(self.dispatcher.local_experts)
        order = sort_by_expert(held.experts, self.dispatcher.num_experts)
        rows = spread(held.normed.flatten(0, 1), order)
        sends = order.ends.diff(prepend=order.ends.new_zeros(1)).view(group.size, -1)
        receives = comm.all_to_all_counts(sends, group)
        counts = torch.stack([sends, receives]).sum(-1).tolist()

        def becomes(arrived: Tensor) -> Held:
            local = torch.arange(num_local).repeat(group.size)
            experts = local.repeat_interleave(receives.flatten()).unsqueeze(1)
            route = Route(order, sort_by_expert(experts, num_local), *counts)
            return held._replace(rows=spread(arrived, route.arriving), route=route)

        return _Later(rows, counts, group, becomes)

    def experts(self, held: Held) -> Held:
        ffn, ends = self.block.ffn, held.route.arriving.ends
        x = held.x + ffn.shared(held.normed)
        return held._replace(x=x, rows=ffn.experts(held.rows, ends))

    def start_combine(self, held: Held) -> _Later:
        route, group = held.route, self.dispatcher.group
        rows = rows_of_tokens(held.rows, route.arriving).squeeze(1)
        counts = route.receive_counts, route.send_counts

        def becomes(home: Tensor) -> Held:
            found = collect(home, held.weights, route.leaving)
            return Held(held.x + found.view_as(held.x))

        return _Later(rows, counts, group, becomes)


class TakesTurns(LanguageModel):
    """The language model, whose sequences are two micro-batches in a given order.

    Args:
        order: of the calls, forward. Backward, autograd goes the same way back, and
            every trip is waited for.
    """

    order: Order

    def hidden(
        self, tokens: Int[Tensor, "B T"], context: None = None, real: None = None
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, ""]]:
        layers = [Layer(n, BlockParts(x), []) for n, x in enumerate(self.blocks)]
        halves = self.embedding(tokens).chunk(2)
        batches = (Batch(name, Held(x)) for name, x in zip("ab", halves, strict=True))
        found = self.order(layers, *batches)
        x = torch.cat([one.held.x for one in found])
        return x, x.new_zeros(())


class Ran(NamedTuple):
    """What one rank did in a run.

    results: the two micro-batches' residual streams
    pieces: the records of each call, in the order of the calls
    """

    results: tuple[Float[Tensor, "B T D"], Float[Tensor, "B T D"]]
    calls: tuple[Call, ...]
    pieces: tuple[tuple[Record, ...], ...]


@torch.no_grad()
def run(rank: int, order: Order, num_layers: int, seed: int) -> Ran:
    """Two micro-batches of this rank through all layers, recorded."""
    group, c = mesh.world(), config(num_layers)
    dispatcher = ExpertParallelDispatcher(c.moe.num_experts, group)
    model = LanguageModel(c, dispatcher, seed).eval()
    generator = torch.Generator().manual_seed(1000 * seed + rank)
    shape = 2, SEQUENCES, SEQ_LEN, c.d_model
    a, b = torch.randn(shape, generator=generator)
    with recording(rank) as recorder:
        calls = _Calls(recorder)
        layers = [Layer(n, BlockParts(x), calls) for n, x in enumerate(model.blocks)]
        found = order(layers, Batch("a", Held(a)), Batch("b", Held(b)))
        ends = [*calls.starts[1:], len(recorder.tape().records)]
    records = recorder.tape().records
    pieces = [records[i:j] for i, j in zip(calls.starts, ends, strict=True)]
    return Ran(tuple(x.held.x for x in found), tuple(calls), tuple(pieces))


class _Calls(list):
    """The calls, and how long the tape was when each began."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.starts: list[int] = []
        self._recorder = recorder

    def append(self, call: Call) -> None:
        self.starts.append(len(self._recorder.tape().records))
        super().append(call)
