"""Call a function under guard, and turn what goes wrong inside into its own line.

Chapter: index
Source: course
"""

import contextlib
import inspect
import io
import linecache
import traceback
from collections.abc import Callable, Collection
from types import TracebackType
from typing import Any

from tiny_lm.course.checks.expect import Mismatch, brief, show
from tiny_lm.course.checks.guard import Guard

MESSAGE = 240  # characters of an error message that are worth reading


class NotDone(Exception):
    """The stub is still in place."""


class Answer:
    """A function as a check calls it: the learner's, the reference or a mistake.

    What it prints is kept and shown only where the check fails: printed lines would
    otherwise stand between the lines of the report.

    Args:
        function: what is called.
        name: what the task calls it.
        writes: places of the arguments that it may change.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        writes: Collection[int] = (),
    ) -> None:
        self.function = function
        self.name = name
        self.writes = writes
        self.printed = io.StringIO()
        self.error = ""  # of the last call, with its kind
        self.last: tuple[str, Any] = ("", None)

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns.

        Raises:
            NotDone: the stub's `NotImplementedError`.
            Mismatch: any other error, an argument or a global setting that was
                changed, or no `return`.
        """
        guard, call = Guard(arguments, self.writes), self.call(arguments)
        try:
            with contextlib.redirect_stdout(self.printed):
                result = self.function(*arguments)
        except Exception as error:
            if _is_stub(error):
                raise NotDone from error
            self.error = f"{type(error).__name__}: {error}"
            raise Mismatch(call, "a result", self._describe(error)) from error
        finally:
            changed = guard.changed(arguments)
        if changed:
            raise Mismatch(call, *changed)
        if result is None:
            because = "A function without `return` gives None."
            raise Mismatch(call, "a result", "None", because)
        self.last = (call, result)
        return result

    def unreadable(self, error: Exception) -> Mismatch:
        """What to say where the check itself stumbled over what came back."""
        call, result = self.last
        return Mismatch(
            on=call,
            got=f"{show(result)}, a {type(result).__name__}",
            because=f"This cannot be compared with what is wanted ({error}).",
        )

    def call(self, arguments: tuple[Any, ...]) -> str:
        """The call as the learner would write it, large arguments by their shape."""
        return f"{self.name}({', '.join(brief(a) for a in arguments)})"

    def _describe(self, error: Exception) -> str:
        said = f"{type(error).__name__}: {error}".strip()
        said = said if len(said) <= MESSAGE else said[:MESSAGE] + " …"
        line = getattr(error, "where", "")  # known where it ran elsewhere
        line = line or self._learners_line(error.__traceback__)
        return f"{said}\n{line or 'before its first line ran'}"

    def _learners_line(self, trace: TracebackType | None) -> str:
        """The innermost line that the learner wrote, with its number."""
        own = getattr(inspect.unwrap(self.function), "__globals__", None)
        found = ""
        for frame, number in traceback.walk_tb(trace):
            if frame.f_globals is own:
                code = frame.f_code
                text = linecache.getline(code.co_filename, number).strip()
                found = f"in {code.co_name}, line {number} of its cell:\n  {text}"
        return found


def _is_stub(error: Exception) -> bool:
    """torch raises `NotImplementedError` too, for a dtype it has no kernel for."""
    return isinstance(error, NotImplementedError) and str(error).startswith("Task ")
