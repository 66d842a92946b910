"""Collectives made of messages: what they do, and what they really send.

Chapter: 05_comm/collectives
Source: collective_cost

`gpus.comm` hands collectives to the library of the wires. Here they are taken apart
into sends and receives, so that every byte can be counted as it leaves a rank. In a
ring each rank talks to two others only: one part goes to the right at each step, and
one comes from the left.
"""

from collections.abc import Callable

import torch
from jaxtyping import Shaped
from torch import Tensor

from tiny_lm.gpus import comm
from tiny_lm.gpus.mesh import Group


def meet(part: Tensor, to: int, like: Tensor, source: int, group: Group) -> Tensor:
    """Send a part and receive another; every second rank receives first.

    Where all sent first, nobody would come to receive.
    """
    if group.rank % 2:
        came = comm.receive(like, source, group)
        comm.send(part, to, group)
        return came
    comm.send(part, to, group)
    return comm.receive(like, source, group)


def reduce_scatter(
    x: Shaped[Tensor, "n_all *shape"], group: Group
) -> Shaped[Tensor, "n *shape"]:
    """As `comm.reduce_scatter`: a ring that adds what comes."""
    p, me = group.size, group.rank
    parts = list(x.chunk(p))
    for step in range(1, p):
        out, into = (me - step) % p, (me - step - 1) % p
        came = meet(parts[out], (me + 1) % p, parts[into], (me - 1) % p, group)
        parts[into] = parts[into] + came
    return parts[me]


def all_gather(
    x: Shaped[Tensor, "n *shape"], group: Group
) -> Shaped[Tensor, "n_all *shape"]:
    """As `comm.all_gather`: a ring that passes on what comes."""
    p, me = group.size, group.rank
    parts = {me: x}
    for step in range(p - 1):
        out, into = (me - step) % p, (me - step - 1) % p
        parts[into] = meet(parts[out], (me + 1) % p, x, (me - 1) % p, group)
    return torch.cat([parts[rank] for rank in range(p)])


def all_reduce(
    x: Shaped[Tensor, "n *shape"], group: Group
) -> Shaped[Tensor, "n *shape"]:
    """As `comm.all_reduce`, where dim 0 divides by the ranks: both, in this order."""
    return all_gather(reduce_scatter(x, group), group)


def all_to_all(
    x: Shaped[Tensor, "n *shape"], group: Group
) -> Shaped[Tensor, "n *shape"]:
    """As `comm.all_to_all` with as many rows for each rank, in pairs.

    Ranks in a pair differ in one and the same way, so all pairs meet at once; that
    takes a number of ranks that is a power of two.
    """
    rows = list(x.chunk(group.size))
    for bits in range(1, group.size):
        other = group.rank ^ bits
        first = group.rank < other
        if first:
            comm.send(rows[other], other, group)
        came = comm.receive(rows[other], other, group)
        if not first:
            comm.send(rows[other], other, group)
        rows[other] = came
    return torch.cat(rows)


WAYS: dict[str, Callable[[Tensor, Group], Tensor]] = {
    way.__name__: way for way in (all_reduce, all_gather, reduce_scatter, all_to_all)
}
