"""The learner's function and the reference side by side, on each input of a task.

Chapter: index
Source: course
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from tiny_lm.course.checks.answer import NotDone
from tiny_lm.course.checks.case import Input
from tiny_lm.course.checks.seen import Seen, alike, observe
from tiny_lm.course.checks.spec import Property, Spec

Function = Callable[..., Any]


@dataclass(frozen=True)
class Trial:
    """One input, and what the learner's function and the reference did with it."""

    task: Spec
    part: Property
    one: Input
    seed: int
    got: Seen
    wanted: Seen

    @property
    def tolerance(self) -> float:
        """Of this input, or of its property."""
        return getattr(self.one, "tolerance", None) or self.part.tolerance

    @property
    def wrong(self) -> bool:
        """Whether the two differ."""
        return not self.right(self.got)

    def right(self, seen: Seen) -> bool:
        """Whether this is what the reference did."""
        return alike(seen, self.wanted, self.tolerance)

    @property
    def values(self) -> tuple[Any, Any]:
        """What is compared of the two."""
        return self.part.part(self.got.value), self.part.part(self.wanted.value)

    def see(self, other: Function) -> Seen:
        """What another function does with this input."""
        try:
            return observe(self.task, other, self.one, self.seed, self.wanted)
        except NotDone:
            return Seen()

    def fits(self, other: Function, whole: bool = True) -> bool:
        """Whether another function does what the learner's does.

        Args:
            whole: in all that was seen, not only in what is compared here.
        """
        seen, got = self.see(other), self.got
        if not whole:
            seen, got = (replace(x, value=self.part.part(x.value)) for x in (seen, got))
        return alike(seen, got, self.tolerance)


def trial(task: Spec, function: Function, part: Property, i: int, seed: int) -> Trial:
    """Both on the i-th input of a property.

    Raises:
        NotDone: the function is the stub.
    """
    one, at = part.cases[i], part.seed(seed, i)
    wanted = observe(task, task.reference, one, at)
    got = observe(task, function, one, at, wanted)
    return Trial(task, part, one, at, got, wanted)


class Trials:
    """Both on every input of a task, each tried once, when it is first looked at."""

    def __init__(self, task: Spec, function: Function, seed: int) -> None:
        self.places = [(p, i) for p in task.properties for i in range(len(p.cases))]
        self.found: list[Trial] = []
        self.try_one = lambda part, i: trial(task, function, part, i, seed)

    def __iter__(self) -> Iterator[Trial]:
        for n, place in enumerate(self.places):
            if n == len(self.found):
                self.found.append(self.try_one(*place))
            yield self.found[n]
