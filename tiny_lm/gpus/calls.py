"""The collectives themselves: all of the course that calls torch's.

Chapter: 05_comm/emulated_gpus
Source: torch_distributed

`comm` has them with their arguments checked and with their backward. Here each call is
written on the board, counted and recorded, and made.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from tiny_lm.gpus.mesh import Group
from tiny_lm.gpus.meter import count
from tiny_lm.gpus.pending import Pending
from tiny_lm.gpus.witness import (
    message,
    posted,
    recorded,
    records,
    started,
    waiting,
)


def _bits(x: Tensor) -> Tensor:
    """The same memory with a dtype that any backend moves: FP8 codes as bytes."""
    is_code = x.is_floating_point() and x.dtype.itemsize == 1
    return x.view(torch.uint8) if is_code else x


@records("all_reduce")
def total(x: Tensor, group: Group) -> Tensor:
    sums = x.detach().clone(memory_format=torch.contiguous_format)
    with posted("all_reduce", x, group):
        dist.all_reduce(sums, group=group.process_group)
    count("all_reduce", 2 * (group.size - 1) * x.nbytes // group.size)
    return sums


@records("all_gather")
def concatenate(x: Tensor, group: Group) -> Tensor:
    whole = x.new_empty(group.size * x.shape[0], *x.shape[1:])
    parts = list(_bits(whole).chunk(group.size))
    with posted("all_gather", x, group):
        dist.all_gather(parts, _bits(x.contiguous()), group=group.process_group)
    count("all_gather", (group.size - 1) * x.nbytes)
    return whole


@records("reduce_scatter")
def sum_shards(x: Tensor, group: Group) -> Tensor:
    shard = x.new_empty(x.shape[0] // group.size, *x.shape[1:])
    parts = list(x.contiguous().chunk(group.size))
    with posted("reduce_scatter", x, group):
        dist.reduce_scatter(shard, parts, group=group.process_group)
    count("reduce_scatter", (group.size - 1) * shard.nbytes)
    return shard


def start_total(x: Tensor, group: Group) -> Pending:
    """`total`, waited for later; `x` may change at once, for its copy travels."""
    if group.size == 1:
        return Pending("all_reduce", lambda: x)
    sums = x.detach().clone(memory_format=torch.contiguous_format)
    issue = partial(dist.all_reduce, sums)
    pending = _later("all_reduce", x, group, sums, issue)
    count("all_reduce", 2 * (group.size - 1) * x.nbytes // group.size)
    return pending


def start_concatenate(x: Tensor, group: Group) -> Pending:
    """`concatenate`, waited for later."""
    if group.size == 1:
        return Pending("all_gather", lambda: x)
    whole = x.new_empty(group.size * x.shape[0], *x.shape[1:])
    parts = list(_bits(whole).chunk(group.size))
    issue = partial(dist.all_gather, parts, _bits(x.contiguous()))
    pending = _later("all_gather", x, group, whole, issue)
    count("all_gather", (group.size - 1) * x.nbytes)
    return pending


def start_sum_shards(x: Tensor, group: Group) -> Pending:
    """`sum_shards`, waited for later."""
    if group.size == 1:
        return Pending("reduce_scatter", lambda: x)
    shard = x.new_empty(x.shape[0] // group.size, *x.shape[1:])
    parts = list(x.contiguous().chunk(group.size))
    issue = partial(dist.reduce_scatter, shard, parts)
    pending = _later("reduce_scatter", x, group, shard, issue)
    count("reduce_scatter", (group.size - 1) * shard.nbytes)
    return pending


@records("broadcast")
def copy_from(x: Tensor, source: int, group: Group) -> Tensor:
    copy = x.detach().clone(memory_format=torch.contiguous_format)
    with posted(f"broadcast from {source}", x, group):
        dist.broadcast(_bits(copy), group_src=source, group=group.process_group)
    at_source = group.rank == source
    count("broadcast", (group.size - 1) * x.nbytes if at_source else 0)
    return copy


@records("reduce")
def sum_at(x: Tensor, target: int, group: Group) -> Tensor:
    total = x.clone(memory_format=torch.contiguous_format)
    with posted(f"reduce to {target}", x, group):
        dist.reduce(total, group_dst=target, group=group.process_group)
    at_target = group.rank == target
    count("reduce", 0 if at_target else x.nbytes)
    return total if at_target else torch.zeros_like(total)


def exchange(
    x: Tensor,
    sends: Sequence[int],
    receives: Sequence[int],
    group: Group,
    kind: str = "all_to_all",
) -> Tensor:
    record = recorded("all_to_all", _sizes(x, sends), group, name=kind)
    with record, posted(kind, x, group, sends, receives):
        arrived, _ = _issue(x, sends, receives, group)
    _count_rows(kind, x, sends, group)
    return arrived


def start_exchange(
    x: Tensor,
    sends: Sequence[int],
    receives: Sequence[int],
    group: Group,
    kind: str = "all_to_all",
) -> Pending:
    """`exchange`, waited for later; in a group of one nothing travels."""
    if group.size == 1:
        return Pending(kind, lambda: x)
    with (
        started("all_to_all", _sizes(x, sends), group, name=kind) as waited,
        posted(kind, x, group, sends, receives),
    ):
        arrived, work = _issue(x, sends, receives, group, later=True)
    _count_rows(kind, x, sends, group)
    return _pending(kind, arrived, work, waited)


def barrier(group: Group) -> None:
    with recorded("barrier", (), group), posted("barrier", None, group):
        dist.barrier(group=group.process_group)
    count("barrier", 0)


def _later(
    kind: str, x: Tensor, group: Group, arrived: Tensor, issue: Callable[..., dist.Work]
) -> Pending:
    """Start a collective of one argument, on the board and on the tape."""
    with started(kind, (x.nbytes,), group, name=kind) as waited, posted(kind, x, group):
        work = issue(group=group.process_group, async_op=True)
    return _pending(kind, arrived, work, waited)


def _pending(
    kind: str, arrived: Tensor, work: dist.Work, waited: Callable[[], None]
) -> Pending:
    def arrive() -> Tensor:
        with waiting():
            work.wait()
        waited()
        return arrived

    return Pending(kind, arrive)


def deliver(x: Tensor, to: int, group: Group) -> None:
    whole = _bits(x.detach().contiguous())
    with message("send", x, to, group):
        dist.send(whole, group=group.process_group, group_dst=to)
    count("send", x.nbytes)


def take(like: Tensor, source: int, group: Group) -> Tensor:
    came = torch.empty_like(like.detach(), memory_format=torch.contiguous_format)
    with message("receive", like, source, group):
        dist.recv(_bits(came), group=group.process_group, group_src=source)
    count("receive", 0)
    return came


def _issue(
    x: Tensor,
    sends: Sequence[int],
    receives: Sequence[int],
    group: Group,
    later: bool = False,
) -> tuple[Tensor, dist.Work | None]:
    """Where the rows will be, and what to wait for if that is wanted later."""
    arrived = x.new_empty(sum(receives), *x.shape[1:])
    work = dist.all_to_all_single(
        _bits(arrived),
        _bits(x.contiguous()),
        list(receives),
        list(sends),
        group=group.process_group,
        async_op=later,
    )
    return arrived, work


def _sizes(x: Tensor, sends: Sequence[int]) -> list[int]:
    row_bytes = math.prod(x.shape[1:]) * x.element_size()
    return [n * row_bytes for n in sends]


def _count_rows(kind: str, x: Tensor, sends: Sequence[int], group: Group) -> None:
    others = x.shape[0] - sends[group.rank]
    count(kind, others * x[:1].nbytes if others else 0)
