"""What a check found, and the block that tells it: a line a property, and why not.

Chapter: index
Source: course

Text of a passing check holds no measured number: it is compared between machines.
"""

import textwrap
from dataclasses import dataclass

from tiny_lm.course.checks.expect import Mismatch

WIDTH = 76
PRINTED = 6  # lines of the learner's own prints that are shown


@dataclass(frozen=True)
class Outcome:
    """How far an answer got.

    Args:
        properties: what the task asks for, in the words of the report.
        passed: how many of them hold, from the first on.
        failed: key of the first that does not; empty where all hold.
        mismatch: why it does not.
        printed: what the learner's function printed meanwhile.
        done: false where the stub is still in place.
    """

    properties: tuple[str, ...]
    passed: int
    failed: str = ""
    mismatch: Mismatch | None = None
    printed: str = ""
    done: bool = True

    @property
    def holds(self) -> bool:
        """Whether every property holds."""
        return self.passed == len(self.properties)


def block(title: str, outcome: Outcome, reward: str, help_line: str) -> str:
    """The whole report of one check.

    Args:
        reward: what a pass brings.
        help_line: where to turn after a failure.
    """
    if not outcome.done:
        return "\n".join(
            [
                _heading(title, "not done yet"),
                "  – the stub still stands: replace its last line with your answer",
                *(f"  – {text}" for text in outcome.properties),
                "  hint(1) shows a nudge.",
            ]
        )
    lines = [_heading(title, f"{outcome.passed} of {len(outcome.properties)}")]
    lines += [f"  ✓ {text}" for text in outcome.properties[: outcome.passed]]
    if outcome.mismatch is None:
        return "\n".join([*lines, f"  passed: {reward}"])
    lines.append(f"  ✗ {outcome.properties[outcome.passed]}")
    lines += _why(outcome.mismatch)
    lines += _prints(outcome.printed)
    later = outcome.properties[outcome.passed + 1 :]
    lines += [f"  – {text}" for text in later]
    if later:
        lines.append("    (– is checked after the one above)")
    return "\n".join([*lines, f"  {help_line}"])


def _heading(left: str, right: str) -> str:
    return f"{left}{right:>{WIDTH - len(left)}}"


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
