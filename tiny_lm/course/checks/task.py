"""A task of a lab: how its answer is checked, and where it stands.

Chapter: index
Source: course
"""

import importlib
from dataclasses import dataclass

import torch

from tiny_lm.course.checks.answer import NotDone
from tiny_lm.course.checks.case import describe
from tiny_lm.course.checks.expect import Mismatch, same, told
from tiny_lm.course.checks.explain import because
from tiny_lm.course.checks.report import Outcome, block
from tiny_lm.course.checks.spec import Function, Property, Spec
from tiny_lm.course.checks.trial import Trial, trial

TASKS: dict[str, "Task"] = {}  # every task that has been imported, by its id


class CheckFailed(Exception):
    """A check refused an answer; the report above it says why."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return [str(self)]


@dataclass(kw_only=True)
class Task(Spec):
    """One task. Calling it checks an answer and prints the report."""

    attempts: int = 0
    accepted: Function | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        TASKS[self.id] = self

    def outcome(
        self, function: Function, seed: int = 0, explain: bool = True
    ) -> Outcome:
        """Check without a word; the caller's random numbers stay as they were.

        Args:
            explain: find out which mistake an answer makes, which takes a moment.
        """
        texts = tuple(one.text for one in self.properties)
        with torch.random.fork_rng(devices=[]):
            for passed, one in enumerate(self.properties):
                try:
                    found = self.refusal(one, function, seed, explain)
                except NotDone:
                    return Outcome(texts, passed, done=False)
                if found is not None:
                    mismatch, printed = found
                    return Outcome(texts, passed, one.text, mismatch, printed)
        return Outcome(texts, len(texts))

    def refusal(
        self, one: Property, function: Function, seed: int, explain: bool
    ) -> tuple[Mismatch, str] | None:
        """Why a property does not hold, and what was printed; nothing where it does."""
        for i in range(len(one.cases)):
            here = trial(self, function, one, i, seed)
            mismatch = here.got.refusal or _mismatch(here)
            if mismatch is not None:
                if explain:
                    mismatch.because = _because(here, function, seed)
                return mismatch, here.got.printed
        return None

    def report(self, outcome: Outcome) -> str:
        """What the learner reads."""
        help_line = "hint(1) shows a nudge."
        if self.attempts >= 3:
            help_line = (
                "hint(1) to hint(3) go from a nudge to almost the line; "
                f'show_solution("{self.id}") shows ours.'
            )
        return block(f"Task {self.id}  {self.name}", outcome, self.reward, help_line)

    def __call__(self, function: Function) -> None:
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


def _because(here: Trial, function: Function, seed: int) -> str:
    try:
        return because(here, function, seed)
    except Exception:  # whatever a strange result does to a guess, it is told
        return ""


def _mismatch(here: Trial) -> Mismatch | None:
    got, wanted = here.values
    if same(got, wanted, here.tolerance):
        return None
    on = describe(here.one, here.seed, here.task.arguments)
    return Mismatch(on, *told(got, wanted, here.tolerance))


_last: Task | None = None


def last_checked() -> Task | None:
    """The task whose check ran last."""
    return _last


def tasks_of(lab: str) -> list[Task]:
    """The tasks of a lab, in order, from the folder of checks that shares its slug."""
    importlib.import_module(f"tiny_lm.course.checks.{lab[3:]}")
    return sorted((t for t in TASKS.values() if t.lab == lab), key=lambda t: t.id)
