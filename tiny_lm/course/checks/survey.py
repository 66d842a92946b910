"""Every answer kept beside the checks, tried: wrong ones refused, honest ones accepted.

Chapter: appendix/teaching
Source: course

A wrong answer is refused *at its own property* if the first property that fails is the
one it was written down under: then the learner reads about the mistake that was made.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from tiny_lm.course.checks.aid import solutions_folder
from tiny_lm.course.checks.spec import Property
from tiny_lm.course.checks.task import Task, tasks_of

LEAST = 0.98  # share of the wrong answers that must be refused at their own property
COLUMNS = ("lab", "tasks", "wrong", "refused", "at their own", "honest", "accepted")


@dataclass(frozen=True)
class Tried:
    """What a check made of one answer that is kept beside it.

    Args:
        name: of the answer.
        own: text of the property that is to refuse it; of an honest answer, nothing.
        failed: text of the first property that did; nothing where all held.
    """

    task: Task
    name: str
    own: str
    failed: str

    @property
    def as_wanted(self) -> bool:
        """Refused at its own property, or accepted where it is honest."""
        return self.failed == self.own

    def __str__(self) -> str:
        if not self.own:
            return f"{self.task.id} refuses the honest {self.name}: {self.failed}"
        if not self.failed:
            return f"{self.task.id} accepts a wrong answer: {self.name}"
        where = f"  at: {self.failed}\n  own: {self.own}"
        return f"{self.task.id} refuses {self.name}\n{where}"


def tried(task: Task, seed: int = 0) -> Iterator[Tried]:
    """Each answer of a task, wrong ones first.

    Args:
        seed: of the check's random inputs; learners see 0.
    """
    answers: list[tuple[str, Property | None, object]] = [
        (m.name, part, m.answer(task.reference))
        for part in task.properties
        for m in part.mistakes
    ]
    answers += [(answer.__name__, None, answer) for answer in task.honest]
    for name, part, answer in answers:
        failed = task.outcome(answer, seed, explain=False).failed
        yield Tried(task, name, part.text if part else "", failed)


@dataclass(frozen=True)
class Count:
    """How many of some answers did as they should."""

    tasks: int
    wrong: int
    refused: int
    at_their_own: int
    honest: int
    accepted: int

    @property
    def enough(self) -> bool:
        """Whether the checks can be trusted with a class."""
        return self.share >= LEAST and self.accepted == self.honest

    @property
    def share(self) -> float:
        """Of the wrong answers, those refused at their own property."""
        return self.at_their_own / self.wrong if self.wrong else 1.0


def count(found: Iterable[Tried]) -> Count:
    """The numbers of a report."""
    found = list(found)
    wrong = [one for one in found if one.own]
    honest = [one for one in found if not one.own]
    return Count(
        tasks=len({one.task.id for one in found}),
        wrong=len(wrong),
        refused=sum(bool(one.failed) for one in wrong),
        at_their_own=sum(one.as_wanted for one in wrong),
        honest=len(honest),
        accepted=sum(one.as_wanted for one in honest),
    )


def labs() -> list[str]:
    """The slugs of all labs, in order."""
    return sorted(path.stem for path in solutions_folder().glob("[0-9][0-9]_*.py"))


def report(lab: str | None = None, seed: int = 0) -> int:
    """Try every answer of a lab, or of all, and print what came of it, lab by lab.

    Returns:
        1 where too few were refused at their own property or an honest one was, else 0.

    Raises:
        ValueError: there is no such lab.
    """
    known = labs()
    if lab is not None and lab not in known:
        raise ValueError(f"no lab {lab!r}; there are: {', '.join(known)}")
    print(_line(COLUMNS), flush=True)
    everything: list[Tried] = []
    for name in [lab] if lab else known:
        found = [one for task in tasks_of(name) for one in tried(task, seed)]
        print(_line(_row(name, count(found))), flush=True)
        everything += found
    total = count(everything)
    if lab is None:
        print(_line(_row("all", total)))
    for one in everything:
        if not one.as_wanted:
            print(one)
    print(
        f"{total.share:.1%} of the wrong answers were refused at their own property "
        f"(at least {LEAST:.0%} are wanted), and {total.honest - total.accepted} of "
        f"{total.honest} honest ones anywhere (none may be)."
    )
    return 0 if total.enough else 1


def _row(name: str, of: Count) -> tuple[object, ...]:
    numbers = (of.tasks, of.wrong, of.refused, of.at_their_own, of.honest, of.accepted)
    return (name, *numbers)


def _line(row: Iterable[object]) -> str:
    first, *rest = row
    return f"{first!s:12}" + "".join(f"{one!s:>14}" for one in rest)
