"""Every collective: what moves, and what its backward is. `meter` counts the bytes.

Chapter: 05_comm/emulated_gpus
Source: torch_distributed

Each collective is a linear map of what all ranks hold, so its backward is another
collective, the transposed map:

    forward           backward
    all_reduce        all_reduce
    all_gather        reduce_scatter
    reduce_scatter    all_gather
    broadcast         a sum at the source
    all_to_all        all_to_all, with the counts swapped

*The loss* in this table is the sum of all ranks' losses, whichever rank they are on.

Below them all are messages: `send` and `receive`, from one rank to one other.

In a group of one, every collective returns its argument and sends nothing.
"""

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from tiny_lm.gpus import calls
from tiny_lm.gpus.mesh import Group
from tiny_lm.gpus.meter import Meter as Meter
from tiny_lm.gpus.meter import metering as metering
from tiny_lm.gpus.pending import Pending as Pending


class _Collective(torch.autograd.Function):
    """A collective and the one that runs backward."""

    @staticmethod
    def forward(ctx, x, forward, backward):
        ctx.run_backward = backward
        return forward(x)

    @staticmethod
    def backward(ctx, grad):
        return ctx.run_backward(grad), None, None


Run = Callable[[Tensor], Tensor]


def _differentiable(x: Tensor, group: Group, forward: Run, backward: Run) -> Tensor:
    return x if group.size == 1 else _Collective.apply(x, forward, backward)


def all_reduce(x: Shaped[Tensor, "*shape"], group: Group) -> Shaped[Tensor, "*shape"]:
    """The sum of all ranks' `x`, on every rank.

    Raises:
        TypeError: `x` holds FP8 codes, which do not add up.
    """
    _refuse_codes(x)
    run = partial(calls.total, group=group)
    return _differentiable(x, group, run, run)


def all_gather(
    x: Shaped[Tensor, "n *shape"], group: Group
) -> Shaped[Tensor, "n_all *shape"]:
    """All ranks' `x` one after the other along dim 0, in rank order, on every rank."""
    forward = partial(calls.concatenate, group=group)
    return _differentiable(x, group, forward, partial(calls.sum_shards, group=group))


def reduce_scatter(
    x: Shaped[Tensor, "n_all *shape"], group: Group
) -> Shaped[Tensor, "n *shape"]:
    """The sum of all ranks' `x`, of which each rank keeps its own part of dim 0.

    Raises:
        ValueError: dim 0 does not divide by the number of ranks.
        TypeError: `x` holds FP8 codes, which do not add up.
    """
    _check_summable(x, group)
    forward = partial(calls.sum_shards, group=group)
    return _differentiable(x, group, forward, partial(calls.concatenate, group=group))


def broadcast(
    x: Shaped[Tensor, "*shape"], source: int, group: Group
) -> Shaped[Tensor, "*shape"]:
    """The source's `x`, on every rank; the others' gives the shape and dtype.

    Args:
        source: a rank of the group, 0..size-1.

    Raises:
        ValueError: `source` is not a rank of the group.
    """
    if not 0 <= source < group.size:
        raise ValueError(f"source={source} is not one of {group.size} ranks")
    forward = partial(calls.copy_from, source=source, group=group)
    backward = partial(calls.sum_at, target=source, group=group)
    return _differentiable(x, group, forward, backward)


def all_to_all(
    x: Shaped[Tensor, "n_sent *shape"],
    send_counts: Sequence[int],
    receive_counts: Sequence[int],
    group: Group,
) -> Shaped[Tensor, "n_received *shape"]:
    """Send the first rows to rank 0, the next ones to rank 1, …, and receive likewise.

    Args:
        x: rows in the order of the ranks they go to.
        send_counts: rows for each rank; zero is fine, and so are rows for oneself.
        receive_counts: rows from each rank: what they send here (`all_to_all_counts`).

    Returns:
        The rows received, in the order of the ranks they come from.

    Raises:
        ValueError: counts that are negative, not one a rank, do not add up to the rows
            of `x`, or disagree about the rows a rank keeps.
    """
    _check_counts(x.shape[0], send_counts, receive_counts, group)
    forward = partial(
        calls.exchange, sends=send_counts, receives=receive_counts, group=group
    )
    backward = partial(
        calls.exchange, sends=receive_counts, receives=send_counts, group=group
    )
    return _differentiable(x, group, forward, backward)


def all_to_all_counts(
    counts: Int[Tensor, "ranks n"], group: Group
) -> Int[Tensor, "ranks n"]:
    """Tell each rank how much it will get: row r goes to rank r.

    Returns:
        Row r is what rank r sent here.

    Raises:
        ValueError: not one row a rank.
    """
    _check_rows(counts, group)
    if group.size == 1:
        return counts
    ones = [1] * group.size
    return calls.exchange(counts, ones, ones, group, kind="counts")


def start_all_reduce(x: Shaped[Tensor, "*shape"], group: Group) -> Pending:
    """Start what `all_reduce` does and refuses, and go on at once; no autograd."""
    _refuse_codes(x)
    return calls.start_total(x.detach(), group)


def start_all_gather(x: Shaped[Tensor, "n *shape"], group: Group) -> Pending:
    """Start what `all_gather` does; `x` must not change before `wait()`."""
    return calls.start_concatenate(x.detach(), group)


def start_reduce_scatter(x: Shaped[Tensor, "n_all *shape"], group: Group) -> Pending:
    """Start what `reduce_scatter` does and refuses; `x` must not change meanwhile."""
    _check_summable(x, group)
    return calls.start_sum_shards(x.detach(), group)


def start_all_to_all(
    x: Shaped[Tensor, "n_sent *shape"],
    send_counts: Sequence[int],
    receive_counts: Sequence[int],
    group: Group,
) -> Pending:
    """Start what `all_to_all` does, and go on at once; no autograd.

    Whoever overlaps runs the way back himself, as one more transfer.

    Args:
        x: as for `all_to_all`; it must not change before `wait()`.
        send_counts: likewise.
        receive_counts: likewise.

    Returns:
        Its `wait()` gives the rows received.

    Raises:
        ValueError: as `all_to_all`.
    """
    _check_counts(x.shape[0], send_counts, receive_counts, group)
    return calls.start_exchange(x.detach(), send_counts, receive_counts, group)


def start_all_to_all_counts(counts: Int[Tensor, "ranks n"], group: Group) -> Pending:
    """Start what `all_to_all_counts` does, and go on at once.

    Raises:
        ValueError: not one row a rank.
    """
    _check_rows(counts, group)
    ones = [1] * group.size
    return calls.start_exchange(counts, ones, ones, group, kind="counts")


def send(x: Shaped[Tensor, "*shape"], to: int, group: Group) -> None:
    """Give `x` to one rank, which must `receive` it; no autograd.

    Emulated GPUs that compare their calls go on only when the other side takes it, as
    large messages and those between real GPUs do. So where all ranks send first, none
    of them ever receives: that is told at once.

    Args:
        to: a rank of the group, and another one.

    Raises:
        ValueError: `to` is no other rank of the group.
    """
    _check_peer("to", to, group.rank, group.size)
    calls.deliver(x, to, group)


def receive(
    like: Shaped[Tensor, "*shape"], source: int, group: Group
) -> Shaped[Tensor, "*shape"]:
    """What one rank sends here; waits until it does.

    Args:
        like: gives shape and dtype of what comes, and stays as it is.
        source: a rank of the group, and another one.

    Raises:
        ValueError: `source` is no other rank of the group.
    """
    _check_peer("source", source, group.rank, group.size)
    return calls.take(like, source, group)


def barrier(group: Group) -> None:
    """Wait until every rank of the group is here."""
    if group.size > 1:
        calls.barrier(group)


def _check_peer(name: str, peer: int, rank: int, size: int) -> None:
    if not 0 <= peer < size or peer == rank:
        raise ValueError(f"{name}={peer} is no other rank of {size}, for rank {rank}")


def _refuse_codes(x: Tensor) -> None:
    if x.is_floating_point() and x.dtype.itemsize == 1:
        raise TypeError(f"codes of {x.dtype} do not add up: dequantise them first")


def _check_summable(x: Tensor, group: Group) -> None:
    _refuse_codes(x)
    if x.shape[0] % group.size:
        raise ValueError(
            f"cannot split {x.shape[0]} rows evenly over {group.size} ranks"
        )


def _check_rows(counts: Tensor, group: Group) -> None:
    if counts.shape[0] != group.size:
        raise ValueError(f"{counts.shape[0]} rows of counts for {group.size} ranks")


def _check_counts(
    num_rows: int, sends: Sequence[int], receives: Sequence[int], group: Group
) -> None:
    for name, counts in (("send_counts", sends), ("receive_counts", receives)):
        if len(counts) != group.size:
            raise ValueError(f"{name} has {len(counts)} counts for {group.size} ranks")
        if min(counts) < 0:
            raise ValueError(f"{name} must not be negative, got {list(counts)}")
    if sum(sends) != num_rows:
        raise ValueError(
            f"send_counts {list(sends)} add up to {sum(sends)}, but there are "
            f"{num_rows} rows"
        )
    if sends[group.rank] != receives[group.rank]:
        raise ValueError(
            f"rank {group.rank} sends itself {sends[group.rank]} rows but expects "
            f"{receives[group.rank]}"
        )
