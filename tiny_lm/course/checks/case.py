"""Inputs of a check, made anew for every call, and what is compared of a result.

Chapter: index
Source: course
"""

import inspect
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Generator, Tensor

from tiny_lm.course.checks.answer import Answer
from tiny_lm.course.checks.expect import brief

WIDTH = 62  # of a line that describes an input
Make = Callable[[Generator], tuple[Any, ...]]


@dataclass(frozen=True)
class Case:
    """Arguments for one call.

    Args:
        make: builds them, all anew, from a generator.
        note: a line about them that saves the learner arithmetic.
        slopes: names of the arguments by which gradients are compared, too.
        tolerance: instead of the property's.
    """

    make: Make
    note: str = ""
    slopes: tuple[str, ...] = ()
    tolerance: float | None = None


@dataclass(frozen=True)
class Probe:
    """A way of using the function: `use(answer, generator)` gives what is compared."""

    use: Callable[[Answer, Generator], Any]
    note: str


Input = Case | Probe


def case(*given: Any, note: str = "") -> Case:
    """Arguments as they stand here; lists become tensors, tensors are copied."""
    return Case(lambda generator: tuple(_fresh(x) for x in given), note)


def drawn(make: Make, note: str = "") -> Case:
    """Arguments drawn from the check's generator."""
    return Case(make, note)


def probe(note: str) -> Callable[[Callable[[Answer, Generator], Any]], Probe]:
    """Make a probe of the decorated function; `note` says what it does."""
    return lambda use: Probe(use, note)


def in_double(one: Case, tolerance: float | None = None) -> Case:
    """The same in float64."""

    def make(generator: Generator) -> tuple[Any, ...]:
        return tuple(
            x.double() if isinstance(x, Tensor) and x.is_floating_point() else x
            for x in one.make(generator)
        )

    return replace(one, make=make, tolerance=tolerance)


def family(
    make: Callable[..., tuple[Any, ...]],
    sizes: dict[str, int],
    ones: Iterable[str] = (),
    double: bool = False,
    exact: bool = False,
) -> list[Case]:
    """The same inputs in usual sizes, with one size after another 1, and in float64.

    Args:
        make: called with a generator and the sizes by name.
        ones: the sizes that may be 1. What `squeeze` breaks, breaks there.
        double: add the case in float64.
        exact: float64 must be as exact as it can.
    """

    def of(**changed: int) -> Case:
        return Case(lambda generator: make(generator, **sizes | changed))

    cases = [of(), *(of(**{name: 1}) for name in ones)]
    if double:
        cases.append(in_double(of(), 1e-9 if exact else None))
    return cases


def _fresh(value: Any) -> Any:
    if isinstance(value, list):
        return torch.tensor(value)
    return value.clone() if isinstance(value, Tensor) else value


def arguments_of(one: Case, generator: Generator, names: Sequence[str]) -> tuple:
    """The arguments, those of `slopes` wanting a gradient."""
    made = one.make(generator)
    for name, value in zip(names, made, strict=True):
        if name in one.slopes:
            value.requires_grad_()
    return made


def describe(one: Input, seed: int, names: Sequence[str]) -> str:
    """The input in words: arguments by name, then the note."""
    if isinstance(one, Probe):
        return one.note
    made = one.make(torch.Generator().manual_seed(seed))
    parts = [f"{n} = {brief(x)}" for n, x in zip(names, made, strict=True)]
    parts = [x.replace(" ", "\0") if len(x) <= WIDTH else x for x in parts]
    lines = textwrap.wrap(
        ", ".join(parts), WIDTH, break_long_words=False, break_on_hyphens=False
    )
    text = "\n".join(lines).replace("\0", " ")
    if one.slopes:
        text += f"\ngradients by {', '.join(one.slopes)}"
    return f"{text}\n{one.note}" if one.note else text


def names_of(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the parameters of a function."""
    return tuple(inspect.signature(function).parameters)
