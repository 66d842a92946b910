"""A rank's place at the board: write down a call, look at the others', wait for them.

Chapter: 05_comm/emulated_gpus
Source: torch_distributed

A call is compared when it is written down, and no more is needed where ranks are ended
after a mistake. A *patient* rank, and every rank before a message, waits on the board
until the others have written theirs. So none of them is ever lost inside gloo, and of
ranks that wait in a circle each sees the circle.
"""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager

from torch import Tensor

from tiny_lm.gpus.board import (
    AWAITING,
    BUSY,
    CALLING,
    KEPT,
    MESSAGE,
    RETURNED,
    Board,
    Call,
    Mismatch,
    fit,
)
from tiny_lm.gpus.lines import calling_line

LOOK_S = 0.0002  # between two looks at what the others have written


class Seat:
    """A rank's place at the board.

    Args:
        lock: shared by all ranks; two never write and compare at once.

    operations: what the calls amounted to, in the count of torch's default group
    patient: wait before each call until the others have come to it, so that no rank is
        ever lost in one that does not fit
    """

    def __init__(self, board: Board, rank: int, lock: AbstractContextManager) -> None:
        self.board, self.rank, self.lock = board, rank, lock
        self.run, self.calls, self.operations = 0, 0, 0
        self.patient = False
        self._numbers: dict[tuple[int, ...], int] = {}

    def begin(self, run: int) -> None:
        """Start a run, of which the others may be ahead or behind."""
        self.run, self.calls, self.operations = run, 0, 0
        self.patient = False
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
        call = Call(members, number, group, kind, shape, dtype, *splits, *line)
        waits = self.patient or kind == MESSAGE
        self._post(call, AWAITING if waits else CALLING)
        if waits:
            self._await(call)

    def _post(self, call: Call, doing: int) -> None:
        with self.lock:
            self.board.write(self.rank, self.calls, call)
            self.calls += 1
            self.board.set_state(self.rank, self.run, self.calls, doing)
            fits = all(self._fits(call, r) for r in call.members if r != self.rank)
        if not fits:
            raise Mismatch(call.members, call.number)

    def _await(self, call: Call) -> None:
        while self.board.missing(self.rank):
            with self.lock:
                lost = self.rank in self.board.stuck(self.run)
            if lost:
                raise Mismatch(call.members, call.number)
            time.sleep(LOOK_S)
        with self.lock:
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
            missed = None if self.patient else self._missed()
        if missed:
            raise Mismatch(missed.members, missed.number)

    def meet_at_the_end(self) -> None:
        """Say that no call will follow, and wait until every rank has said so."""
        self.board.set_state(self.rank, self.run, self.calls, RETURNED)
        states = map(self.board.state, range(self.board.world_size))
        while any((run, doing) != (self.run, RETURNED) for run, _, doing in states):
            time.sleep(LOOK_S)
            states = map(self.board.state, range(self.board.world_size))

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
