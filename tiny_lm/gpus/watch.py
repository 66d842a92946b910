"""Watch ranks from outside, and tell what went wrong when one of them fails.

Chapter: 05_comm
Source: torch_distributed

When a rank goes, those that wait for it fail as well, and often speak up first. So the
watcher waits a moment after the first failure and then tells of the cause: a rank that
died before one that raised.
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

# A rank that is done waits this long for the others before it closes its connections.
# Closing wakes a rank that waits for one that has left, so it fails instead of hanging.
LEAVE_S = 3.0

# After one rank has failed, others fail because of it: wait a moment to see them all.
SETTLE_S = 0.3


class Rank:
    """The caller's end of one rank.

    result: what the rank sent, still pickled; None until then
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
        self.result: bytes | None = None
        self.failure: str | None = None
        self.died = False

    @property
    def running(self) -> bool:
        """Neither a result nor a failure yet."""
        return self.result is None and self.failure is None

    def look(self) -> None:
        """Take note of what the rank has sent, or that it died without a word."""
        if not self.running:
            return
        try:
            if self.pipe.poll():
                succeeded, content = pickle.loads(self.pipe.recv_bytes())
                if succeeded:
                    self.result = content
                else:
                    self.failure = f"rank {self.number} raised\n\n{content}"
            elif not self.process.is_alive():
                self._note_death()
        except (EOFError, ConnectionError):
            self._note_death()

    def _note_death(self) -> None:
        self.process.join(SETTLE_S)
        code = self.process.exitcode
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        else:
            how = f"ended with exit code {code}"
        self.died = True
        self.failure = f"rank {self.number} {how} before it had a result"

    def where(self) -> str:
        """The line a rank was at when time ran out: the innermost outside of torch."""
        text = self.notes.read_text() if self.notes.exists() else ""
        main_thread = text.rpartition("Thread ")[2]
        lines = [line.strip() for line in main_thread.splitlines() if "File " in line]
        torch_folder = str(Path(torch.__file__).parent)
        outside = [line for line in lines if torch_folder not in line]
        return next(iter(outside or lines), "still starting")

    def release(self) -> None:
        """Let a rank that is done close its connections and end."""
        with contextlib.suppress(OSError):
            self.pipe.send_bytes(b"")

    def stop(self, patience_s: float = 0.0) -> None:
        """End the process, by force if it has not ended by itself in time."""
        self.process.join(patience_s)
        self.process.kill()
        self.process.join()
        self.process.close()
        self.pipe.close()


def await_results(ranks: Sequence[Rank], deadline: float) -> None:
    """Return when every rank has a result.

    Args:
        deadline: in the seconds of `time.time()`.

    Raises:
        RuntimeError: a rank raised, died or was not done in time.
    """
    while running := [rank for rank in ranks if rank.running]:
        left_s = deadline + SETTLE_S - time.time()
        ends = [end for rank in running for end in (rank.pipe, rank.process.sentinel)]
        if not wait(ends, timeout=max(left_s, 0.0)):
            raise RuntimeError(_too_late(ranks))
        for rank in running:
            rank.look()
        if any(rank.failure for rank in ranks):
            raise RuntimeError(_first_cause(ranks))


def _first_cause(ranks: Sequence[Rank]) -> str:
    time.sleep(SETTLE_S)
    for rank in ranks:
        rank.look()
    failed = [rank for rank in ranks if rank.failure]
    cause = min(failed, key=lambda rank: (not rank.died, rank.number))
    done = [str(rank.number) for rank in ranks if rank.result is not None]
    if done and not cause.died:
        return f"{cause.failure}\nAlready done by then: rank {', '.join(done)}."
    return cause.failure


def _too_late(ranks: Sequence[Rank]) -> str:
    lines = ["not every rank was done in time, so all were stopped"]
    for rank in ranks:
        at = rank.where() if rank.running else "done"
        lines.append(f"  rank {rank.number}: {at}")
    return "\n".join(lines)
