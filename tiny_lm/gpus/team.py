"""Ranks that start together, answer calls together and end together.

Chapter: 05_comm/emulated_gpus
Source: torch_distributed

A team that has failed once is not repaired: all its ranks are ended, and a new team is
started where another call follows.
"""

import linecache
import os
import pickle
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from multiprocessing.context import BaseContext

from tiny_lm.gpus import travel
from tiny_lm.gpus.board import Board
from tiny_lm.gpus.lines import INSTALLED
from tiny_lm.gpus.lock import FileLock
from tiny_lm.gpus.output import Outlet, Screen
from tiny_lm.gpus.rank import (
    ANEW,
    END,
    KEEP,
    LEAVE_S,
    Place,
    Settings,
    Task,
    board_file,
)
from tiny_lm.gpus.start import meeting_place, start_process
from tiny_lm.gpus.watch import Rank, await_news

# Windows knows no file descriptors that two processes share.
BY_FD = os.name == "posix"


def pack_call(fn: Callable, args: tuple) -> bytes:
    """A function and its arguments as bytes that any rank can read.

    Raises:
        TypeError: something in them cannot leave this process.
    """
    try:
        return travel.pack((fn, args))
    except Exception as error:
        name = getattr(fn, "__name__", repr(fn))
        raise TypeError(
            f"{name} or one of its arguments cannot travel to the ranks: {error}"
        ) from error


class Team:
    """Some ranks, started and on their way to their first call."""

    def __init__(
        self,
        size: int,
        target: Callable[..., None],
        context: BaseContext,
        prefix: bool,
        checked: bool,
    ) -> None:
        self.folder, around = meeting_place()
        self.ranks: list[Rank] = []
        self.screen = Screen([])
        self.board: Board | None = None
        self._files = _times_of_change()
        self._owner = os.getpid()
        self._lock = self._make_lock(context) if checked else None
        try:
            for number in range(size):
                settings = Settings.now()
                place = Place(
                    number, size, self.folder, around, settings, BY_FD, self._lock
                )
                if checked and not number:
                    self.board = Board(board_file(self.folder), size)
                self._start(place, target, context, f"rank {number}: " * prefix)
        except BaseException:
            self.stop()
            raise

    def _make_lock(self, context: BaseContext) -> AbstractContextManager:
        return FileLock(board_file(self.folder)) if BY_FD else context.Lock()

    def _start(
        self, place: Place, target: Callable, context: BaseContext, label: str
    ) -> None:
        ours, theirs = context.Pipe()
        outputs, inlets = zip(*(context.Pipe(duplex=False) for _ in "oe"), strict=True)
        process = start_process(
            context, target, place, theirs, inlets, name=f"rank {place.number}"
        )
        for end in (theirs, *inlets):
            end.close()
        self.ranks.append(Rank(place.number, process, ours, place.notes()))
        for pipe, stream in zip(outputs, ("stdout", "stderr"), strict=True):
            self.screen.outlets.append(Outlet(pipe, stream, label, place.by_fd))

    @property
    def fit(self) -> bool:
        """No rank has died while nobody called, and none has imported what changed."""
        for rank in self.ranks:
            rank.look()
        if any(r.failure or not r.process.is_alive() for r in self.ranks):
            return False
        now = _times_of_change()
        self._files = now | self._files
        return all(now.get(file) == time for file, time in self._files.items())

    def call(self, work: bytes, deadline: float) -> list[bytes]:
        """Hand the work to every rank, and wait for what they return."""
        self.screen.restart()
        await_news(self.ranks, self.screen, None, deadline)
        task = pickle.dumps(Task(work, deadline, _cells(), Settings.now()))
        for rank in self.ranks:
            rank.send(task)
        await_news(self.ranks, self.screen, self.board, deadline)
        self.screen.show(everything=True)
        results = [rank.content for rank in self.ranks]
        message = KEEP if self._as_good_as_new() else ANEW
        for rank in self.ranks:
            rank.send(message)
        return results

    def _as_good_as_new(self) -> bool:
        """Every call was compared, and none has left the group for being done early."""
        times = [rank.came for rank in self.ranks]
        together = max(times) - min(times) < LEAVE_S / 2
        return together and all(rank.news == "done" for rank in self.ranks)

    def stop(self, patience_s: float = 0.0) -> None:
        """End all ranks at once, and leave nothing behind.

        Args:
            patience_s: for ranks without work, to end by themselves.
        """
        if os.getpid() != self._owner:
            return  # a fork of the caller: the ranks are not its own
        deadline = time.monotonic() + patience_s
        for rank in self.ranks:
            rank.send(END)
        for rank in self.ranks:
            rank.process.join(max(deadline - time.monotonic(), 0.0))
        for rank in self.ranks:
            rank.process.kill()
        for rank in self.ranks:
            rank.close()
        for outlet in self.screen.outlets:
            outlet.pipe.close()
        if self.board:
            self.board.close()
        self.ranks, self.screen, self.board = [], Screen([]), None
        shutil.rmtree(self.folder, ignore_errors=True)


def _times_of_change() -> dict[str, float]:
    """Of the modules that a learner may edit while ranks stay alive."""
    files = {getattr(module, "__file__", None) for module in [*sys.modules.values()]}
    own = (file for file in files if file and not file.startswith(INSTALLED))
    return {file: os.path.getmtime(file) for file in own if os.path.exists(file)}


def _cells() -> dict[str, tuple]:
    """Source lines that are in no file: those of notebook cells."""
    return {
        name: entry
        for name, entry in linecache.cache.items()
        if len(entry) == 4 and entry[1] is None  # no time of change: not a file on disk
    }
