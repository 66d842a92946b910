"""A task of a lab: what it asks, how its answer is checked, and where it stands.

Chapter: index
Source: course
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from tiny_lm.course.checks.answer import Answer, NotDone
from tiny_lm.course.checks.expect import Mismatch
from tiny_lm.course.checks.report import Outcome, block

Test = Callable[[Answer], None]
TASKS: dict[str, "Task"] = {}  # every task that has been imported, by its id


class CheckFailed(Exception):
    """A check refused an answer; the report above it says why."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return [str(self)]


@dataclass(frozen=True)
class Property:
    """One thing that must hold, in the words of the report."""

    key: str
    text: str
    test: Test


@dataclass(kw_only=True)
class Task:
    """One task. Calling it checks an answer and prints the report.

    Args:
        id: lab and number, as in "1.3".
        lab: slug of the lab, as in "01_baseline".
        name: of the function that the learner writes.
        piece: under which the answer is kept and used again, as in
            "baseline.attention".
        difficulty: 1 to 3.
        reference: stands in for an answer that is missing.
        hints: a nudge, the idea, almost the line.
        errors: fragments of error messages that a usual mistake raises, each with the
            sentence that explains it.
    """

    id: str
    lab: str
    title: str
    name: str
    piece: str
    difficulty: int
    minutes: int
    points: int
    reference: Callable[..., Any]
    hints: tuple[str, str, str]
    errors: tuple[tuple[str, str], ...] = ()
    properties: list[Property] = field(default_factory=list)
    attempts: int = 0
    accepted: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        TASKS[self.id] = self

    @property
    def label(self) -> str:
        """How the lab shows it: difficulty, minutes, points."""
        dots = "●" * self.difficulty + "○" * (3 - self.difficulty)
        return f"{dots} · {self.minutes} min · {self.reward}"

    @property
    def reward(self) -> str:
        """The points, with their noun."""
        return f"{self.points} point{'s' if self.points > 1 else ''}"

    def property(self, text: str) -> Callable[[Test], Test]:
        """Add a property; its key is the name of the decorated function."""

        def add(test: Test) -> Test:
            self.properties.append(Property(test.__name__, text, test))
            return test

        return add

    def outcome(self, function: Callable[..., Any], seed: int = 0) -> Outcome:
        """Check without a word; the caller's random numbers stay as they were."""
        texts = tuple(one.text for one in self.properties)
        with torch.random.fork_rng(devices=[]):
            for passed, one in enumerate(self.properties):
                torch.manual_seed(seed)
                answer = Answer(function, self.name, seed, self.errors)
                try:
                    mismatch = _refusal(one, answer)
                except NotDone:
                    return Outcome(texts, passed, done=False)
                if mismatch is not None:
                    printed = answer.printed.getvalue()
                    return Outcome(texts, passed, one.key, mismatch, printed)
        return Outcome(texts, len(texts))

    def report(self, outcome: Outcome) -> str:
        """What the learner reads."""
        help_line = "hint(1) shows a nudge."
        if self.attempts >= 3:
            help_line = (
                "hint(1) to hint(3) go from a nudge to almost the line; "
                f'show_solution("{self.id}") shows ours.'
            )
        return block(f"Task {self.id}  {self.name}", outcome, self.reward, help_line)

    def __call__(self, function: Callable[..., Any]) -> None:
        """Check an answer and print what holds.

        Raises:
            CheckFailed: a property does not hold, the stub is still in place, or the
                reference was handed in, to which the name belongs after `pieces.use`.
        """
        global _last
        _last = self
        if function is self.reference:
            raise CheckFailed(
                f"Task {self.id}: {self.name} is tiny_lm's own now, standing in for "
                "yours. Run the cell with your answer again, then this one."
            )
        outcome = self.outcome(function)
        self.attempts += outcome.done
        self.accepted = function if outcome.holds else None
        print(self.report(outcome))
        if not outcome.done:
            raise CheckFailed(f"Task {self.id} is not done yet.")
        if not outcome.holds:
            raise CheckFailed(f"Task {self.id} is not passed yet.")


def _refusal(one: Property, answer: Answer) -> Mismatch | None:
    try:
        one.test(answer)
    except Mismatch as mismatch:
        return mismatch
    except NotDone:
        raise
    except Exception as error:  # the test stumbled over what came back
        return answer.unreadable(error)
    return None


_last: Task | None = None


def last_checked() -> Task | None:
    """The task whose check ran last."""
    return _last


def tasks_of(lab: str) -> list[Task]:
    """The tasks of a lab, in order."""
    return sorted((t for t in TASKS.values() if t.lab == lab), key=lambda t: t.id)
