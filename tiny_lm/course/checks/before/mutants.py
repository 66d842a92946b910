"""Wrong answers that a check must refuse, and honest ones that it must accept.

Chapter: index
Source: course

Each lies in a `…_mutants` or `…_honest` module beside its check. The tests run them
all: a wrong answer has to fail at the property named with it, and draw the sentence
named with it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tiny_lm.course.checks.before.task import Task

Function = Callable[..., Any]


@dataclass(frozen=True)
class Mutant:
    """A wrong answer.

    Args:
        caught_by: key of the property that has to refuse it.
        says: part of the report that has to name the mistake; empty where no check
            can tell where it comes from.
    """

    task: Task
    function: Function
    caught_by: str
    says: str


WRONG: list[Mutant] = []
HONEST: list[tuple[Task, Function]] = []


def wrong(task: Task, caught_by: str, says: str = "") -> Callable[[Function], Function]:
    """Register a wrong answer."""

    def add(function: Function) -> Function:
        WRONG.append(Mutant(task, function, caught_by, says))
        return function

    return add


def honest(task: Task) -> Callable[[Function], Function]:
    """Register a right answer in another style."""

    def add(function: Function) -> Function:
        HONEST.append((task, function))
        return function

    return add
