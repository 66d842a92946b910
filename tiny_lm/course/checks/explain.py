"""Why an answer is wrong: the task's own mistakes, tried on the very input.

Chapter: index
Source: course

A mistake that does on every input of the task what the learner's function does is
named. Then the reference with one thing changed is tried, which nobody wrote down; then
two mistakes at once; then what the machine can show by itself; a mistake that fits some
inputs only is named with *perhaps*.
"""

from collections.abc import Iterator
from itertools import combinations
from time import process_time

import torch

from tiny_lm.course.checks.arguments import added, counted, sized, unused
from tiny_lm.course.checks.case import Case
from tiny_lm.course.checks.errors import meaning
from tiny_lm.course.checks.grammar import grammar
from tiny_lm.course.checks.mistake import NEXT, Mistake, edited
from tiny_lm.course.checks.mutants import mutants
from tiny_lm.course.checks.symptoms import SHOWS_A_CAUSE, places, symptom
from tiny_lm.course.checks.trial import Function, Trial, Trials

SURE = 0.75  # share that makes it likelier than what is said of any wrong kind
PATIENCE_S = 3.0  # of work for one kind of guess, where each takes a while
LIKELY = 0.5  # share of the inputs that a mistake with *perhaps* has to explain


def because(here: Trial, function: Function, seed: int) -> str:
    """The sentence for the answer that failed on this input, or nothing.

    Args:
        seed: of the whole check.
    """
    task = here.task
    mistakes = [*here.part.mistakes]
    mistakes += [m for m in task.mistakes if m not in mistakes]
    fitting = [m for m in mistakes if here.fits(_answer(m, here), whole=False)]
    everywhere = Trials(task, function, seed)
    for mistake in fitting:
        if all(one.fits(_answer(mistake, here)) for one in everywhere):
            return mistake.says
    if not here.got.refusal:
        found = added(here) or _made_of_the_reference(here, everywhere)
        if found:
            idle = "" if "missing" in found else unused(here, function, everywhere)
            return idle or found
    both = _two_at_once(here, mistakes, everywhere)
    if both:
        return _told(*both, fitting)
    share = {m.says: _share(_answer(m, here), everywhere) for m in fitting}
    if here.got.refusal and here.got.refusal.because:
        likely = max(share.values(), default=0) >= SURE
        return _likeliest(share) if likely else here.got.refusal.because
    return _shown(here, function, everywhere) or _perhaps(here, share, everywhere)


def _answer(mistake: Mistake, here: Trial) -> Function:
    return mistake.answer(here.task.reference)


def _two_at_once(
    here: Trial, mistakes: list[Mistake], everywhere: Trials
) -> tuple[Mistake, Mistake] | None:
    """Two edits of the reference that together do what the learner's does."""
    until = process_time() + PATIENCE_S
    for first, second, both in _pairs(here, mistakes):
        if process_time() > until:
            return None
        if here.fits(both, whole=False) and all(one.fits(both) for one in everywhere):
            return first, second
    return None


def _pairs(
    here: Trial, mistakes: list[Mistake]
) -> Iterator[tuple[Mistake, Mistake, Function]]:
    edits = [m for m in mistakes if isinstance(m.code, str)]
    for first, second in combinations(edits, 2):
        codes = f"{first.code}{NEXT}{second.code}"
        try:
            yield first, second, edited(here.task.reference, codes)
        except (ValueError, SyntaxError):  # the two edit the same text
            continue


def _told(first: Mistake, second: Mistake, fitting: list[Mistake]) -> str:
    """Both sentences; where one explains this input alone, the other has time."""
    for one in (first, second):
        if one in fitting:
            return one.says
    return f"Two things at once. {first.says} And: {second.says}"


def _shown(here: Trial, function: Function, everywhere: Trials) -> str:
    """What holds for certain, whatever mistake it is."""
    got = here.got
    if got.error:
        return meaning(got.error, here.task.errors)
    found = unused(here, function, everywhere)
    found = found or counted(everywhere, here) or sized(here, everywhere)
    if found or not got.refusal:  # else what is made of the reference was tried
        return found
    return _made_of_the_reference(here, everywhere)


def _made_of_the_reference(here: Trial, everywhere: Trials) -> str:
    """The reference with one thing changed, that does the same on every input."""
    at = next((x for x in (here, *everywhere) if isinstance(x.one, Case)), None)
    ways = mutants(here.task.reference)
    if at is not None:
        given = at.one.make(torch.Generator().manual_seed(at.seed))
        ways = (*ways, *grammar(here.task, given, at.wanted.raw))
    until = process_time() + PATIENCE_S
    for mistake in ways:
        if process_time() > until:
            return ""
        if here.fits(mistake.code, whole=False):
            if all(one.fits(mistake.code) for one in everywhere):
                return mistake.says
    return ""


def _likeliest(share: dict[str, float]) -> str:
    return f"Perhaps: {max(share, key=share.__getitem__)}"


def _perhaps(here: Trial, share: dict[str, float], everywhere: Trials) -> str:
    """The likeliest mistake, then what the numbers say, then a guess.

    Args:
        share: of the inputs that each mistake explains, by its sentence.
    """
    if max(share.values(), default=0) >= LIKELY:
        return _likeliest(share)
    told, guess = symptom(here, everywhere), here.part.otherwise
    if guess and not told.startswith(SHOWS_A_CAUSE):
        return f"{told} Perhaps: {guess}".lstrip()
    return told or places(here)


def _share(other: Function, everywhere: Trials) -> float:
    """Of the inputs on which one of the two is wrong, how many they do alike."""
    telling = [one for one in everywhere if one.wrong or not one.right(one.see(other))]
    return sum(one.fits(other) for one in telling) / max(len(telling), 1)
