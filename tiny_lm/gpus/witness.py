"""Those who look on when ranks communicate: the board, and whoever records.

Chapter: 05_comm/emulated_gpus
Source: course

The board compares each call with the others' before anything moves; a recorder writes
down what moves. `comm` tells both.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps

from torch import Tensor

from tiny_lm.gpus import seat as seats
from tiny_lm.gpus.board import MESSAGE
from tiny_lm.gpus.mesh import Group, operations
from tiny_lm.replay.recorder import active

Run = Callable[..., Tensor]


@contextmanager
def posted(
    kind: str,
    x: Tensor | None,
    group: Group,
    sends: Sequence[int] = (),
    receives: Sequence[int] = (),
    members: tuple[int, ...] = (),
) -> Iterator[None]:
    """Write a call on the board before it is made, so that ranks can compare.

    Args:
        members: who makes it, in the world's numbers; the whole group by default.
    """
    seat = seats.seat()
    if seat is None:
        yield
        return
    name = group.process_group.group_name
    seat.enter(kind, members or group.members, name, x, sends, receives)
    before = operations()
    yield
    seat.operations += operations() - before
    seat.done()


def recorded(
    kind: str,
    num_bytes: Sequence[int],
    group: Group,
    root: int | None = None,
    name: str | None = None,
) -> AbstractContextManager[None]:
    """Around a call, for whoever records; one comparison where nobody does.

    Args:
        num_bytes: to each rank for an all-to-all, of the argument for other kinds.
        root: the group's rank that a broadcast comes from, or a reduce goes to.
        name: what the call is for, where that says more than its kind.
    """
    recorder = active()
    if recorder is None:
        return nullcontext()
    ranks = group.members
    root = None if root is None else ranks[root]
    return recorder.collective(name or kind, kind, num_bytes, ranks, root)


@contextmanager
def started(
    kind: str, num_bytes: Sequence[int], group: Group, name: str
) -> Iterator[Callable[[], None]]:
    """Around the start of a call that is waited for later.

    Returns:
        What to call when it has been waited for, so that whoever records knows.
    """
    recorder = active()
    if recorder is None:
        yield _nothing
        return
    with recorder.start(name, kind, num_bytes, group.members) as event:
        yield lambda: recorder.wait(event)


@contextmanager
def waiting() -> Iterator[None]:
    """Around a wait for a call that was posted when it started."""
    seat = seats.seat()
    if seat:
        seat.wait()
    yield
    if seat:
        seat.done()


@contextmanager
def message(end: str, x: Tensor, peer: int, group: Group) -> Iterator[None]:
    """Around one end of a message: on the board a call of two, for whoever records one.

    Args:
        end: "send" or "receive".
        peer: the other end, a rank of the group.
    """
    me, other, recorder = group.members[group.rank], group.members[peer], active()
    ends = (me, other) if end == "send" else (other, me)
    passing = recorder.message(end, other, x.nbytes) if recorder else nullcontext()
    with passing, posted(MESSAGE, x, group, members=ends):
        yield


def _nothing() -> None:
    """Nobody records."""


def records(kind: str) -> Callable[[Run], Run]:
    """A collective of one argument, recorded as one call and nothing inside it."""

    def decorate(run: Run) -> Run:
        @wraps(run)
        def call(x: Tensor, group: Group, **root: int) -> Tensor:
            with recorded(kind, (x.nbytes,), group, *root.values()):
                return run(x, group=group, **root)

        return call

    return decorate
