"""A usual wrong answer: one edit of the reference, or a function, and its sentence.

Chapter: index
Source: course
"""

import inspect
import textwrap
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from tiny_lm.course.checks import slips

Function = Callable[..., Any]
ARROW, NEXT = " =>", " ;; "


@dataclass(frozen=True)
class Mistake:
    """A wrong answer, written once.

    Args:
        code: "old => new", an edit of the reference's source (several are joined by
            " ;; "), or a function.
        says: the sentence that names it.
    """

    code: str | Function
    says: str

    @property
    def name(self) -> str:
        """For the name of a test."""
        return self.code if isinstance(self.code, str) else self.code.__name__

    def answer(self, reference: Function) -> Function:
        """The wrong answer as a function."""
        if isinstance(self.code, str):
            return edited(reference, self.code)
        return self.code


@cache
def edited(reference: Function, edits: str) -> Function:
    """The reference with some of its text replaced.

    Raises:
        ValueError: what is to be replaced stands there not once.
    """
    inner = inspect.unwrap(reference)
    source = textwrap.dedent(inspect.getsource(inner))
    for edit in edits.split(NEXT):
        old, arrow, new = edit.partition(ARROW)
        if not arrow or source.count(old) != 1:
            raise ValueError(f"{old!r} stands {source.count(old)} times in the source")
        source = source.replace(old, new.removeprefix(" "))
    return compiled(reference, source)


def compiled(reference: Function, source: str) -> Function:
    """A changed source of the reference as a function, with all that it can name."""
    inner = inspect.unwrap(reference)
    space = vars(slips) | inner.__globals__
    with warnings.catch_warnings():  # a change, or two at once, may make odd code
        warnings.simplefilter("ignore", SyntaxWarning)
        exec(compile(source, f"<{inner.__name__}, changed>", "exec"), space)
    return space[inner.__name__]
