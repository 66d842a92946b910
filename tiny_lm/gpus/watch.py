"""Watch ranks from outside, and tell what went wrong when one of them fails.

Chapter: 05_comm/emulated_gpus
Source: torch_distributed

When a rank goes, those that wait for it fail as well, and often speak up first. So the
watcher waits a moment after the first failure and then tells of the cause: a rank that
died before one that raised, and calls that do not fit before what came of them.
"""

import contextlib
import pickle
import signal
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from tiny_lm.gpus.board import Board
from tiny_lm.gpus.lines import name_cells
from tiny_lm.gpus.output import Screen
from tiny_lm.gpus.report import doing, explain, standstill

# After one rank has failed, others fail because of it: wait a moment to see them all.
SETTLE_S = 0.3

# When every rank has waited for another for so long, none will ever go on.
STILL_S = 4.0

# What usually stands behind a signal.
MEANINGS = {
    "SIGKILL": "often this means that the machine's memory ran out",
    "SIGABRT": "C++ code gave up, as gloo does when ranks send each other different "
    "numbers of bytes; set TORCH_DISTRIBUTED_DEBUG=DETAIL before the ranks start, and "
    "torch compares calls that do not go through `comm`",
    "SIGSEGV": "C++ code read or wrote memory that is not there",
    "SIGTERM": "something outside asked it to end",
}


class Rank:
    """The caller's end of one rank.

    news: the kind of the last message, "ready" or "done"; None until it comes
    content: what came with it
    came: when, in seconds of `time.monotonic()`
    failure: what went wrong, in words; None if nothing did
    notes: the file in which the rank writes where it was when time ran out
    """

    def __init__(
        self, number: int, process: BaseProcess, pipe: Connection, notes: Path
    ) -> None:
        self.number = number
        self.process = process
        self.pipe = pipe
        self.notes = notes
        self.news: str | None = None
        self.content = b""
        self.came = 0.0
        self.failure: str | None = None
        self.mismatch: tuple[int, tuple[int, ...], int] | None = None
        self.died = False

    @property
    def running(self) -> bool:
        """Neither a message nor a failure yet."""
        return self.news is None and self.failure is None

    def send(self, message: bytes) -> None:
        """Tell the rank to go on; its answer is news."""
        self.news, self.content = None, b""
        with contextlib.suppress(OSError):  # one that died is noticed by its silence
            self.pipe.send_bytes(message)

    def look(self) -> None:
        """Take note of what the rank has sent, or that it died without a word."""
        if not self.running:
            return
        try:
            if self.pipe.poll():
                kind, content = pickle.loads(self.pipe.recv_bytes())
                if kind == "raised":
                    self.failure = f"rank {self.number} {name_cells(content)}"
                elif kind == "mismatch":
                    self.failure, self.mismatch = kind, content
                else:
                    self.news, self.content = kind, content
                    self.came = time.monotonic()
            elif not self.process.is_alive():
                self._note_death()
        except (EOFError, OSError):
            self._note_death()

    def _note_death(self) -> None:
        self.process.join(SETTLE_S)
        code = self.process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            how = f"was killed by {name}"
            if name in MEANINGS:
                how += f" ({MEANINGS[name]})"
        else:
            how = f"ended with exit code {code}"
        self.died = True
        self.failure = f"rank {self.number} {how} before it had a result"

    def where(self) -> str:
        """The line a rank was at when time ran out: the innermost outside of torch."""
        text = ""
        with contextlib.suppress(OSError):
            text = self.notes.read_text(encoding="utf-8", errors="replace")
        main_thread = text.rpartition("Thread ")[2]
        lines = [line.strip() for line in main_thread.splitlines() if "File " in line]
        torch_folder = str(Path(torch.__file__).parent)
        outside = [line for line in lines if torch_folder not in line]
        return name_cells(next(iter(outside or lines), "still starting"))

    def close(self) -> None:
        """Let go of the process, which has ended."""
        self.process.join()
        self.process.close()
        self.pipe.close()


def await_news(
    ranks: Sequence[Rank], screen: Screen, board: Board | None, deadline: float
) -> None:
    """Print what the ranks print, and return when every one of them has news.

    Args:
        board: where ranks that compare their calls write them down.
        deadline: in the seconds of `time.monotonic()`.

    Raises:
        RuntimeError: a rank raised, died or was not done in time; or the calls of the
            ranks do not fit.
    """
    still = _Stillness()
    while running := [rank for rank in ranks if rank.running]:
        left_s = deadline + SETTLE_S - time.monotonic()
        if left_s <= 0:
            screen.show(everything=True)
            raise RuntimeError(_too_late(ranks, board))
        ends = [end for rank in running for end in (rank.pipe, rank.process.sentinel)]
        wait(ends + screen.open_pipes, timeout=min(left_s, screen.wait_s or 1.0))
        for rank in running:
            rank.look()
        screen.show()
        cause = None
        if any(rank.failure for rank in ranks):
            cause = _first_cause(ranks, board)
        elif board and still.long_enough(standstill(board)):
            cause = standstill(board)
        if cause:
            screen.show(everything=True)
            raise RuntimeError(cause)


class _Stillness:
    """Has the same been true for some seconds?"""

    def __init__(self) -> None:
        self._what, self._since = None, 0.0

    def long_enough(self, what: str | None) -> bool:
        """Whether `what` is something, and the same as `STILL_S` ago."""
        if what is None or what != self._what:
            self._what, self._since = what, time.monotonic()
        return what is not None and time.monotonic() - self._since > STILL_S


def _first_cause(ranks: Sequence[Rank], board: Board | None) -> str:
    time.sleep(SETTLE_S)
    for rank in ranks:
        rank.look()
    failed = [rank for rank in ranks if rank.failure]
    cause = min(failed, key=lambda r: (not r.died, r.mismatch is None, r.number))
    if board and cause.mismatch:
        return explain(board, *cause.mismatch)
    done = [str(rank.number) for rank in ranks if rank.news is not None]
    if done and not cause.died:
        return f"{cause.failure}\nAlready done by then: rank {', '.join(done)}."
    return cause.failure


def _too_late(ranks: Sequence[Rank], board: Board | None) -> str:
    lines = ["not every rank was done in time, so all were stopped"]
    for rank in ranks:
        waits = doing(board, rank.number) if board and rank.running else ""
        at = rank.where() if rank.running else "done"
        lines.append(f"  rank {rank.number}: {waits or at}")
    return "\n".join(lines)
