"""Which GPU holds which expert, and which experts are held twice.

Chapter: 05_comm/experts_apart
Source: deepseek_v3, section 3.4; eplb

All GPUs wait for the busiest. In training a bias keeps experts even, and any placement
will do. A served model meets the text of its users, of whom nobody asks to be even, and
its weights do not move any more; what can be moved is the experts. Three answers, the
second and the third from measured loads:

    contiguous   the first E / p experts on the first rank, and so on
    greedy       the busiest expert first, to the rank with least to do that has room
    redundant    busy experts get copies, each of which takes an even part of the load

A placement names the experts of each rank: `[[0, 5], [3, 0], …]`, one more than E / p
of them on each where there are copies.
"""

from collections import Counter
from collections.abc import Sequence
from heapq import heappop, heappush

Placement = list[list[int]]


def contiguous(num_experts: int, num_ranks: int) -> Placement:
    """Neighbouring experts share a rank.

    Raises:
        ValueError: the ranks cannot share the experts evenly.
    """
    size = _slots(num_experts, num_ranks)
    return [list(range(r * size, (r + 1) * size)) for r in range(num_ranks)]


def copies_of(
    loads: Sequence[float], num_redundant: int, at_most: int | None = None
) -> list[int]:
    """How many copies each expert gets, so that the busiest copy has least to do.

    One more, again and again, for the expert whose copies have most to do: no other
    way to share out so many has a less busy copy.

    Args:
        at_most: copies of one expert; a rank has no use for two.

    Raises:
        ValueError: more copies than that leaves room for.

    Source: eplb
    """
    if at_most is not None and num_redundant > len(loads) * (at_most - 1):
        raise ValueError(
            f"{num_redundant} copies of {len(loads)} experts are more than "
            f"{at_most - 1} each"
        )
    copies = [1] * len(loads)
    heap: list[tuple[float, int]] = []
    for expert, load in enumerate(loads):
        heappush(heap, (-load, expert))
    for _ in range(num_redundant):
        _, expert = heappop(heap)
        copies[expert] += 1
        if copies[expert] != at_most:
            heappush(heap, (-loads[expert] / copies[expert], expert))
    return copies


def greedy(
    loads: Sequence[float], num_ranks: int, num_redundant: int = 0, num_nodes: int = 1
) -> Placement:
    """Busiest first, each to the least loaded rank that has room.

    Args:
        loads: tokens of each expert, as measured.
        num_redundant: further copies, over all ranks.
        num_nodes: experts stay in their node, each of which gets its share of copies;
            so a token's nodes are those of the router's groups as before.

    Raises:
        ValueError: experts, copies or ranks do not divide evenly.
    """
    for name, count in (("experts", len(loads)), ("copies", num_redundant)):
        if count % num_nodes:
            raise ValueError(f"{num_nodes} nodes cannot share {count} {name} evenly")
    if num_ranks % num_nodes:
        raise ValueError(f"{num_ranks} ranks do not make {num_nodes} equal nodes")
    size = len(loads) // num_nodes
    placement: Placement = []
    for first in range(0, len(loads), size):
        part = loads[first : first + size]
        packed = _pack(part, num_ranks // num_nodes, num_redundant // num_nodes)
        placement += [[first + expert for expert in held] for held in packed]
    return placement


def rank_loads(loads: Sequence[float], placement: Placement) -> list[float]:
    """Tokens of each rank, if the copies of an expert share its tokens evenly.

    Raises:
        ValueError: an expert is nowhere.
    """
    copies = Counter(expert for held in placement for expert in held)
    if missing := set(range(len(loads))) - copies.keys():
        raise ValueError(f"no rank holds expert {min(missing)}")
    return [sum(loads[e] / copies[e] for e in held) for held in placement]


def busiest_over_mean(loads: Sequence[float], placement: Placement) -> float:
    """What everybody waits for: the busiest rank's tokens over the mean; 1 is even."""
    of_rank = rank_loads(loads, placement)
    total = sum(of_rank)
    return max(of_rank) * len(of_rank) / total if total else 1.0


def _pack(loads: Sequence[float], num_ranks: int, num_redundant: int) -> Placement:
    copies = copies_of(loads, num_redundant, at_most=num_ranks)
    slots = _slots(sum(copies), num_ranks)
    waiting = [(loads[e] / n, e) for e, n in enumerate(copies) for _ in range(n)]
    held: Placement = [[] for _ in range(num_ranks)]
    work = [0.0] * num_ranks
    for load, expert in sorted(waiting, key=lambda copy: (-copy[0], copy[1])):
        free = [rank for rank in range(num_ranks) if len(held[rank]) < slots]
        # A second copy on the same rank would take no work off it.
        best = min(free, key=lambda rank: (expert in held[rank], work[rank], rank))
        held[best].append(expert)
        work[best] += load
    return held


def _slots(num_copies: int, num_ranks: int) -> int:
    if num_copies % num_ranks:
        raise ValueError(
            f"{num_ranks} ranks cannot share {num_copies} experts and copies evenly"
        )
    return num_copies // num_ranks
