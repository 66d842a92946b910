"""Check kept pieces before anything is made of them, in processes that may be lost.

Chapter: 06_together/full_model
Source: course

A file that anybody can edit may hold anything: no Python, another function, one that
passed last week and was "improved" since, a loop without end, a call that ends the
process. None of that may reach a training run, and each is to be told by its piece's
name. So pieces are run and checked in children, which announce each piece before they
touch it. Whichever piece a child is lost at, or late with, is to blame; another child
goes on behind it. A piece that does not hold is checked once more, alone, in case one
before it left something behind. What passed is remembered by a hash of its source and
of this package.
"""

import contextlib
import hashlib
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from tiny_lm.course.assembly.child import check_pieces
from tiny_lm.course.labs import pieces
from tiny_lm.files import read_json, to_json, write_whole
from tiny_lm.gpus.start import PRELOAD, start_context, start_process

PACKAGE = Path(__file__).resolve().parents[2]
PARTS = ("baseline", "moe", "mla", "fp8", "comm")
CHECKS = "tiny_lm.course.checks.{}"
ON_RANKS = {
    "comm.ring_all_reduce",
    "comm.dispatch",
    "comm.combine",
    "comm.fp8_wire",
    "comm.overlapped",
}
START_S = 60.0  # for a child, and for the ranks it starts
TOO_LONG = "still at work after"


@dataclass(frozen=True)
class Limits:
    """What the check of one piece may take; honest ones need a tenth of it.

    Args:
        work_s: of computing, which a busy machine does not shorten.
        wait_s: altogether, for a piece that waits and does nothing.
    """

    work_s: int = 15
    wait_s: float = 60.0


USUAL = Limits()


def verify(
    sources: Mapping[str, str], limits: Limits = USUAL, cache: Path | None = None
) -> dict[str, str]:
    """Why pieces do not pass, by name; those that pass are not in it.

    Args:
        sources: of pieces by name; a name of no piece is told as such.
        cache: a file that remembers what passed; it may be missing or of no use.
    """
    known, wrong, todo = _read(cache), {}, {}
    marks = {name: _mark(name, source) for name, source in sources.items()}
    for name, source in sources.items():
        try:
            pieces.task_of(name)
        except ValueError as error:
            wrong[name] = str(error)
        else:
            if marks[name] not in known:
                todo[name] = source
    wrong |= _check_all(todo, limits)
    passed = {marks[name] for name in sources if name not in wrong}
    if cache and passed - known:
        _write(cache, passed)
    return wrong


def _check_all(todo: Mapping[str, str], limits: Limits) -> dict[str, str]:
    """Those that need ranks in one child, which starts some; the others in another."""
    lists: tuple[dict, dict] = ({}, {})
    for name, source in todo.items():
        lists[name in ON_RANKS][name] = source
    children = [_Children(one, limits) for one in lists if one]
    found: dict[str, str] = {}
    try:
        while children:
            pause = max(0.0, min(one.deadline for one in children) - time.monotonic())
            wait([handle for one in children for handle in one.handles], pause)
            for one in children:
                found |= one.look()
            children = [one for one in children if one.is_at_work]
    finally:
        for one in children:
            one.end()
    return {name: why for name, why in found.items() if why}


class _Children:
    """One child after the other, until all pieces of a list are told."""

    def __init__(self, todo: Mapping[str, str], limits: Limits) -> None:
        self._left, self._alone = dict(todo), {}  # those to be checked once more
        self._limits = limits
        self._start()

    @property
    def is_at_work(self) -> bool:
        """Whether a piece is still to be told."""
        return bool(self._left or self._alone)

    @property
    def handles(self) -> list:
        """What there is news from."""
        return [self._news, self._process.sentinel]

    def look(self) -> dict[str, str]:
        """What is known by now of some pieces: why they do not pass, or nothing."""
        found = self._read()
        late = time.monotonic() >= self.deadline
        if self.is_at_work and (late or not self._process.is_alive()):
            self.end()
            found |= self._read()  # what was said before it ended
            found |= self._blame(late)
            if self.is_at_work:
                self._start()
        return found

    def end(self) -> None:
        """Stop the child, if it still runs."""
        if self._process.is_alive():
            self._process.kill()
        self._process.join()

    def _start(self) -> None:
        """A child for all that are left; then for each of the doubtful ones."""
        self._once_more = not self._left
        batch = dict(self._left or [next(iter(self._alone.items()))])
        context = start_context()
        context.set_forkserver_preload([*PRELOAD, *map(CHECKS.format, PARTS)])
        self._news, theirs = context.Pipe(duplex=False)
        self._process: BaseProcess = start_process(
            context,
            check_pieces,
            theirs,
            batch,
            self._limits.work_s,
            self._once_more,
            name="check of pieces",
            daemon=False,  # checks start ranks
        )
        theirs.close()
        self._at: str | None = None
        self._said = False
        self.deadline = time.monotonic() + START_S + self._limits.wait_s

    def _read(self) -> dict[str, str]:
        found = {}
        with contextlib.suppress(EOFError, OSError):
            while self._news.poll():
                name, why = self._news.recv()
                self._said = True
                self.deadline = time.monotonic() + self._limits.wait_s
                self._at = name if why is None else None
                if why is None:
                    continue
                if why and not self._once_more:
                    self._alone[name] = self._left.pop(name)
                else:
                    found[name] = why
                    self._done(name)
        return found

    def _done(self, name: str) -> None:
        for some in (self._left, self._alone):
            some.pop(name, None)

    def _blame(self, late: bool) -> dict[str, str]:
        """Whose fault the end of the child was, and what it did."""
        name, self._at = self._at, None
        if name is None:
            if late or not self._said:
                raise RuntimeError("no process could be started to check pieces in")
            return {}
        why = f"does not return: nothing came in {self._limits.wait_s:g} seconds"
        if not late:
            why = _how_it_ended(self._process.exitcode, self._limits)
        if self._once_more or late or TOO_LONG in why:
            self._done(name)
            return {name: why}
        self._alone[name] = self._left.pop(name)  # was it this one, or one before it?
        return {}


def _how_it_ended(code: int | None, limits: Limits) -> str:
    if code is not None and code == -getattr(signal, "SIGXCPU", 0):
        return f"does not return: {TOO_LONG} {limits.work_s} seconds of it"
    if code is not None and code < 0:
        return f"ends the process that runs it ({signal.Signals(-code).name})"
    return f"ends the process that runs it (exit code {code})"


# ---- what passed before


def _mark(name: str, source: str) -> str:
    return hashlib.sha256(f"{version()}\n{name}\n{source}".encode()).hexdigest()


@cache
def version() -> str:
    """A hash of all that the result of a check depends on, the piece apart."""
    found = hashlib.sha256(f"{sys.version}\n{torch.__version__}".encode())
    for file in sorted(PACKAGE.rglob("*.py")):
        found.update(file.read_bytes())
    return found.hexdigest()


def _read(cache: Path | None) -> set[str]:
    if cache is None or not cache.is_file():
        return set()
    try:
        marks = read_json(cache)
    except ValueError:
        return set()
    return (
        {x for x in marks if isinstance(x, str)} if isinstance(marks, list) else set()
    )


def _write(cache: Path, marks: set[str]) -> None:
    with contextlib.suppress(OSError):  # then they are checked again next time
        write_whole(cache, to_json(sorted(marks)) + "\n")
