"""A board on which every rank writes what it is about to call, and compares.

Chapter: 05_comm/emulated_gpus
Source: torch_distributed

Ranks that call different collectives, or the same with other sizes, do not get an
error from gloo: some of these end the process, some hang, and some return wrong numbers
in silence. So each call is written down before it is made, in memory that all ranks
share. Whoever writes looks at what the others wrote as *their* call of that number in
that group, and stops where the two do not fit. Of any two ranks the later one sees the
earlier, so nobody has to wait, and no two that disagree ever exchange a byte.

Groups are compared one by one: what ranks 0 and 1 do between them is no business of
ranks 2 and 3.
"""

import marshal
import mmap
import struct
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from torch import Tensor

from tiny_lm.gpus.lines import calling_line

# A rank's last calls stay readable. Only a rank that never waits (the source of a
# broadcast) can be further ahead than this; its oldest calls are then not compared.
KEPT = 256

# What a rank is doing: its own work, or a collective; or it is done.
BUSY, CALLING, RETURNED = range(3)
_HEAD = struct.Struct("<QQQ")  # number of the run, calls so far, and one of these three
_LENGTH = struct.Struct("<H")


class Call(NamedTuple):
    """A collective as one rank is about to make it.

    members: the group's ranks, as numbers in the world
    number: which call it is in this group, from 1
    group: torch's name of the group, which two groups of the same ranks do not share
    sends, receives: rows for and from each member, for an all-to-all; else empty
    file, line: where the learner's code makes the call; line 0 where that is unknown
    backward: made by a backward pass
    """

    members: tuple[int, ...]
    number: int
    group: str
    kind: str
    shape: tuple[int, ...]
    dtype: str
    sends: tuple[int, ...]
    receives: tuple[int, ...]
    file: str
    line: int
    backward: bool


def fit(a: Call, rank_a: int, b: Call, rank_b: int) -> bool:
    """Whether two ranks can make these calls together."""
    if (a.kind, a.group, a.dtype) != (b.kind, b.group, b.dtype):
        return False
    if not a.sends:
        return a.shape == b.shape
    place_a, place_b = a.members.index(rank_a), a.members.index(rank_b)
    return (
        a.shape[1:] == b.shape[1:]
        and a.sends[place_b] == b.receives[place_a]
        and b.sends[place_a] == a.receives[place_b]
    )


class Mismatch(RuntimeError):
    """A call that does not fit what another rank of the group does.

    members, number: the group, and which of its calls
    """

    def __init__(self, members: Sequence[int], number: int) -> None:
        super().__init__(f"call {number} of ranks {list(members)} does not fit")
        self.members, self.number = tuple(members), number


class Board:
    """The shared memory: for each rank, what it is doing and its last calls."""

    def __init__(self, path: Path, world_size: int) -> None:
        self.world_size = world_size
        self._slot = 1024 + 24 * world_size  # bytes for one call: three counts a rank
        self._region = _HEAD.size + KEPT * self._slot
        size = world_size * self._region
        with path.open("a+b") as file:
            file.truncate(size)
            self._memory = mmap.mmap(file.fileno(), size)

    def state(self, rank: int) -> tuple[int, int, int]:
        """Number of the run that the rank is in, its calls so far, what it is doing."""
        return _HEAD.unpack_from(self._memory, rank * self._region)

    def set_state(self, rank: int, run: int, calls: int, doing: int) -> None:
        """Only the rank itself may."""
        _HEAD.pack_into(self._memory, rank * self._region, run, calls, doing)

    def write(self, rank: int, index: int, call: Call) -> None:
        """Put down a rank's call; `index` counts from 0 over all its groups."""
        content = marshal.dumps(tuple(call))
        assert len(content) <= self._slot - _LENGTH.size, call
        at = self._at(rank, index)
        _LENGTH.pack_into(self._memory, at, len(content))
        self._memory[at + _LENGTH.size : at + _LENGTH.size + len(content)] = content

    def read(self, rank: int, index: int) -> Call:
        """A call that the rank wrote down."""
        at = self._at(rank, index)
        (length,) = _LENGTH.unpack_from(self._memory, at)
        start = at + _LENGTH.size
        return Call(*marshal.loads(self._memory[start : start + length]))

    def find(
        self, run: int, rank: int, members: tuple[int, ...], number: int
    ) -> Call | None:
        """A rank's call of this number in a group, if it has come that far."""
        theirs, calls, _ = self.state(rank)
        if theirs != run:
            return None
        for index in range(calls - 1, max(calls - KEPT, 0) - 1, -1):
            call = self.read(rank, index)
            if call.members == members:
                if call.number <= number:
                    return call if call.number == number else None
        return None

    def latest(self, rank: int) -> Call | None:
        """The call that a rank makes or made last."""
        _, calls, _ = self.state(rank)
        return self.read(rank, calls - 1) if calls else None

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()

    def _at(self, rank: int, index: int) -> int:
        return rank * self._region + _HEAD.size + index % KEPT * self._slot


class FileLock:
    """A lock between processes that nobody has to clean up: it lies on a file.

    A semaphore would stay in the system where a kernel is killed with all its helpers.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: BinaryIO | None = None

    def __enter__(self) -> None:
        import fcntl  # not on Windows, where semaphores go with their processes

        self._file = self._file or self.path.open("rb")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        import fcntl

        fcntl.flock(self._file, fcntl.LOCK_UN)


class Seat:
    """A rank's place at the board.

    Args:
        lock: shared by all ranks; two never write and compare at once.

    operations: what the calls amounted to, in the count of torch's default group
    """

    def __init__(self, board: Board, rank: int, lock: AbstractContextManager) -> None:
        self.board, self.rank, self.lock = board, rank, lock
        self.run, self.calls, self.operations = 0, 0, 0
        self._numbers: dict[tuple[int, ...], int] = {}

    def begin(self, run: int) -> None:
        """Start a run, of which the others may be ahead or behind."""
        self.run, self.calls, self.operations = run, 0, 0
        self._numbers.clear()
        with self.lock:
            self.board.set_state(self.rank, run, 0, BUSY)

    def enter(
        self,
        kind: str,
        members: tuple[int, ...],
        group: str,
        x: Tensor | None,
        sends: Sequence[int],
        receives: Sequence[int],
    ) -> None:
        """Write down a call of `x`, as in `Call`, before it is made.

        Raises:
            Mismatch: a rank of the group makes another call in its place, or none.
        """
        number = self._numbers[members] = self._numbers.get(members, 0) + 1
        shape = () if x is None else tuple(x.shape)
        dtype = "" if x is None else str(x.dtype).removeprefix("torch.")
        splits = tuple(sends), tuple(receives)
        line = calling_line()
        self._post(Call(members, number, group, kind, shape, dtype, *splits, *line))

    def _post(self, call: Call) -> None:
        with self.lock:
            self.board.write(self.rank, self.calls, call)
            self.calls += 1
            self.board.set_state(self.rank, self.run, self.calls, CALLING)
            fits = all(self._fits(call, r) for r in call.members if r != self.rank)
        if not fits:
            raise Mismatch(call.members, call.number)

    def _fits(self, call: Call, other: int) -> bool:
        theirs = self.board.find(self.run, other, call.members, call.number)
        if theirs is None:
            run, _, doing = self.board.state(other)
            return run != self.run or doing != RETURNED
        return fit(call, self.rank, theirs, other)

    def wait(self) -> None:
        """Wait for a call that was written down when it started."""
        self.board.set_state(self.rank, self.run, self.calls, CALLING)

    def done(self) -> None:
        """The call is over, or under way."""
        self.board.set_state(self.rank, self.run, self.calls, BUSY)

    def leave(self) -> None:
        """Say that no call will follow.

        Raises:
            Mismatch: a rank of some group waits for one that this rank never made.
        """
        with self.lock:
            self.board.set_state(self.rank, self.run, self.calls, RETURNED)
            missed = self._missed()
        if missed:
            raise Mismatch(missed.members, missed.number)

    def _missed(self) -> Call | None:
        """The first call of others that this rank belongs to and has not made."""
        for other in range(self.board.world_size):
            run, calls, _ = self.board.state(other)
            if run == self.run and other != self.rank:
                for index in range(max(calls - KEPT, 0), calls):
                    call = self.board.read(other, index)
                    mine = self._numbers.get(call.members, 0)
                    if self.rank in call.members and call.number > mine:
                        return call
        return None


# This rank's own; None where nobody compares. There is one board for all groups.
_SEAT: Seat | None = None


def take_seat(seat: Seat | None) -> None:
    """From now on, compare the calls of this process; or stop doing so."""
    global _SEAT
    _SEAT = seat


def seat() -> Seat | None:
    """This process's place at the board, if it has one."""
    return _SEAT
