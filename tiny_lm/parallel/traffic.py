"""Copies and bytes of experts on different GPUs, in closed form and as they were sent.

Chapter: 05_comm/experts_apart
Source: deepseek_v3, sections 2.1.2 and 3.2.2; deep_ep

A token that chose k experts leaves as one of three numbers of copies, and the router's
group limit bounds the last:

    one an expert      k
    one a GPU          as many as hold one of them
    one a node         as many as hold one of them, at most `most_nodes`

Two hops send over the network what the third says, and inside each node what the second
says; `layer_bytes` adds it up for given choices, byte by byte.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from jaxtyping import Int
from torch import Tensor

from tiny_lm.parallel.plan import reach
from tiny_lm.parts import MoEConfig
from tiny_lm.replay.tape import Collective, Tape

COUNT_BYTES = 4  # an INT32


class Traffic(NamedTuple):
    """Bytes that one rank sends, inside its node and to other nodes."""

    nvlink: int
    network: int


class Copies(NamedTuple):
    """Copies of a mean token that leave its GPU or, for NVLink, are handed on."""

    name: str
    network: float
    nvlink: float


def sent_by_link(tape: Tape, gpus_per_node: int) -> Traffic:
    """Bytes that the all-to-alls of a tape send over each link."""
    sums = [0, 0]
    for record in tape.records:
        if isinstance(record, Collective) and record.kind == "all_to_all":
            for peer, size in zip(record.group, record.num_bytes, strict=True):
                if peer != tape.rank:
                    sums[peer // gpus_per_node != tape.rank // gpus_per_node] += size
    return Traffic(*sums)


def nodes_of_tokens(
    experts: Int[Tensor, "N k"], num_experts: int, num_nodes: int
) -> Int[Tensor, " N"]:
    """How many nodes hold an expert that the token chose."""
    nodes = experts * num_nodes // num_experts
    visited = nodes.new_zeros(len(nodes), num_nodes).scatter_(1, nodes, 1)
    return visited.sum(1)


def expected_nodes(moe: MoEConfig, num_nodes: int, limited: bool = True) -> float:
    """The mean of `nodes_of_tokens` for tokens that choose by lot.

    Without a limit each node is missed with the chance that all k experts are drawn
    from the others, C(E - E/n, k) / C(E, k). With it, groups are drawn first.
    """
    moe = moe if limited else _without_groups(moe)
    return num_nodes * reach(moe, moe.num_experts // num_nodes)


def copies_by_scheme(
    moe: MoEConfig, num_nodes: int, gpus_per_node: int
) -> list[Copies]:
    """How often a token travels, scheme by scheme, if it chooses by lot.

    Copies that stay on the GPU are no traffic. Where rows go straight to a GPU, those
    for another node take the network alone.
    """
    free = _without_groups(moe)
    node, gpu = (moe.num_experts // n for n in (num_nodes, num_nodes * gpus_per_node))
    others, near = num_nodes - 1, gpus_per_node - 1
    far_gpus = others * gpus_per_node

    def hops(choice: MoEConfig) -> tuple[float, float]:
        return others * reach(choice, node), num_nodes * near * reach(choice, gpu)

    each = moe.top_k / (num_nodes * gpus_per_node)
    return [
        Copies("one an expert", far_gpus * each, near * each),
        Copies("one a GPU", far_gpus * reach(free, gpu), near * reach(free, gpu)),
        Copies("one a node, handed on", *hops(free)),
        Copies(f"the same, at most {moe.top_groups} groups", *hops(moe)),
    ]


def one_hop_bytes(
    experts: Sequence[Int[Tensor, "_ k"]],
    grid: tuple[int, int],
    num_experts: int,
    row_bytes: tuple[int, int],
) -> list[Traffic]:
    """The same as `layer_bytes`, where each choice has a row of its own to its rank.

    Weights stay at home, and nothing has to be said but counts, one an expert.
    """
    num_ranks = grid[0] * grid[1]
    sums = [[0, 0] for _ in range(num_ranks)]
    for rank, chosen in enumerate(experts):
        rows = (
            (chosen * num_ranks // num_experts).flatten().bincount(minlength=num_ranks)
        )
        for peer in set(range(num_ranks)) - {rank}:
            link = int(rank // grid[1] != peer // grid[1])
            counts = COUNT_BYTES * num_experts // num_ranks
            sums[rank][link] += counts + 2 * row_bytes[0] * int(rows[peer])
            sums[peer][link] += 2 * row_bytes[1] * int(rows[peer])
    return [Traffic(*both) for both in sums]


def layer_bytes(
    experts: Sequence[Int[Tensor, "_ k"]],
    grid: tuple[int, int],
    num_experts: int,
    row_bytes: tuple[int, int],
    value_bytes: int = 4,
) -> list[Traffic]:
    """What each rank sends in a forward and a backward pass by two hops, exactly.

    Rows go out twice, tokens and then gradients of their sums, and come home twice;
    each choice has its weight on the way out and the weight's gradient on the way back.
    With every copy go, once, the bits of what it wants. Counts go once a hop.

    Args:
        experts: of each rank's tokens.
        grid: nodes, and places in each.
        row_bytes: of a row on its way to the experts, and home.
        value_bytes: of a weight.
    """
    nodes, places = grid
    sums = [[0, 0] for _ in range(nodes * places)]
    for rank, chosen in enumerate(experts):
        node, place = divmod(rank, places)
        sums[rank][0] += COUNT_BYTES * nodes * (places - 1)
        sums[rank][1] += COUNT_BYTES * (nodes - 1)
        wanted = chosen.new_zeros(len(chosen), num_experts).scatter_(1, chosen, 1)
        for there in range(nodes):
            of_node = wanted.unflatten(1, (nodes, -1))[:, there]
            if there != node:
                ends = rank, there * places + place
                _count(sums, 1, ends, of_node, row_bytes, value_bytes)
            for at in set(range(places)) - {place}:
                of_gpu = of_node.unflatten(1, (places, -1))[:, at]
                ends = there * places + place, there * places + at
                _count(sums, 0, ends, of_gpu, row_bytes, value_bytes)
    return [Traffic(*both) for both in sums]


def _count(
    sums: list[list[int]],
    link: int,
    ends: tuple[int, int],
    wanted: Int[Tensor, "N e"],
    row_bytes: tuple[int, int],
    value_bytes: int,
) -> None:
    """What passes between two ranks on one link, there and back."""
    copies, choices = int(wanted.any(1).sum()), int(wanted.sum())
    bits = -(-wanted.shape[1] // 8)
    out, home = row_bytes
    source, target = ends
    sums[source][link] += copies * (2 * out + bits) + choices * value_bytes
    sums[target][link] += copies * 2 * home + choices * value_bytes


def _without_groups(moe: MoEConfig) -> MoEConfig:
    return replace(moe, num_groups=1, top_groups=1)
