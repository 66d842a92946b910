"""The functions a model is assembled from: the learner's, or those that stand in.

Chapter: 06_together/full_model
Source: course

A piece travels as source, to ranks and through `torchrun` alike, and is run where it
is wanted.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from tiny_lm.course.labs import pieces
from tiny_lm.course.labs.source import run_alone

Function = Callable[..., Any]


@dataclass(frozen=True)
class Chosen:
    """Sources of the learner's pieces by name; a check's reference for all others."""

    sources: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, name: str) -> Function:
        """The piece of that name.

        Raises:
            ValueError: there is no piece of that name.
        """
        task = pieces.task_of(name)
        if name not in self.sources:
            return task.reference
        return _loaded(self.sources[name], task.name)

    def has(self, *names: str) -> bool:
        """Whether any of these is the learner's."""
        return any(name in self.sources for name in names)


@cache
def _loaded(source: str, name: str) -> Function:
    return run_alone(source, name)
