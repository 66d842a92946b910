"""What a task is: its card, its reference, and the properties that must hold.

Chapter: index
Source: course
"""

import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from tiny_lm.course.checks.case import Input, names_of
from tiny_lm.course.checks.mistake import Mistake

Function = Callable[..., Any]


@dataclass(eq=False)
class Property:
    """One thing that must hold, in the words of the report.

    Args:
        cases: inputs on which the answer must do as the reference does.
        mistakes: answers that this property must refuse.
        only: names of the parts that are compared; all, where it is None. Kinds and
            shapes of all results are.
        otherwise: what to say, with *perhaps*, where no mistake explains an answer.
    """

    text: str
    cases: list[Input]
    mistakes: list[Mistake]
    tolerance: float
    only: tuple[str, ...] | None = None
    otherwise: str = ""

    def mistake(self, says: str) -> Callable[[Function], Function]:
        """Add a wrong answer that is more than an edit of the reference."""

        def add(function: Function) -> Function:
            self.mistakes.append(Mistake(function, says))
            return function

        return add

    def seed(self, seed: int, i: int) -> int:
        """Of the i-th input's generator."""
        return zlib.crc32(self.text.encode()) % 100_000 + 1000 * i + seed

    def part(self, value: Any) -> Any:
        """What is compared of what was seen: no clues, whose names begin with "_"."""
        if not isinstance(value, dict):
            return value
        names = [name for name in value if not name.startswith("_")]
        return {n: value[n] for n in (names if self.only is None else self.only)}


def as_it_is(result: Any, *arguments: Any) -> Any:
    """A result is compared as it came."""
    return result


@dataclass(kw_only=True)
class Spec:
    """One task, as its author writes it down.

    Args:
        id: lab and number, as in "1.3".
        lab: slug of the lab, as in "01_baseline".
        name: of the function that the learner writes.
        piece: under which the answer is kept and used again, as in
            "baseline.attention".
        difficulty: 1 to 3.
        reference: the definition, written so that each mistake is one edit of it; it
            stands in for an answer that is missing.
        hints: a nudge, the idea, almost the line.
        returns: names of the results.
        view: what is compared of a result, given the arguments: where order is free
            or ties are, it is made equal here.
        errors: fragments of error messages, and what they mean in this task.
        any_width: whole numbers in the result need not be int64.
        writes: names of the arguments that the function changes in place.
    """

    id: str
    lab: str
    title: str
    name: str
    piece: str
    difficulty: int
    minutes: int
    points: int
    reference: Function
    hints: tuple[str, str, str]
    returns: tuple[str, ...] = ()
    view: Function = as_it_is
    tolerance: float = 1e-4
    errors: dict[str, str] = field(default_factory=dict)
    any_width: bool = False
    writes: tuple[str, ...] = ()
    properties: list[Property] = field(default_factory=list)
    honest: list[Function] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.arguments = names_of(self.reference)

    @property
    def label(self) -> str:
        """How the lab shows it: difficulty, minutes, points."""
        dots = "●" * self.difficulty + "○" * (3 - self.difficulty)
        return f"{dots} · {self.minutes} min · {self.reward}"

    @property
    def reward(self) -> str:
        """The points, with their noun."""
        return f"{self.points} point{'s' if self.points > 1 else ''}"

    @property
    def mistakes(self) -> list[Mistake]:
        """All of them, in the order of the properties."""
        return [m for one in self.properties for m in one.mistakes]

    def asks(
        self,
        text: str,
        *cases: Input | Iterable[Input],
        mistakes: dict[str, str] | None = None,
        tolerance: float | None = None,
        only: tuple[str, ...] | None = None,
        otherwise: str = "",
    ) -> Property:
        """Add a property.

        Args:
            cases: inputs, small ones first; or lists of them.
            mistakes: an edit of the reference, and the sentence that names it.
            only: names of the parts that are compared; with (), kinds and shapes are.
        """
        flat = [x for c in cases for x in (c if isinstance(c, list) else [c])]
        known = [Mistake(code, says) for code, says in (mistakes or {}).items()]
        one = Property(text, flat, known, tolerance or self.tolerance, only, otherwise)
        self.properties.append(one)
        return one

    def accepts(self, function: Function) -> Function:
        """Add a right answer in another style."""
        self.honest.append(function)
        return function
