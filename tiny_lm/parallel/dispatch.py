"""Expert parallelism: experts live on different ranks, and tokens travel to them.

Chapter: 05_comm
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

A token with two experts on the same rank is sent there twice. DeepSeek-V3 sends it
once to a node and copies it there, which is what its limit of four nodes a token buys.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

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
from tiny_lm.parallel.wire import WireFormat


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
        route = self._plan(experts)
        rows = _ToExperts.apply(x, route, self.group, self.wire)
        return rows, route.arriving.ends, route

    def combine(
        self, rows: Float[Tensor, "R D"], weights: Float[Tensor, "N k"], way_back: Route
    ) -> Float[Tensor, "N D"]:
        """The weighted sum at each token of what its experts made of it."""
        home = _ToTokens.apply(rows, way_back, self.group, self.wire)
        return collect(home, weights, way_back.leaving)

    def _plan(self, experts: Int[Tensor, "N k"]) -> Route:
        leaving = sort_by_expert(experts, self.num_experts)
        ends = leaving.ends
        sends = ends.diff(prepend=ends.new_zeros(1)).view(self.group.size, -1)
        receives = comm.all_to_all_counts(sends, self.group)
        send_counts, receive_counts = torch.stack([sends, receives]).sum(-1).tolist()
        num_local = len(self.local_experts)
        local = torch.arange(num_local, device=experts.device).repeat(self.group.size)
        arrived = local.repeat_interleave(
            receives.flatten(), output_size=sum(receive_counts)
        )
        arriving = sort_by_expert(arrived.unsqueeze(1), num_local, self.row_multiple)
        return Route(leaving, arriving, send_counts, receive_counts)


def _go(
    packed: Shaped[Tensor, "n_sent W"], route: Route, group: Group
) -> Shaped[Tensor, "R W"]:
    """Rows as they leave, to rows as the experts here want them."""
    arrived = comm.all_to_all(packed, route.send_counts, route.receive_counts, group)
    return copy_to_rows(arrived, route.arriving)


def _return(
    packed: Shaped[Tensor, "R W"], route: Route, group: Group
) -> Shaped[Tensor, "n_sent W"]:
    """The way back of `_go`; padding rows stay behind."""
    rows = rows_of_tokens(packed, route.arriving).squeeze(1)
    return comm.all_to_all(rows, route.receive_counts, route.send_counts, group)


class _ToExperts(torch.autograd.Function):
    """Tokens to the experts' rows. Backward, the rows' gradients come home.

    A token is packed once, before it is copied for each of its experts.
    """

    @staticmethod
    def forward(ctx, x, route, group, wire):
        ctx.route, ctx.group, ctx.wire = route, group, wire
        packed = copy_to_rows(wire.to_experts.pack(x), route.leaving)
        rows = _go(packed, route, group)
        return wire.to_experts.unpack(rows, x.shape[-1], x.dtype)

    @staticmethod
    def backward(ctx, grad):
        way = ctx.wire.to_tokens
        home = _return(way.pack(grad), ctx.route, ctx.group)
        home = way.unpack(home, grad.shape[-1], grad.dtype)
        return sum_at_tokens(home, ctx.route.leaving), None, None, None


class _ToTokens(torch.autograd.Function):
    """The experts' rows come home. Backward, gradients travel to the experts."""

    @staticmethod
    def forward(ctx, rows, route, group, wire):
        ctx.route, ctx.group, ctx.wire = route, group, wire
        home = _return(wire.to_tokens.pack(rows), route, group)
        return wire.to_tokens.unpack(home, rows.shape[-1], rows.dtype)

    @staticmethod
    def backward(ctx, grad):
        way = ctx.wire.to_experts
        rows = _go(way.pack(grad), ctx.route, ctx.group)
        return way.unpack(rows, grad.shape[-1], grad.dtype), None, None, None
