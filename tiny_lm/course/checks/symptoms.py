"""What the numbers themselves say about a wrong answer that no mistake explains.

Chapter: index
Source: course
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tiny_lm.course.checks.answer import NotDone
from tiny_lm.course.checks.case import Case, Input
from tiny_lm.course.checks.expect import difference, numbers, same, shape, show
from tiny_lm.course.checks.seen import Seen, observe
from tiny_lm.course.checks.spec import Property, Spec

CUT = (
    "Without a gradient, nothing behind this learns. .detach(), .item(), .data, numpy, "
    "torch.tensor(…) or torch.no_grad() cuts it off."
)
REACHED = "A gradient arrives where none may: this argument must not be in the result."
NAN = "There are NaNs: they come of 0 / 0, of 0 · inf and of inf − inf."
INF = (
    "A number grew beyond what its dtype holds: exp of 89 is infinite in float32, and "
    "the logarithm of 0 is, too. Is there a form that never makes such numbers?"
)
MOODY = (
    "Asked again on the same input, it gives what is wanted. Something is kept between "
    "calls, or drawn at random."
)
NOTHING = "Nothing but zeros came."
SIGN = "The numbers are right but for their sign."
PLACES = "These are the right numbers, in other places."
REPEATED = "Row 0 is right, and the other rows repeat it: each has its own."
ROUGH = "Close, and not equal: something was rounded, or left out that is small."


def symptom(got: Seen, wanted: Seen, at: Property) -> str:
    """What the numbers have in common with the wanted ones, or nothing."""
    if got.refusal or wanted.refusal:
        return ""
    tolerance = at.tolerance
    a, b = at.part(got.value), at.part(wanted.value)
    if same(a, b, tolerance):
        return MOODY
    a, b, name = difference(a, b, tolerance)
    if not isinstance(a, Tensor | int | float) or isinstance(a, bool):
        return ""
    a, b = (numbers(x) for x in (a, b))
    if a.shape != b.shape:
        return ""
    if name.startswith("gradient") and not (a.any() and b.any()):
        return REACHED if a.any() else CUT
    return _of_numbers(a, b, tolerance)


def _of_numbers(a: Tensor, b: Tensor, tolerance: float) -> str:
    if a.isnan().any() and not b.isnan().any():
        return NAN
    if a.isinf().any() and not b.isinf().any():
        return INF
    if a.numel() > 1 and not a.any():
        return NOTHING
    if same(a, -b, tolerance):
        return SIGN
    if a.dim() and same(a.flatten().sort().values, b.flatten().sort().values):
        return PLACES
    if a.dim() > 1 and len(a) > 1 and same(a, b[:1].expand_as(b), tolerance):
        return REPEATED
    return _in_proportion(a, b, tolerance) or _rows(a, b, tolerance)


def _in_proportion(a: Tensor, b: Tensor, tolerance: float) -> str:
    both = b.isfinite() & (b != 0)
    if not both.any() or not a.isfinite().all():
        return ""
    ratio = (a[both] / b[both]).median()
    if ratio != 0 and same(a, ratio * b, tolerance) and (ratio - 1).abs() > 0.02:
        every = "Every number is" if a.numel() > 1 else "It is"
        return f"{every} {show(ratio)} times what is wanted."
    gap = (a - b).median()
    if a.numel() > 1 and same(a, b + gap, tolerance):
        return f"Every number is off by the same: {show(gap)}."
    return ROUGH if same(a, b, 2e-2) else ""


def _rows(a: Tensor, b: Tensor, tolerance: float) -> str:
    """How many rows are right, where some are."""
    if a.dim() < 2 or len(a) < 2:
        return ""
    right = [same(x, y, tolerance) for x, y in zip(a, b, strict=True)]
    if not any(right):
        return ""
    return f"{sum(right)} of {len(a)} rows are right; row {right.index(False)} is not."


def unused(task: Spec, function: Callable[..., Any], one: Input, seed: int) -> str:
    """An argument that changes the reference's result and not the learner's."""
    if not isinstance(one, Case) or not _says_something(task, function, one, seed):
        return ""
    for i, name in enumerate(task.arguments):
        others = [replace(one, make=_with_other(one, i, n), slopes=()) for n in (0, 1)]
        if all(
            _changes(task, task.reference, one, other, seed)
            and _changes(task, function, one, other, seed) is False
            for other in others
        ):
            return f"Is `{name}` used? With another, the same comes out."
    return ""


def _says_something(
    task: Spec, function: Callable[..., Any], one: Case, seed: int
) -> bool:
    """Whether the result holds numbers that could change."""
    value = _value(task, function, one, seed)
    parts = [numbers(x) for x in (value or {}).values()]
    return bool(parts) and all(bool(x.any() and not x.isnan().any()) for x in parts)


def _with_other(one: Case, i: int, n: int) -> Callable[..., tuple[Any, ...]]:
    """The same arguments, but the i-th, which is changed in one of two ways."""

    def make(generator: torch.Generator) -> tuple[Any, ...]:
        given = list(one.make(generator))
        x = given[i]
        if isinstance(x, Tensor) and x.is_floating_point():
            steps = torch.arange(x.numel()).view(x.shape).to(x)
            given[i] = x.flip(-1) + steps if n else 0.5 * x + 0.3 * steps
        elif isinstance(x, Tensor):
            given[i] = x.flip(0) if n else x.flip(-1)
        elif isinstance(x, float):
            given[i] = (0.7, 0.4)[n] * x
        elif isinstance(x, int):
            given[i] = x - 1 if x > 1 else x + 1
        return tuple(given)

    return make


def _value(
    task: Spec, function: Callable[..., Any], one: Case, seed: int
) -> dict[str, Any] | None:
    try:
        return observe(task, function, replace(one, slopes=()), seed).value
    except NotDone:
        return None


def _changes(
    task: Spec, function: Callable[..., Any], one: Case, other: Case, seed: int
) -> bool | None:
    """Whether the result changes with the argument; nothing where that is unknown."""
    a, b = (_value(task, function, x, seed) for x in (one, other))
    if a is None or b is None:
        return None
    return not same(a, b)


def shapes_alike(one: Any, other: Any) -> bool:
    """The same number of results, of the same shapes."""
    if isinstance(one, tuple | list) and isinstance(other, tuple | list):
        return [shape(x) for x in one] == [shape(x) for x in other]
    return (
        isinstance(one, Tensor)
        and isinstance(other, Tensor)
        and (one.shape == other.shape)
    )
