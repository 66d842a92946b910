"""The block that a check prints: one line a property, and why the first one fails.

Chapter: index
Source: course

Text of a passing check holds no measured number: it is compared between machines.
"""

import textwrap
from typing import TYPE_CHECKING

from tiny_lm.course.checks.expect import Mismatch

if TYPE_CHECKING:
    from tiny_lm.course.checks.task import Outcome, Task

WIDTH = 76
PRINTED = 6  # lines of the learner's own prints that are shown


def block(task: "Task", outcome: "Outcome") -> str:
    """The whole report of one check."""
    title = f"Task {task.id}  {task.name}"
    if not outcome.done:
        return "\n".join(
            [
                _heading(title, "not done yet"),
                "  – the stub still stands: replace its last line with your answer",
                *(f"  – {one.text}" for one in task.properties),
                "  hint(1) shows a nudge.",
            ]
        )
    lines = [_heading(title, f"{outcome.passed} of {len(task.properties)}")]
    lines += [f"  ✓ {one.text}" for one in task.properties[: outcome.passed]]
    if outcome.failed is None:
        return "\n".join([*lines, f"  passed: {_points(task.points)}"])
    lines.append(f"  ✗ {outcome.failed.text}")
    lines += _why(outcome.mismatch)
    lines += _prints(outcome.printed)
    later = task.properties[outcome.passed + 1 :]
    lines += [f"  – {one.text}" for one in later]
    if later:
        lines.append("    (– is checked after the one above)")
    return "\n".join([*lines, f"  {_help(task)}"])


def _heading(left: str, right: str) -> str:
    return f"{left}{right:>{WIDTH - len(left)}}"


def _points(points: int) -> str:
    return f"{points} point{'s' if points > 1 else ''}"


def _why(mismatch: Mismatch) -> list[str]:
    lines = _field("on    ", mismatch.on)
    if mismatch.wanted:
        lines += _field("wanted", mismatch.wanted)
    if mismatch.got:
        lines += _field("got   ", mismatch.got)
    if mismatch.because:
        lines += textwrap.wrap(
            mismatch.because, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6
        )
    return lines


def _field(name: str, text: str) -> list[str]:
    first, *rest = text.splitlines() or [""]
    return [f"      {name} {first}", *(f"             {line}" for line in rest)]


def _prints(printed: str) -> list[str]:
    if not printed.strip():
        return []
    lines = printed.splitlines()
    shown = [f"             {line}" for line in lines[:PRINTED]]
    more = [f"             … {len(lines) - PRINTED} more lines"] * (
        len(lines) > PRINTED
    )
    return ["      your function printed", *shown, *more]


def _help(task: "Task") -> str:
    if task.attempts < 3:
        return "hint(1) shows a nudge."
    return (
        "hint(1) to hint(3) go from a nudge to almost the line; "
        f'show_solution("{task.id}") shows ours.'
    )
