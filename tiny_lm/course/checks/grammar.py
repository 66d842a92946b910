"""Mistakes of every task: the reference with one argument or one result changed.

Chapter: index
Source: course

Nobody writes these down: they are made of the reference, and named where one does on
every input what the learner's function does.
"""

from collections.abc import Callable, Iterator
from itertools import combinations
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from tiny_lm.course.checks.mistake import Mistake
from tiny_lm.course.checks.spec import Spec

Change = Callable[[Any], Any]


def _row(x: Tensor, i: int) -> Tensor:
    return x[i : i + 1 or None].expand_as(x) if x.dim() > 1 else None


NUMBERS: dict[str, Change] = {
    "negated": lambda x: -x,
    "doubled": lambda x: 2 * x,
    "halved": lambda x: x / 2,
    "squared": lambda x: x * x,
    "under a root": lambda x: x**0.5,
    "turned into 1 / it": lambda x: 1 / x,
}
TENSORS: dict[str, Change] = {
    "sent through a softmax": lambda x: x.softmax(-1),
    "sent through a sigmoid": lambda x: x.sigmoid(),
    "sent through a logarithm": lambda x: x.log(),
    "sent through exp": lambda x: x.exp(),
    "subtracted from 1": lambda x: 1 - x,
    "divided by its sum": lambda x: x / x.sum(-1, keepdim=True),
    "brought to length 1": lambda x: F.normalize(x, dim=-1),
    "rounded to bfloat16": lambda x: x.bfloat16().to(x),
    "rounded": lambda x: x.round(),
    "cut to whole numbers": lambda x: x.trunc(),
    "cut off below 0": lambda x: x.clamp(min=0),
    "cut off at -1 and 1": lambda x: x.clamp(-1, 1),
    "less 1": lambda x: x - 1,
    "plus 1": lambda x: x + 1,
    "shifted so that its mean is 0": lambda x: x - x.mean(),
}
PLACES: dict[str, Change] = {
    "sorted": lambda x: x.sort(-1, descending=True).values,
    "sorted upwards": lambda x: x.sort(-1).values,
    "turned round along its last dim": lambda x: x.flip(-1),
    "turned round along its first dim": lambda x: x.flip(0),
    "replaced by its first row": lambda x: _row(x, 0),
    "replaced by its last row": lambda x: _row(x, -1),
}
COUNTS: dict[str, Change] = {
    "one less": lambda x: x - 1,
    "one more": lambda x: x + 1,
    "doubled": lambda x: 2 * x,
    "always 1": lambda x: 1,
    "always 2": lambda x: 2,
}
RATES: dict[str, Change] = {
    "less 1": lambda x: x - 1,
    "plus 1": lambda x: x + 1,
    "rounded": lambda x: round(x, 1),
    "at least 1": lambda x: max(x, 1.0),
    "at most 1": lambda x: min(x, 1.0),
    "always 1": lambda x: 1.0,
    "cut to a whole number": lambda x: float(int(x)),
}


def changes(x: Any) -> dict[str, Change]:
    """What may have been done to a value of this kind."""
    if isinstance(x, Tensor):
        return (NUMBERS | TENSORS if x.is_floating_point() else {}) | PLACES
    if isinstance(x, bool) or not isinstance(x, int | float):
        return {}
    return COUNTS if isinstance(x, int) else NUMBERS | RATES


def grammar(task: Spec, arguments: tuple[Any, ...], result: Any) -> Iterator[Mistake]:
    """Every such mistake, for arguments and a result of these kinds."""
    for i, x in enumerate(arguments):
        for how, change in changes(x).items():
            says = f"This is what comes out with `{task.arguments[i]}` {how}."
            yield Mistake(_with_argument(task, i, change), says)
    for i, j in combinations(range(len(arguments)), 2):
        if type(arguments[i]) is type(arguments[j]):
            a, b = task.arguments[i], task.arguments[j]
            says = f"`{a}` and `{b}` have changed places."
            yield Mistake(_with_swapped(task, i, j), says)
    yield Mistake(_with_rows(task, slice(1)), "Only the first row was looked at.")
    yield Mistake(_with_rows(task, slice(-1, None)), "Only the last row was looked at.")
    parts = result if isinstance(result, tuple) else (result,)
    for i, x in enumerate(parts):
        for how, change in changes(x).items():
            name = task.returns[i] if len(parts) > 1 else ""
            says = f"This is what is wanted{f' of {name}' * bool(name)}, {how}."
            yield Mistake(_with_result(task, i, change), says)


def _with_argument(task: Spec, i: int, change: Change) -> Callable[..., Any]:
    def changed(*given: Any) -> Any:
        return task.reference(*given[:i], _made(change, given[i]), *given[i + 1 :])

    return changed


def _made(change: Change, x: Any) -> Any:
    """The changed value; of codes of one byte, with which nothing can be computed."""
    if isinstance(x, Tensor) and x.is_floating_point() and x.element_size() == 1:
        return change(x.float()).to(x.dtype)
    return change(x)


def _with_swapped(task: Spec, i: int, j: int) -> Callable[..., Any]:
    def swapped(*given: Any) -> Any:
        order = list(given)
        order[i], order[j] = order[j], order[i]
        return task.reference(*order)

    return swapped


def _with_rows(task: Spec, rows: slice) -> Callable[..., Any]:
    """All arguments that are as long as the first tensor cut to some rows."""

    def cut(*given: Any) -> Any:
        size = next(len(x) for x in given if isinstance(x, Tensor) and x.dim())
        return task.reference(
            *(
                x[rows] if isinstance(x, Tensor) and x.dim() and len(x) == size else x
                for x in given
            )
        )

    return cut


def _with_result(task: Spec, i: int, change: Change) -> Callable[..., Any]:
    def changed(*given: Any) -> Any:
        result = task.reference(*given)
        if not isinstance(result, tuple):
            return _made(change, result)
        return *result[:i], _made(change, result[i]), *result[i + 1 :]

    return changed
