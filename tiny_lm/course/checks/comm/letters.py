"""Messages between ranks that one process plays: for a check's own functions.

Chapter: 05_comm/collectives
Source: course

As in `rehearsal`, a rank is played until it makes a call, and again from the start once
that call is answered. Here a call is one end of a message: it is answered when another
rank stands at its other end. Where nobody is answered, all wait for ever.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tiny_lm.course.checks.comm.ranks import CIRCLES
from tiny_lm.course.checks.comm.rehearsal import (
    APART,
    AnyGroup,
    Apart,
    Pause,
    Played,
)
from tiny_lm.course.checks.comm.rehearsal import metering as metering
from tiny_lm.gpus import comm
from tiny_lm.gpus.mesh import Group

SEND, RECEIVE = "send", "receive"
SENDS, RECEIVES, CIRCLE = CIRCLES
MOST_CALLS = 100  # of a rank that means to end


@dataclass(eq=False)
class Writer(Played):
    """A group as one of its players sees it.

    Args:
        answers: what this rank's calls so far gave.
    """

    answers: Sequence[Any] = field(default_factory=list)

    def call(self, end: str, peer: int, x: Tensor) -> Any:
        """What comes of this rank's next call.

        Raises:
            Pause: it is not answered yet.
        """
        self.made += 1
        if self.made > len(self.answers):
            raise Pause((end, peer), x.detach().clone())
        return self.answers[self.made - 1]


def send(x: Tensor, to: int, group: AnyGroup) -> None:
    """As `comm.send`."""
    if isinstance(group, Group):
        comm.send(x, to, group)
        return
    comm._check_peer("to", to, group.rank, group.size)
    group.call(SEND, to, x)
    group.count(SEND, x.nbytes)


def receive(like: Tensor, source: int, group: AnyGroup) -> Tensor:
    """As `comm.receive`."""
    if isinstance(group, Group):
        return comm.receive(like, source, group)
    comm._check_peer("source", source, group.rank, group.size)
    group.count(RECEIVE, 0)
    return group.call(RECEIVE, source, like).clone()


def play(size: int, work: Callable[[Writer], Any]) -> list[Any]:
    """What `work` returns on each of so many ranks, or raises, in rank order."""
    answers: list[list[Any]] = [[] for _ in range(size)]
    at: dict[int, Any] = dict.fromkeys(range(size))
    ready = {*at}
    while ready:
        for rank in ready:
            at[rank] = _until_a_call(
                work, Writer(rank, size, [], answers=answers[rank])
            )
        waiting = {r: news for r, news in at.items() if isinstance(news, Pause)}
        ready = set()
        for rank, call in waiting.items():
            end, peer = call.kind
            theirs = waiting.get(peer)
            if end == SEND and theirs and theirs.kind == (RECEIVE, rank):
                if len(answers[rank]) > MOST_CALLS or not _fit(call, theirs):
                    at[rank] = at[peer] = Apart(APART)
                    continue
                answers[rank].append(None)
                answers[peer].append(call.brings)
                ready |= {rank, peer}
    lost = {r: news.kind for r, news in at.items() if isinstance(news, Pause)}
    return [Apart(_why(r, lost)) if r in lost else news for r, news in at.items()]


def _until_a_call(work: Callable, group: Writer) -> Any:
    try:
        return work(group)
    except (Exception, Pause) as news:
        return news


def _fit(one: Pause, other: Pause) -> bool:
    a, b = one.brings, other.brings
    return (a.shape, a.dtype) == (b.shape, b.dtype)


def _why(rank: int, lost: dict[int, tuple[str, int]]) -> str:
    """Whom a rank waits for, and in what."""
    chain: list[int] = []
    while rank in lost and rank not in chain:
        chain.append(rank)
        rank = lost[rank][1]
    if rank not in chain:
        return APART
    ends = {lost[r][0] for r in chain[chain.index(rank) :]}
    if len(ends) > 1:
        return CIRCLE
    return SENDS if ends == {SEND} else RECEIVES
