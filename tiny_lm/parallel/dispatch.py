"""Expert parallelism: experts live on different ranks, and tokens travel to them.

Chapter: 05_comm/experts_apart
Source: deepseek_v3, section 3.2.2; gshard; deep_ep

With E experts on p ranks, rank r holds the E/p experts from r E/p on. A token that
chose four experts becomes four rows, and each row goes to the rank of its expert:

    sort by expert       rows for rank 0 come first, then those for rank 1, …
    exchange counts      each rank learns how many rows it will get, and for whom
    all-to-all           the rows move: *dispatch*
    sort again           rows come in by sender; experts want them by expert
    … experts work …
    the same way back: *combine*, and a weighted sum at each token

Both sorts are permutations, and an all-to-all is one too, over all ranks. So the
backward pass of a dispatch is a combine of gradients, and that of a combine is a
dispatch. Nothing is dropped however uneven the choice is: an expert may get every
token, or none.

Each of these transfers is started and waited for apart: `dispatch` and `combine` wait
at once, and `overlap` lets another micro-batch compute in between.

A token with two experts on the same rank is sent there twice. `two_hop` sends it once
to a node and copies it there, which is what the router's limit of groups buys.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from tiny_lm.config import ModelConfig
from tiny_lm.gpus import comm
from tiny_lm.gpus.mesh import Group
from tiny_lm.moe import (
    Order,
    collect,
    copy_to_rows,
    rows_of_tokens,
    sort_by_expert,
    sum_at_tokens,
)
from tiny_lm.parallel.wire import WireFormat, fp8_wire


@dataclass(frozen=True)
class Route:
    """Where every row of one dispatch goes, and so how to bring it back.

    leaving: from tokens to rows as they leave, sorted by expert and hence by rank
    arriving: from rows as they come in to rows sorted by local expert, padded
    send_counts, receive_counts: rows to and from each rank
    """

    leaving: Order
    arriving: Order
    send_counts: Sequence[int]
    receive_counts: Sequence[int]


class Moving:
    """What is under way, and what is to be done with it where it arrives."""

    def __init__(self, pending: comm.Pending, finish: Callable[[Tensor], Any]) -> None:
        self._pending, self._finish = pending, finish

    def wait(self) -> Any:
        """The result, once it is there."""
        return self._finish(self._pending.wait())

    def then(self, more: Callable[[Any], Any]) -> "Moving":
        """The same, with one thing more to be done."""
        finish = self._finish
        return Moving(self._pending, lambda arrived: more(finish(arrived)))


@dataclass(frozen=True)
class Plan:
    """The order in which rows leave; how many come is still on its way."""

    leaving: Order
    _route: Moving

    def wait(self) -> Route:
        """The route, once all ranks have said what they send."""
        return self._route.wait()


class ExpertParallelDispatcher:
    """Brings tokens to experts on any rank of the group, and their results back.

    Args:
        num_experts: over all ranks.
        row_multiple: each expert's rows are padded with zero rows to a multiple of it.
        wire: how rows are packed while they travel; by default as they are.

    Raises:
        ValueError: the ranks cannot share the experts evenly.
    """

    def __init__(
        self,
        num_experts: int,
        group: Group,
        row_multiple: int = 1,
        wire: WireFormat | None = None,
    ) -> None:
        if num_experts % group.size:
            raise ValueError(
                f"{group.size} ranks cannot share {num_experts} experts evenly"
            )
        num_local = num_experts // group.size
        first = group.rank * num_local
        self.num_experts = num_experts
        self.local_experts = range(first, first + num_local)
        self.group = group
        self.row_multiple = row_multiple
        self.wire = wire or WireFormat()

    def dispatch(
        self, x: Float[Tensor, "N D"], experts: Int[Tensor, "N k"]
    ) -> tuple[Float[Tensor, "R D"], Int[Tensor, " E"], Route]:
        """The rows for the experts of this rank, sent by all ranks of the group."""
        route = self.start_plan(experts).wait()
        return _ToExperts.apply(x, route, self), route.arriving.ends, route

    def combine(
        self, rows: Float[Tensor, "R D"], weights: Float[Tensor, "N k"], way_back: Route
    ) -> Float[Tensor, "N D"]:
        """The weighted sum at each token of what its experts made of it."""
        home = _ToTokens.apply(rows, way_back, self)
        return collect(home, weights, way_back.leaving)

    def start_plan(self, experts: Int[Tensor, "N k"]) -> Plan:
        """Tell each rank what it will get; its `wait()` gives the `Route`."""
        leaving = sort_by_expert(experts, self.num_experts)
        ends = leaving.ends
        sends = ends.diff(prepend=ends.new_zeros(1)).view(self.group.size, -1)
        pending = comm.start_all_to_all_counts(sends, self.group)
        return Plan(leaving, Moving(pending, partial(self._route, leaving, sends)))

    def pack(self, x: Float[Tensor, "N D"], leaving: Order) -> Shaped[Tensor, "n W"]:
        """Tokens as they leave: packed once, and copied for each expert."""
        return copy_to_rows(self.wire.to_experts.pack(x), leaving)

    def start_dispatch(
        self, packed: Shaped[Tensor, "n W"], route: Route, like: Float[Tensor, "N D"]
    ) -> Moving:
        """Rows leave; gives the rows of the experts here, as wide as `like`."""
        pending = comm.start_all_to_all(
            packed, route.send_counts, route.receive_counts, self.group
        )

        def finish(arrived: Tensor) -> Tensor:
            rows = copy_to_rows(arrived, route.arriving)
            return self.wire.to_experts.unpack(rows, like.shape[-1], like.dtype)

        return Moving(pending, finish)

    def start_combine(self, rows: Float[Tensor, "R D"], route: Route) -> Moving:
        """Experts' rows go home; gives a row for each choice of each token."""
        way = self.wire.to_tokens
        packed = rows_of_tokens(way.pack(rows), route.arriving).squeeze(1)
        pending = comm.start_all_to_all(
            packed, route.receive_counts, route.send_counts, self.group
        )
        return Moving(
            pending, lambda home: way.unpack(home, rows.shape[-1], rows.dtype)
        )

    def start_combine_backward(
        self, grad: Float[Tensor, "n_sent D"], route: Route
    ) -> Moving:
        """Gradients of what came home go to the experts: a dispatch of rows."""
        return self.start_dispatch(self.wire.to_experts.pack(grad), route, like=grad)

    def start_dispatch_backward(
        self, grad: Float[Tensor, "R D"], route: Route
    ) -> Moving:
        """Gradients of experts' rows come home; gives the sum at each token."""
        moving = self.start_combine(grad, route)
        return moving.then(lambda home: sum_at_tokens(home, route.leaving))

    def _route(self, leaving: Order, sends: Tensor, receives: Tensor) -> Route:
        """The way of each row, when all ranks have said what they send."""
        send_counts, receive_counts = torch.stack([sends, receives]).sum(-1).tolist()
        num_local = len(self.local_experts)
        local = torch.arange(num_local, device=sends.device).repeat(self.group.size)
        arrived = local.repeat_interleave(
            receives.flatten(), output_size=sum(receive_counts)
        )
        arriving = sort_by_expert(arrived.unsqueeze(1), num_local, self.row_multiple)
        return Route(leaving, arriving, send_counts, receive_counts)


class _ToExperts(torch.autograd.Function):
    """Tokens to the experts' rows. Backward, the rows' gradients come home."""

    @staticmethod
    def forward(ctx, x, route, dispatcher):
        ctx.route, ctx.dispatcher = route, dispatcher
        packed = dispatcher.pack(x, route.leaving)
        return dispatcher.start_dispatch(packed, route, like=x).wait()

    @staticmethod
    def backward(ctx, grad):
        moving = ctx.dispatcher.start_dispatch_backward(grad, ctx.route)
        return moving.wait(), None, None


class _ToTokens(torch.autograd.Function):
    """The experts' rows come home. Backward, gradients travel to the experts."""

    @staticmethod
    def forward(ctx, rows, route, dispatcher):
        ctx.route, ctx.dispatcher = route, dispatcher
        return dispatcher.start_combine(rows, route).wait()

    @staticmethod
    def backward(ctx, grad):
        moving = ctx.dispatcher.start_combine_backward(grad, ctx.route)
        return moving.wait(), None, None


def build_dispatcher(
    config: ModelConfig, group: Group, plain: WireFormat | None = None
) -> ExpertParallelDispatcher | None:
    """What brings tokens to experts on other ranks; None where there are none.

    Args:
        plain: how rows travel where the config does not ask for FP8; by default as
            they are.
    """
    if config.moe is None or group.size == 1:
        return None
    tile = config.fp8.tile if config.fp8 else 1
    wire = fp8_wire(tile) if config.fp8 and config.fp8.wire else plain
    return ExpertParallelDispatcher(
        config.moe.num_experts, group, row_multiple=tile, wire=wire
    )
