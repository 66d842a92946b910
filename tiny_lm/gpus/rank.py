"""What runs inside a rank: join the others, do what is asked, report, start over.

Chapter: 05_comm/emulated_gpus
Source: torch_distributed

A rank stays alive between calls, and yet a call finds the same rank whatever ran
before: a fresh process group, torch's first seed, its own default dtype and device, one
thread. What stays are imported modules and what was written into them, as in a
notebook.
"""

import contextlib
import faulthandler
import itertools
import linecache
import multiprocessing
import os
import pickle
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Protocol, TextIO, runtime_checkable

import torch

from tiny_lm.gpus import travel
from tiny_lm.gpus.board import Board, Mismatch
from tiny_lm.gpus.output import redirect
from tiny_lm.gpus.pending import nothing_left_open
from tiny_lm.gpus.seat import Seat, take_seat

# A rank that is done waits this long for the others before it closes its connections.
# Closing wakes a rank that waits for one that has left, so it fails instead of hanging.
LEAVE_S = 3.0

# What the caller says when all ranks are done: whether their group can be used again.
KEEP, ANEW = b"keep", b"anew"

# What it says instead of a task when there will be none.
END = b"end"


@dataclass(frozen=True)
class Settings:
    """Of the caller, which ranks take over at every call."""

    environ: dict[str, str]
    folder: str
    path: list[str]

    @classmethod
    def now(cls) -> "Settings":
        """Those of this process."""
        return cls(dict(os.environ), os.getcwd(), list(sys.path))

    def adopt(self) -> None:
        """Make them those of this process."""
        os.environ.clear()
        os.environ.update(self.environ)
        os.chdir(self.folder)
        sys.path[:] = self.path


@dataclass(frozen=True)
class Place:
    """What a rank is told once, when it starts."""

    number: int
    world_size: int
    folder: str  # where ranks meet, and where each writes down what it was doing
    around: str | None  # the folder around it, if that too ends with the caller
    settings: Settings
    by_fd: bool  # how output is caught
    lock: AbstractContextManager | None  # of the board; None: nothing is compared

    def notes(self) -> Path:
        """The file in which a rank writes where it was when time ran out."""
        return Path(self.folder, f"{self.number}.txt")


def board_file(folder: str) -> Path:
    """Where all ranks write down their calls."""
    return Path(folder, "board")


@dataclass(frozen=True)
class Task:
    """One call."""

    work: bytes  # the function and its arguments
    deadline: float  # time.monotonic() at which the caller stops waiting
    sources: dict[str, tuple]  # source lines of notebook cells, for tracebacks
    settings: Settings


@runtime_checkable
class Wires(Protocol):
    """How ranks are joined: what `serve` has to know of a process group."""

    def join(self, place: Place, run: int) -> None:
        """Make the default group."""

    def part(self) -> None:
        """Leave it, and all others."""

    def traffic(self) -> tuple[int, int]:
        """Operations of the default group so far, and groups made so far."""


def serve(
    place: Place, pipe: Connection, outputs: Sequence[Connection], wires: Wires
) -> None:
    """Be a rank until the caller says that it is over, or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle
    if hasattr(os, "setsid"):
        os.setsid()  # a kernel's restart kills all of its group: stay to clean up
    watcher = threading.Thread(target=_end_with_caller, args=(place,), daemon=True)
    watcher.start()
    redirect(outputs, place.by_fd)
    place.settings.adopt()
    seat = None
    if place.lock is not None:
        seat = Seat(
            Board(board_file(place.folder), place.world_size), place.number, place.lock
        )
    try:
        _serve(place, pipe, seat, wires)
    except (EOFError, ConnectionError):  # the caller is gone
        watcher.join()


def _serve(place: Place, pipe: Connection, seat: Seat | None, wires: Wires) -> None:
    seed = torch.get_rng_state()
    joined = False
    with place.notes().open("w", encoding="utf-8") as notes:
        for run in itertools.count(1):
            _forget(seed)
            if not joined:
                wires.join(place, run)
            _send(pipe, "ready", b"")
            message = pipe.recv_bytes()
            if message == END:
                return
            task = pickle.loads(message)
            with _watched(task.deadline, notes):
                message = _answer(place.number, run, task, seat, wires)
            _send(pipe, *message)
            joined = pipe.poll(LEAVE_S)
            if not joined:
                wires.part()
            if pipe.recv_bytes() == KEEP:
                if not joined:
                    return  # the others kept theirs: a new team has to come
            elif joined:
                wires.part()
                joined = False


@contextlib.contextmanager
def _watched(deadline: float, notes: TextIO) -> Iterator[None]:
    """Write down where this process is if it is not done in time."""
    notes.seek(0)
    notes.truncate()
    left_s = max(deadline - time.monotonic(), 0.01)
    faulthandler.dump_traceback_later(left_s, file=notes)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _answer(
    number: int, run: int, task: Task, seat: Seat | None, wires: Wires
) -> tuple[str, Any]:
    """Make the call; "done" is said only where the group is as good as new."""
    take_seat(seat)
    if seat:
        seat.begin(run)
    operations, groups = wires.traffic()
    message = _work(number, task, seat)
    if seat and message[0] == "done":
        if wires.traffic() == (operations + seat.operations, groups):
            return message
    if message[0] == "done":
        return "done, and more", message[1]
    return message


def _end_with_caller(place: Place) -> None:
    wait([multiprocessing.parent_process().sentinel])
    shutil.rmtree(place.around or place.folder, ignore_errors=True)
    os._exit(1)


def _send(pipe: Connection, kind: str, content: Any) -> None:
    for stream in (sys.stdout, sys.stderr):
        if not stream.closed:
            stream.flush()
    pipe.send_bytes(pickle.dumps((kind, content)))


def _forget(seed: torch.Tensor) -> None:
    """Undo what a call may have set for the whole process."""
    torch.set_default_dtype(torch.float32)
    torch.set_default_device(None)
    torch.set_grad_enabled(True)
    torch.set_num_threads(1)
    torch.set_rng_state(seed)


def _work(number: int, task: Task, seat: Seat | None) -> tuple[str, Any]:
    """Make the call; its result as bytes, or what went wrong in words."""
    try:
        task.settings.adopt()
        linecache.cache.update(task.sources)
        fn, args = pickle.loads(task.work)
        with nothing_left_open():
            result = fn(number, *args)
        if seat:
            seat.leave()
    except Mismatch as error:
        return "mismatch", (seat.run, error.members, error.number)
    except BaseException as error:
        return "raised", _tell(error)
    try:
        return "done", travel.pack(result)
    except Exception as error:
        return "raised", (
            f"raised {type(error).__name__}: it returned {_kind(result)}, which cannot "
            f"travel to the caller ({error}). Return tensors, numbers, text, or lists "
            "and dicts of these."
        )


def _kind(result: Any) -> str:
    name = type(result).__name__
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _tell(error: BaseException) -> str:
    """What the call raised, with its traceback from the caller's own function on."""
    frames = error.__traceback__.tb_next
    text = "".join(traceback.format_exception(error.with_traceback(frames)))
    if isinstance(error, SystemExit):
        return (
            f"raised SystemExit: it called sys.exit({error.code!r}), which would end "
            f"the rank. To end the call early, return.\n\n{text}"
        )
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return f"raised {type(error).__name__}: it ran out of memory.\n\n{text}"
    return f"raised\n\n{text}"
