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
ranks 2 and 3. A message is the call of a group of two: who sends it, and who gets it.

Before a message, and before every call of a patient rank, one waits on the board until
the others have written theirs. Then it is certain who waits for whom, and ranks that
wait in a circle are told so at once.
"""

import marshal
import mmap
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

# A rank's last calls stay readable. Only a rank that never waits (the source of a
# broadcast) can be further ahead than this; its oldest calls are then not compared.
KEPT = 256

# What a rank is doing: its own work, or a collective; or it is done; or it waits here,
# on the board, for the others to write down their call.
BUSY, CALLING, RETURNED, AWAITING = range(4)
MESSAGE = "message"  # the kind of a call in which the first member sends to the second
_HEAD = struct.Struct("<QQQ")  # number of the run, calls so far, and one of these four
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

    def missing(self, rank: int) -> list[int]:
        """Whose call a rank's latest one still lacks."""
        run, call = self.state(rank)[0], self.latest(rank)
        others = (r for r in call.members if r != rank)
        return [r for r in others if not self.find(run, r, call.members, call.number)]

    def stuck(self, run: int) -> set[int]:
        """Ranks that wait on the board for ever: in a circle, or for one that is done.

        Hold the lock, so that nobody goes on meanwhile.
        """
        states = {rank: self.state(rank) for rank in range(self.world_size)}
        here = {r: doing for r, (theirs, _, doing) in states.items() if theirs == run}
        returned = {r for r, doing in here.items() if doing == RETURNED}
        stuck = {r for r, doing in here.items() if doing == AWAITING}
        lacks = {r: {*self.missing(r)} for r in stuck}
        while free := {r for r in stuck if not lacks[r] & (stuck | returned)}:
            stuck -= free
        return stuck

    def close(self) -> None:
        """Let go of the memory."""
        self._memory.close()

    def _at(self, rank: int, index: int) -> int:
        return rank * self._region + _HEAD.size + index % KEPT * self._slot
