"""Two hops: a token crosses the network once a node, and is copied there.

Chapter: 05_comm/experts_apart
Source: deepseek_v3, section 3.2.2; deep_ep

A node's GPUs share a fast link, nodes a slow one. A token that chose eight experts may
find several of them in one node, so it is sent there once, over the network, to the
GPU with the sender's place in that node. That GPU hands a copy to each neighbour with
an expert that the token chose:

    dispatch    token → its nodes (network) → their GPUs (NVLink) → rows of the experts
    combine     rows → one weighted sum a GPU → NVLink → one sum a node → network → sum

The way back adds up before each hop, or nothing would be saved there. So weights travel
to the experts; a weight's gradient is computed beside the experts, and travels home.
DeepSeek-V3's kernels forward *and accumulate* from NVLink to the network, and DeepEP's
combine is a sum without weights, which the experts' GPUs have put in before.

Where rows are rounded on the wire, so are sums on their way. Towards the experts a row
is packed once, at home, and handed on as it is. Towards the tokens it is packed before
each hop: with BF16, which is off by u = 1/256 of a value at most, a token's sum is off
by at most (2 u + u²) Σ_i w_i |y_i|, where one hop has u Σ_i w_i |y_i|. (A few FP32
roundings come on top of either.) In the backward pass a token's gradient travels
unweighted and as FP8, so a weight's gradient has FP8's error here, BF16's in one hop.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from tiny_lm.gpus.mesh import Group
from tiny_lm.moe import sort_by_expert
from tiny_lm.parallel.hop import Hop, number_choices, plan_hop, starts_of, sum_bags
from tiny_lm.parallel.wire import Packing, WireFormat
from tiny_lm.parts import MoEConfig


@dataclass(frozen=True)
class Seats:
    """Where the copies that arrived at a rank sit among its experts' rows.

    item_of_row: [R], the copy that a row repeats; 0 for a padding row
    row_of_choice, item_of_choice: for each choice of the copies, copy by copy
    starts: [m], where each copy's choices begin
    """

    item_of_row: Int[Tensor, " R"]
    padding: Int[Tensor, " n_padding"]
    ends: Int[Tensor, " E"]
    row_of_choice: Int[Tensor, " choices"]
    item_of_choice: Int[Tensor, " choices"]
    starts: Int[Tensor, " m"]


@dataclass(frozen=True)
class Way:
    """Both hops and the seats at their end.

    order: [N, k], a token's choices by expert, as values travel
    """

    network: Hop
    nvlink: Hop
    seats: Seats
    order: Int[Tensor, "N k"]


class TwoHopDispatcher:
    """Brings tokens to experts on any rank of a grid of nodes, each node's link once.

    Rank r of the grid holds the experts that rank r of one long group would hold, and
    its rows come in the same order, so that both dispatchers stand for each other.

    Args:
        num_experts: over all ranks.
        across: ranks with this place in all nodes.
        inside: the ranks of this node.
        row_multiple: each expert's rows are padded with zero rows to a multiple of it.
        wire: how rows are packed while they travel; by default as they are.
        max_nodes: nodes that a token may go to, as `most_nodes` says; None: all.

    Raises:
        ValueError: the ranks cannot share the experts evenly, or the groups are no grid
            whose nodes are neighbours.
    """

    def __init__(
        self,
        num_experts: int,
        across: Group,
        inside: Group,
        row_multiple: int = 1,
        wire: WireFormat | None = None,
        max_nodes: int | None = None,
    ) -> None:
        num_ranks = across.size * inside.size
        if num_experts % num_ranks:
            raise ValueError(
                f"{num_ranks} ranks cannot share {num_experts} experts evenly"
            )
        _check_grid(across, inside)
        num_local = num_experts // num_ranks
        first = (across.rank * inside.size + inside.rank) * num_local
        self.num_experts = num_experts
        self.local_experts = range(first, first + num_local)
        self.across, self.inside = across, inside
        self.row_multiple = row_multiple
        self.wire = wire or WireFormat()
        self.max_nodes = across.size if max_nodes is None else max_nodes

    def dispatch(
        self, x: Float[Tensor, "N D"], experts: Int[Tensor, "N k"]
    ) -> tuple[Float[Tensor, "R D"], Int[Tensor, " E"], Way]:
        """The rows for the experts of this rank, sent by all ranks of the grid.

        Raises:
            ValueError: a token names an expert twice, or experts of too many nodes.
        """
        wanted = experts.new_zeros(len(experts), self.num_experts, dtype=torch.bool)
        wanted.scatter_(1, experts, True)
        self._check_choices(wanted, experts)
        network, wants, arrived = plan_hop(wanted, [len(experts)], self.across)
        from_node = arrived.flatten().tolist()
        nvlink, wants, arrived = plan_hop(wants, from_node, self.inside)
        seats = _seat(wants, arrived, self.row_multiple)
        way = Way(network, nvlink, seats, experts.argsort(1))
        return _ToExperts.apply(x, way, self.wire), seats.ends, way

    def combine(
        self, rows: Float[Tensor, "R D"], weights: Float[Tensor, "N k"], way_back: Way
    ) -> Float[Tensor, "N D"]:
        """The weighted sum at each token of what its experts made of it."""
        return _ToTokens.apply(rows, weights, way_back, self.wire)

    def _check_choices(self, wanted: Tensor, experts: Tensor) -> None:
        twice = wanted.sum(1) != experts.shape[1]
        if twice.any():
            token = int(twice.nonzero()[0])
            raise ValueError(
                f"a token chooses an expert once: token {token} chose "
                f"{experts[token].tolist()}"
            )
        nodes = wanted.unflatten(1, (self.across.size, -1)).any(-1).sum(1)
        if (nodes > self.max_nodes).any():
            token = int(nodes.argmax())
            raise ValueError(
                f"at most {self.max_nodes} nodes a token: token {token} chose experts "
                f"of {int(nodes[token])}"
            )


def most_nodes(moe: MoEConfig, num_nodes: int) -> int:
    """Nodes that a token can reach at most: the router's groups are nodes, or parts.

    Raises:
        ValueError: neither groups nor nodes are whole numbers of the other.
    """
    groups = moe.num_groups
    if max(groups, num_nodes) % min(groups, num_nodes):
        raise ValueError(
            f"num_groups={groups} and {num_nodes} nodes: a group is to be a node, a "
            "part of one, or some whole ones"
        )
    nodes_of_group = max(1, num_nodes // groups)
    return min(num_nodes, moe.top_groups * nodes_of_group, moe.top_k)


def _check_grid(across: Group, inside: Group) -> None:
    for name, group, step in (("inside", inside, 1), ("across", across, inside.size)):
        ranks = group.members
        if group.size > 1 and set(torch.tensor(ranks).diff().tolist()) != {step}:
            raise ValueError(
                f"{name} has ranks {list(ranks)}: a node is {inside.size} neighbours, "
                f"and its places are {inside.size} apart; are the groups swapped?"
            )


def _seat(
    wants: Bool[Tensor, "m e"], arrived: Int[Tensor, "places nodes"], row_multiple: int
) -> Seats:
    """Lay out rows by expert, then by the rank that sent them.

    Args:
        wants: copies by place of the rank that handed them on, then by node.
        arrived: how many there are of each.
    """
    places, nodes = arrived.shape
    ranks = torch.arange(places * nodes, device=wants.device)
    sender = ranks.view(nodes, places).T.flatten().repeat_interleave(arrived.flatten())
    by_sender = sender.argsort(stable=True)
    sorted_wants = wants[by_sender]
    item, expert = sorted_wants.nonzero(as_tuple=True)
    order = sort_by_expert(expert.unsqueeze(1), wants.shape[1], row_multiple)
    choice = number_choices(wants)[by_sender][sorted_wants]
    row_of_choice = torch.empty_like(choice)
    row_of_choice[choice] = order.row_of_choice.squeeze(1)
    # Without choices there are no rows either, and nothing is looked up.
    item_of_row = by_sender[item][order.token_of_row] if len(item) else item
    return Seats(
        item_of_row,
        order.padding,
        order.ends,
        row_of_choice,
        wants.nonzero(as_tuple=True)[0],
        starts_of(wants.sum(1)),
    )


def _go(packed: Shaped[Tensor, "N W"], way: Way) -> Shaped[Tensor, "m W"]:
    return way.nvlink.out(way.network.out(packed))


def _return(
    sums: Float[Tensor, "m D"], way: Way, packing: Packing
) -> Float[Tensor, "N D"]:
    """One row a copy goes home; before the network, a node's rows become one."""
    for hop in (way.nvlink, way.network):
        rows = hop.back(packing.pack(sums))
        sums = hop.add_up(packing.unpack(rows, sums.shape[-1], sums.dtype))
    return sums


class _ToExperts(torch.autograd.Function):
    """Tokens to the experts' rows. Backward, the rows' gradients are added up home."""

    @staticmethod
    def forward(ctx, x, way, wire):
        ctx.way, ctx.wire = way, wire
        packed = _go(wire.to_experts.pack(x), way)
        items = wire.to_experts.unpack(packed, x.shape[-1], x.dtype)
        rows = items.index_select(0, way.seats.item_of_row)
        return rows.index_fill_(0, way.seats.padding, 0.0)

    @staticmethod
    def backward(ctx, grad):
        seats = ctx.way.seats
        sums = sum_bags(grad.contiguous(), seats.row_of_choice, seats.starts)
        return _return(sums, ctx.way, ctx.wire.to_tokens), None, None


class _ToTokens(torch.autograd.Function):
    """The experts' rows come home, weighted and added up on the way.

    Backward, a token's gradient travels to its experts as the token did, and weights'
    gradients come home.
    """

    @staticmethod
    def forward(ctx, rows, weights, way, wire):
        by_expert = weights.gather(1, way.order).flatten()
        values = way.nvlink.values_out(way.network.values_out(by_expert))
        ctx.way, ctx.wire = way, wire
        ctx.save_for_backward(rows, values)
        seats = way.seats
        sums = sum_bags(rows, seats.row_of_choice, seats.starts, values)
        return _return(sums, way, wire.to_tokens)

    @staticmethod
    def backward(ctx, grad):
        rows, values = ctx.saved_tensors
        way, packing = ctx.way, ctx.wire.to_experts
        arrived = _go(packing.pack(grad.contiguous()), way)
        items = packing.unpack(arrived, grad.shape[-1], grad.dtype)
        of_choice = items.index_select(0, way.seats.item_of_choice)
        places = way.seats.row_of_choice
        grad_rows = torch.zeros_like(rows)
        grad_rows.index_copy_(0, places, values.unsqueeze(1) * of_choice)
        slopes = (rows.index_select(0, places) * of_choice).sum(-1)
        home = way.network.values_back(way.nvlink.values_back(slopes))
        grad_weights = torch.empty_like(home).view(way.order.shape)
        grad_weights.scatter_(1, way.order, home.view(way.order.shape))
        return grad_rows, grad_weights, None, None
