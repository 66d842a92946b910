"""A task whose properties are functions of the learner's answer.

Chapter: index
Source: course
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from tiny_lm.course.checks import task as new
from tiny_lm.course.checks.answer import NotDone
from tiny_lm.course.checks.before.answer import Answer
from tiny_lm.course.checks.expect import Mismatch
from tiny_lm.course.checks.report import Outcome

Test = Callable[[Answer], None]


@dataclass(frozen=True)
class Property:
    """One thing that must hold, in the words of the report."""

    key: str
    text: str
    test: Test


@dataclass(kw_only=True)
class Task(new.Task):
    """One task, checked by functions."""

    errors: Any = ()

    def property(self, text: str) -> Callable[[Test], Test]:
        """Add a property; its key is the name of the decorated function."""

        def add(test: Test) -> Test:
            self.properties.append(Property(test.__name__, text, test))
            return test

        return add

    def outcome(
        self, function: Callable[..., Any], seed: int = 0, explain: bool = True
    ) -> Outcome:
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
