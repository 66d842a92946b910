"""Try a function on all ranks so that none of them is lost where it goes wrong.

Chapter: 05_comm/emulated_gpus
Source: course

Elsewhere a rank that fails ends them all, because the others may wait for it inside
gloo, where nothing wakes them. Here ranks are patient: none of them makes a call before
all have come to it. So each finds out by itself that a call will never be complete, and
gives up; then all meet, and the same ranks are ready for the next call.
"""

import traceback
from collections.abc import Callable, Sequence
from typing import Any

from tiny_lm.gpus.board import Board, Mismatch
from tiny_lm.gpus.pending import nothing_left_open
from tiny_lm.gpus.report import explain
from tiny_lm.gpus.seat import seat

DONE, RAISED, MISFIT = "done", "raised", "misfit"
Answer = tuple[str, Any]  # one of these three, and what belongs to it


def attempt(rank: int, fn: Callable[..., Any], *args: Any) -> Answer:
    """On a rank that compares its calls: what became of `fn(rank, *args)`."""
    place = seat()
    place.patient = True
    try:
        with nothing_left_open():
            return DONE, fn(rank, *args)
    except Mismatch as error:
        return MISFIT, (place.run, error.members, error.number)
    except Exception as error:
        frames = error.__traceback__.tb_next
        lines = traceback.format_exception(error.with_traceback(frames))
        return RAISED, (_brief(error), "".join(lines))
    finally:
        place.meet_at_the_end()


def results(answers: Sequence[Answer], board: Board) -> list[Any]:
    """What the calls returned, in rank order, on the side of the caller.

    Raises:
        RuntimeError: one raised, which is told first, or the calls did not fit.
    """
    for rank, (kind, content) in enumerate(answers):
        if kind == RAISED:
            brief, trace = content
            raise RuntimeError(f"rank {rank} raised {brief}\n\n{trace}")
    for kind, content in answers:
        if kind == MISFIT:
            raise RuntimeError(explain(board, *content))
    return [content for _, content in answers]


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")
