"""Call a learner's function, and turn what goes wrong inside into its own line.

Chapter: index
Source: course
"""

import contextlib
import inspect
import io
import linecache
import traceback
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from tiny_lm.course.checks.answer import NotDone
from tiny_lm.course.checks.before.expect import Mismatch, show

MESSAGE = 240  # characters of an error message that are worth reading


class Answer:
    """The learner's function, as a check calls it.

    What it prints is kept and shown only where the check fails: printed lines would
    otherwise stand between the lines of the report.

    Args:
        function: the learner's.
        name: what the task calls it.
        seed: of `generator`, from which checks draw their random inputs.
        errors: known fragments of error messages, and what to say about them.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        name: str,
        seed: int = 0,
        errors: Sequence[tuple[str, str]] = (),
    ) -> None:
        self.function = function
        self.name = name
        self.errors = errors
        self.generator = torch.Generator().manual_seed(seed)
        self.printed = io.StringIO()
        self.last: tuple[str, Any] = ("", None)

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns.

        Raises:
            NotDone: the stub's `NotImplementedError`.
            Mismatch: any other error, an argument changed in place, or no `return`.
        """
        versions = [a._version for a in arguments if isinstance(a, Tensor)]
        try:
            with contextlib.redirect_stdout(self.printed):
                result = self.function(*arguments)
        except Exception as error:
            if _is_stub(error):
                raise NotDone from error
            raise Mismatch(**self._describe(error, arguments)) from error
        if versions != [a._version for a in arguments if isinstance(a, Tensor)]:
            raise Mismatch(
                on=f"{self.call(arguments)}",
                wanted="arguments as they were",
                got="a changed argument",
                because="An operation in place (`x += …`, `x[…] = …`, a name that ends "
                "in `_`) wrote into what the caller handed over. Work on a new tensor.",
            )
        if result is None:
            raise Mismatch(
                on=self.call(arguments),
                wanted="a result",
                got="None",
                because="A function without `return` gives None.",
            )
        self.last = (self.call(arguments), result)
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
        return f"{self.name}({', '.join(_brief(a) for a in arguments)})"

    def _describe(self, error: Exception, arguments: tuple[Any, ...]) -> dict[str, str]:
        said = f"{type(error).__name__}: {error}".strip()
        said = said if len(said) <= MESSAGE else said[:MESSAGE] + " …"
        line = self._learners_line(error.__traceback__)
        got = f"{said}\n{line or 'before its first line ran'}"
        known = (say for part, say in self.errors if part in str(error))
        return {
            "on": self.call(arguments),
            "wanted": "a result",
            "got": got,
            "because": next(known, ""),
        }

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


def _brief(value: Any) -> str:
    """An argument in a call: small ones whole, large ones by their shape."""
    if isinstance(value, Tensor):
        if value.numel() <= 8:
            return show(value)
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, torch.Generator):
        return "generator"
    if isinstance(value, torch.nn.Module | torch.optim.Optimizer):
        return type(value).__name__
    return show(value)
