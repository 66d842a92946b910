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

In a group of one, every collective returns its argument and sends nothing.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.distributed as dist
from jaxtyping import Int, Shaped
from torch import Tensor

from tiny_lm.gpus.mesh import Group
from tiny_lm.gpus.meter import Meter as Meter
from tiny_lm.gpus.meter import count
from tiny_lm.gpus.meter import metering as metering
from tiny_lm.gpus.witness import posted, recorded, records


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
    run = partial(_sum, group=group)
    return _differentiable(x, group, run, run)


def all_gather(
    x: Shaped[Tensor, "n *shape"], group: Group
) -> Shaped[Tensor, "n_all *shape"]:
    """All ranks' `x` one after the other along dim 0, in rank order, on every rank."""
    forward = partial(_concatenate, group=group)
    return _differentiable(x, group, forward, partial(_sum_shards, group=group))


def reduce_scatter(
    x: Shaped[Tensor, "n_all *shape"], group: Group
) -> Shaped[Tensor, "n *shape"]:
    """The sum of all ranks' `x`, of which each rank keeps its own part of dim 0.

    Raises:
        ValueError: dim 0 does not divide by the number of ranks.
        TypeError: `x` holds FP8 codes, which do not add up.
    """
    _refuse_codes(x)
    if x.shape[0] % group.size:
        raise ValueError(
            f"cannot split {x.shape[0]} rows evenly over {group.size} ranks"
        )
    forward = partial(_sum_shards, group=group)
    return _differentiable(x, group, forward, partial(_concatenate, group=group))


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
    forward = partial(_copy_from, source=source, group=group)
    backward = partial(_sum_at, target=source, group=group)
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
        _exchange, sends=send_counts, receives=receive_counts, group=group
    )
    backward = partial(
        _exchange, sends=receive_counts, receives=send_counts, group=group
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
    if counts.shape[0] != group.size:
        raise ValueError(f"{counts.shape[0]} rows of counts for {group.size} ranks")
    if group.size == 1:
        return counts
    ones = [1] * group.size
    return _exchange(counts, ones, ones, group, kind="counts")


def barrier(group: Group) -> None:
    """Wait until every rank of the group is here."""
    if group.size > 1:
        with recorded("barrier", (), group), posted("barrier", None, group):
            dist.barrier(group=group.process_group)
        count("barrier", 0)


def _refuse_codes(x: Tensor) -> None:
    if x.is_floating_point() and x.dtype.itemsize == 1:
        raise TypeError(f"codes of {x.dtype} do not add up: dequantise them first")


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


# The collectives themselves. This is all of the course that calls torch's.


def _bits(x: Tensor) -> Tensor:
    """The same memory with a dtype that any backend moves: FP8 codes as bytes."""
    is_code = x.is_floating_point() and x.dtype.itemsize == 1
    return x.view(torch.uint8) if is_code else x


@records("all_reduce")
def _sum(x: Tensor, group: Group) -> Tensor:
    total = x.detach().clone(memory_format=torch.contiguous_format)
    with posted("all_reduce", x, group):
        dist.all_reduce(total, group=group.process_group)
    count("all_reduce", 2 * (group.size - 1) * x.nbytes // group.size)
    return total


@records("all_gather")
def _concatenate(x: Tensor, group: Group) -> Tensor:
    whole = x.new_empty(group.size * x.shape[0], *x.shape[1:])
    parts = list(_bits(whole).chunk(group.size))
    with posted("all_gather", x, group):
        dist.all_gather(parts, _bits(x.contiguous()), group=group.process_group)
    count("all_gather", (group.size - 1) * x.nbytes)
    return whole


@records("reduce_scatter")
def _sum_shards(x: Tensor, group: Group) -> Tensor:
    shard = x.new_empty(x.shape[0] // group.size, *x.shape[1:])
    parts = list(x.contiguous().chunk(group.size))
    with posted("reduce_scatter", x, group):
        dist.reduce_scatter(shard, parts, group=group.process_group)
    count("reduce_scatter", (group.size - 1) * shard.nbytes)
    return shard


@records("broadcast")
def _copy_from(x: Tensor, source: int, group: Group) -> Tensor:
    copy = x.detach().clone(memory_format=torch.contiguous_format)
    with posted(f"broadcast from {source}", x, group):
        dist.broadcast(_bits(copy), group_src=source, group=group.process_group)
    at_source = group.rank == source
    count("broadcast", (group.size - 1) * x.nbytes if at_source else 0)
    return copy


@records("reduce")
def _sum_at(x: Tensor, target: int, group: Group) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    with posted(f"reduce to {target}", x, group):
        dist.reduce(total, group_dst=target, group=group.process_group)
    at_target = group.rank == target
    count("reduce", 0 if at_target else x.nbytes)
    return total if at_target else torch.zeros_like(total)


def _exchange(
    x: Tensor,
    sends: Sequence[int],
    receives: Sequence[int],
    group: Group,
    kind: str = "all_to_all",
) -> Tensor:
    row_bytes = math.prod(x.shape[1:]) * x.element_size()
    sizes = [n * row_bytes for n in sends]
    record = recorded("all_to_all", sizes, group, name=kind)
    with record, posted(kind, x, group, sends, receives):
        arrived = x.new_empty(sum(receives), *x.shape[1:])
        dist.all_to_all_single(
            _bits(arrived),
            _bits(x.contiguous()),
            list(receives),
            list(sends),
            group=group.process_group,
        )
    others = x.shape[0] - sends[group.rank]
    count(kind, others * x[:1].nbytes if others else 0)
    return arrived
