"""What runs inside a rank: join the others, do what is asked, report, start over.

Chapter: 05_comm
Source: torch_distributed

A rank stays alive between calls, and yet a call finds the same rank whatever ran
before: a fresh process group, torch's first seed, its own default dtype and device, one
thread. What stays are imported modules and what was written into them, as in a
notebook.
"""

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import cloudpickle
import torch

from tiny_lm.gpus.output import redirect

# A rank that is done waits this long for the others before it closes its connections.
# Closing wakes a rank that waits for one that has left, so it fails instead of hanging.
LEAVE_S = 3.0


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
    settings: Settings
    by_fd: bool  # how output is caught

    def notes(self) -> Path:
        """The file in which a rank writes where it was when time ran out."""
        return Path(self.folder, f"{self.number}.txt")


@dataclass(frozen=True)
class Task:
    """One call."""

    work: bytes  # the function and its arguments
    deadline: float  # time.time() at which the caller stops waiting
    sources: dict[str, tuple]  # source lines of notebook cells, for tracebacks
    settings: Settings


def serve(
    place: Place,
    pipe: Connection,
    outputs: Sequence[Connection],
    join: Callable[[Place, int], None],
    part: Callable[[], None],
) -> None:
    """Be a rank until the caller ends it.

    Args:
        join: makes the process group of the n-th call.
        part: leaves it, and all others that the call made.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle
    threading.Thread(target=_end_with_caller, args=(place,), daemon=True).start()
    redirect(outputs, place.by_fd)
    place.settings.adopt()
    seed = torch.get_rng_state()
    with place.notes().open("w") as notes:
        for number in itertools.count():
            _forget(seed)
            join(place, number)
            _send(pipe, "ready", b"")
            task = pickle.loads(pipe.recv_bytes())
            notes.seek(0)
            notes.truncate()
            left_s = max(task.deadline - time.time(), 0.01)
            faulthandler.dump_traceback_later(left_s, file=notes)
            message = _work(place.number, task)
            faulthandler.cancel_dump_traceback_later()
            _send(pipe, *message)
            pipe.poll(LEAVE_S)
            part()
            pipe.recv_bytes()  # all ranks are done


def _end_with_caller(place: Place) -> None:
    wait([multiprocessing.parent_process().sentinel])
    # The folder lies in one that multiprocessing made and would have deleted.
    shutil.rmtree(Path(place.folder).parent, ignore_errors=True)
    os._exit(1)


def _send(pipe: Connection, kind: str, content: bytes | str) -> None:
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


def _work(number: int, task: Task) -> tuple[str, bytes | str]:
    """Make the call; its result as bytes, or what went wrong in words."""
    try:
        task.settings.adopt()
        linecache.cache.update(task.sources)
        fn, args = pickle.loads(task.work)
        result = fn(number, *args)
    except BaseException as error:
        return "raised", _tell(error)
    try:
        return "done", cloudpickle.dumps(result)
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
