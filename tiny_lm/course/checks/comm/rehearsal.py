"""Ranks that one process plays in turn: quick stand-ins for a check's own functions.

Chapter: 05_comm/emulated_gpus
Source: course

A learner's function runs on real ranks. To find out which mistake it makes, a check
tries some hundred wrong answers of its own on the same input; those are rehearsed here,
where a call costs a thousandth of a second and a rank that stops harms nobody.

A rank is played until it makes a call; once all have come so far, it is played again
from the start, with what the call brings.

The functions have the names of `gpus.comm` and hand on to it where the group is a real
one, so the check's reference, which calls them, runs in both places. They know no
gradients here.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tiny_lm.gpus import comm
from tiny_lm.gpus.mesh import Group
from tiny_lm.gpus.meter import Meter

APART = "the calls of the ranks do not fit together"
MOST_CALLS = 50  # of a function that means to end


class Apart(Exception):
    """Ranks made calls that do not fit, or one is missing."""


class Pause(BaseException):
    """This rank has come to a call that the others have not come to."""

    def __init__(self, kind: tuple, brings: Any) -> None:
        super().__init__(kind)
        self.kind, self.brings = kind, brings


@dataclass(eq=False)
class Played:
    """A group as one of its players sees it.

    Args:
        past: what every rank brought to each call so far.
    """

    rank: int
    size: int
    past: list[list[Any]]
    made: int = 0
    meters: list[Meter] = field(default_factory=list)

    def meet(self, kind: tuple, brings: Any) -> list[Any]:
        """What every rank brings to this call, in rank order.

        Raises:
            Pause: not all have come so far.
        """
        self.made += 1
        if self.made > len(self.past):
            raise Pause(kind, brings)
        return self.past[self.made - 1]

    def count(self, kind: str, num_bytes: int) -> None:
        """Add a call to the meters that are counting."""
        for meter in self.meters:
            meter.calls[kind] += 1
            meter.num_bytes[kind] += num_bytes


AnyGroup = Group | Played


def all_gather(x: Tensor, group: AnyGroup) -> Tensor:
    """As `comm.all_gather`."""
    if isinstance(group, Group):
        return comm.all_gather(x, group)
    x = x.detach()
    group.count("all_gather", (group.size - 1) * x.nbytes)
    kind = ("all_gather", tuple(x.shape), x.dtype)
    return torch.cat(group.meet(kind, x))


def all_reduce(x: Tensor, group: AnyGroup) -> Tensor:
    """As `comm.all_reduce`."""
    if isinstance(group, Group):
        return comm.all_reduce(x, group)
    x = x.detach()
    group.count("all_reduce", 2 * (group.size - 1) * x.nbytes // group.size)
    kind = ("all_reduce", tuple(x.shape), x.dtype)
    return torch.stack(group.meet(kind, x)).sum(0).to(x.dtype)


def all_to_all(
    x: Tensor, sends: Sequence[int], receives: Sequence[int], group: AnyGroup
) -> Tensor:
    """As `comm.all_to_all`."""
    if isinstance(group, Group):
        return comm.all_to_all(x, sends, receives, group)
    x = x.detach()
    for name, counts in (("send_counts", sends), ("receive_counts", receives)):
        if len(counts) != group.size:
            raise ValueError(f"{name} has {len(counts)} counts for {group.size} ranks")
    if sum(sends) != len(x):
        raise ValueError(
            f"send_counts {list(sends)} add up to {sum(sends)}, but there are "
            f"{len(x)} rows"
        )
    if sends[group.rank] != receives[group.rank]:
        raise ValueError(
            f"rank {group.rank} sends itself {sends[group.rank]} rows but expects "
            f"{receives[group.rank]}"
        )
    row = x[:1].nbytes if len(x) else 0
    group.count("all_to_all", row * (sum(sends) - sends[group.rank]))
    kind = ("all_to_all", tuple(x.shape[1:]), x.dtype)
    parts = x.split([int(n) for n in sends])
    came = group.meet(kind, (parts, [int(n) for n in receives]))
    for rank, (_, expected) in enumerate(came):
        if expected != [len(theirs[rank]) for theirs, _ in came]:
            raise Apart(APART)
    return torch.cat([theirs[group.rank] for theirs, _ in came])


def all_to_all_counts(counts: Tensor, group: AnyGroup) -> Tensor:
    """As `comm.all_to_all_counts`."""
    if isinstance(group, Group):
        return comm.all_to_all_counts(counts, group)
    ones = [1] * group.size
    return all_to_all(counts, ones, ones, group)


@contextmanager
def metering(group: AnyGroup) -> Iterator[Meter]:
    """As `comm.metering`, of this rank."""
    if isinstance(group, Group):
        with comm.metering() as meter:
            yield meter
        return
    meter = Meter()
    group.meters.append(meter)
    yield meter
    group.meters.remove(meter)


def play(size: int, work: Callable[[Played], Any]) -> list[Any]:
    """What `work` returns on each of so many ranks, or raises, in rank order."""
    past: list[list[Any]] = []
    while len(past) < MOST_CALLS:
        found = [_until_a_call(work, Played(rank, size, past)) for rank in range(size)]
        calls = [x for x in found if isinstance(x, Pause)]
        if not calls:
            return found
        if len(calls) < size or len({call.kind for call in calls}) > 1:
            return [Apart(APART) if isinstance(x, Pause) else x for x in found]
        past.append([call.brings for call in calls])
    return [Apart(APART)] * size


def _until_a_call(work: Callable[[Played], Any], group: Played) -> Any:
    try:
        return work(group)
    except (Exception, Pause) as news:
        return news
