"""Why an answer is wrong: the task's own mistakes, tried on the very input.

Chapter: index
Source: course

A mistake that does on every input of the task what the learner's function does is
named. Then two mistakes at once are tried; then an argument that plays no part is
looked for; a mistake that fits some inputs only is named with *perhaps*.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from typing import Any

from tiny_lm.course.checks.answer import NotDone
from tiny_lm.course.checks.case import Input
from tiny_lm.course.checks.errors import meaning
from tiny_lm.course.checks.mistake import NEXT, Mistake, edited
from tiny_lm.course.checks.seen import Seen, alike, observe
from tiny_lm.course.checks.spec import Property, Spec
from tiny_lm.course.checks.symptoms import shapes_alike, symptom, unused

Function = Callable[..., Any]


class Explainer:
    """Finds the sentence for one refused answer.

    Args:
        at: the property that refused it, and the place of the input in it.
        seed: of the whole check.
    """

    def __init__(
        self, task: Spec, function: Function, at: tuple[Property, int], seed: int
    ) -> None:
        self.task, self.function, self.seed = task, function, seed
        self.property, self.place = at
        self.known: dict[tuple[str, int], Seen] = {}
        self.wanted: dict[tuple[str, int], Seen] = {}

    def because(self) -> str:
        """The sentence, or nothing."""
        mistakes = [*self.property.mistakes]
        mistakes += [m for m in self.task.mistakes if m not in mistakes]
        here = [m for m in mistakes if self._fits_here(self._answer(m))]
        for mistake in here:
            if self._fits_everywhere(self._answer(mistake)):
                return mistake.says
        return self._two_at_once(mistakes, here) or self._otherwise(here, mistakes)

    def _otherwise(self, here: list[Mistake], mistakes: list[Mistake]) -> str:
        """What is known for certain first, then what may be."""
        one, got, wanted = self._failed()
        if got.refusal and got.refusal.because:
            return got.refusal.because
        if got.error and meaning(got.error, self.task.errors):
            return meaning(got.error, self.task.errors)
        idle = unused(self.task, self.function, one, self.seed)
        if idle:
            return idle
        if not here and got.refusal and got.raw is not None:
            here = [m for m in mistakes if self._same_shapes(self._answer(m), got)]
        if here:
            return f"Perhaps: {max(here, key=self._places).says}"
        perhaps = self.property.otherwise
        return symptom(got, wanted, self.property) or perhaps and f"Perhaps: {perhaps}"

    def _answer(self, mistake: Mistake) -> Function:
        return mistake.answer(self.task.reference)

    def _failed(self) -> tuple[Input, Seen, Seen]:
        one = self.property.cases[self.place]
        return one, *self._both(self.property, self.place, one)

    def _both(self, part: Property, i: int, one: Input) -> tuple[Seen, Seen]:
        """What the learner's function and the reference do with an input."""
        key = (part.text, i)
        if key not in self.known:
            seed = part.seed(self.seed, i)
            wanted = observe(self.task, self.task.reference, one, seed)
            self.wanted[key] = wanted
            self.known[key] = observe(self.task, self.function, one, seed, wanted)
        return self.known[key], self.wanted[key]

    def _fits(
        self, other: Function, part: Property, i: int, one: Input, whole: bool = True
    ) -> bool:
        got, wanted = self._both(part, i, one)
        try:
            seen = observe(self.task, other, one, part.seed(self.seed, i), wanted)
        except NotDone:
            return False
        if not whole:
            seen, got = (replace(x, value=part.part(x.value)) for x in (seen, got))
        return alike(seen, got, part.tolerance)

    def _fits_here(self, other: Function) -> bool:
        """Whether it does the same on the failing input, in what is compared there."""
        one = self.property.cases[self.place]
        return self._fits(other, self.property, self.place, one, whole=False)

    def _fits_everywhere(self, other: Function) -> bool:
        return all(self._fits(other, *where) for where in self._everywhere())

    def _places(self, mistake: Mistake) -> int:
        """On how many inputs it does what the learner's function does."""
        other = self._answer(mistake)
        return sum(self._fits(other, *where) for where in self._everywhere())

    def _everywhere(self) -> Iterator[tuple[Property, int, Input]]:
        for part in self.task.properties:
            for i, one in enumerate(part.cases):
                yield part, i, one

    def _two_at_once(self, mistakes: list[Mistake], here: list[Mistake]) -> str:
        """Two edits of the reference that together do what the learner's does.

        Where one of them explains this input alone, the other has time.
        """
        edits = [m for m in mistakes if isinstance(m.code, str)]
        for first, second in combinations(edits, 2):
            try:
                both = edited(self.task.reference, f"{first.code}{NEXT}{second.code}")
            except (ValueError, SyntaxError):
                continue
            if self._fits_here(both) and self._fits_everywhere(both):
                for one in (first, second):
                    if one in here:
                        return one.says
                return f"Two things at once. {first.says} And: {second.says}"
        return ""

    def _same_shapes(self, other: Function, got: Seen) -> bool:
        one, _, wanted = self._failed()
        seed = self.property.seed(self.seed, self.place)
        seen = observe(self.task, other, one, seed, wanted)
        return bool(seen.refusal) and shapes_alike(seen.raw, got.raw)
