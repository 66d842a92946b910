"""What a child does that checks pieces, and how it says why one does not pass.

Chapter: 06_together/full_model
Source: course
"""

import os
import sys
import textwrap
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection

import torch

from tiny_lm.course.checks.report import Outcome
from tiny_lm.course.checks.task import Task
from tiny_lm.course.labs import pieces
from tiny_lm.course.labs.source import run_alone

WIDTH = 200  # characters of a reason


def check_pieces(
    news: Connection, batch: Mapping[str, str], work_s: int, in_words: bool
) -> None:
    """Check pieces one after the other, and say why they do not pass.

    Args:
        in_words: find out which mistake it is, which takes a moment.
    """
    _be_quiet()
    torch.set_num_threads(1)
    for name, source in batch.items():
        news.send((name, None))
        _limit(work_s)
        news.send((name, _check(name, source, in_words)))


def _check(name: str, source: str, in_words: bool) -> str:
    task = pieces.task_of(name)
    try:
        function = run_alone(source, task.name)
    except BaseException as error:  # the file may hold anything
        return _unreadable(error, task)
    return _line(task.outcome(function, explain=in_words))


def _be_quiet() -> None:
    """What a piece prints is not told, and nobody answers its questions."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in range(3):
        os.dup2(nowhere, stream)
    sys.stdin = open(os.devnull, encoding="utf-8")


def _limit(work_s: int) -> None:
    try:
        import resource  # Windows has none; there `wait_s` alone ends a loop
    except ImportError:
        return
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    used = int(time.process_time())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (used + work_s, most))


def _unreadable(error: BaseException, task: Task) -> str:
    if isinstance(error, KeyError) and error.args == (task.name,):
        return f"its file defines no {task.name}"
    where = f" in line {error.lineno}" if isinstance(error, SyntaxError) else ""
    said = error.msg if isinstance(error, SyntaxError) else str(error)
    return _short(f"its file does not run: {type(error).__name__}{where}: {said}")


def _line(outcome: Outcome) -> str:
    """Why an answer does not pass, in one line; nothing where it does."""
    if not outcome.done:
        return "the stub still stands in place of an answer"
    if outcome.holds:
        return ""
    told = outcome.mismatch
    why = told.because or f"wanted {told.wanted}, got {told.got}"
    return _short(f"does not hold: {outcome.failed}. {why}")


def _short(text: str) -> str:
    return textwrap.shorten(text, WIDTH, placeholder=" …")
