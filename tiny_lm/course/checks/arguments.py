"""What a wrong result owes to one argument: unused, added, or counted too often.

Chapter: index
Source: course
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations_with_replacement, islice
from math import prod
from typing import Any

import torch
from torch import Tensor

from tiny_lm.course.checks.case import Case
from tiny_lm.course.checks.expect import difference, numbers, same, show
from tiny_lm.course.checks.trial import Function, Trial, Trials

LOOKED_AT = 8  # inputs of a task on which an argument should matter
EXACT = 1e-12  # two results of one function are the same, or are not
NICE = [n / 2 for n in range(1, 49)]  # factors that a slip in a count may have


def unused(here: Trial, function: Function, everywhere: Trials) -> str:
    """An argument that changes the reference's result and never the learner's."""
    if not isinstance(here.one, Case) or not _says_something(here):
        return ""
    for i, name in enumerate(here.task.arguments):
        if _idle(here, function, i) and _idle_elsewhere(everywhere, function, i):
            return f"Is `{name}` used? With another, the same comes out."
    return ""


def _idle_elsewhere(everywhere: Trials, function: Function, i: int) -> bool:
    """Whether it plays no part on other inputs either, where it should."""
    told = (_idle(one, function, i) for one in everywhere if _says_something(one))
    return all(islice((idle for idle in told if idle is not None), LOOKED_AT))


def _idle(one: Trial, function: Function, i: int) -> bool | None:
    """Whether the i-th argument plays no part here; nothing where it need not."""
    others = [_with_other(one, i, n) for n in (0, 1)]
    if not all(_changes(one.task.reference, one, other) for other in others):
        return None
    return not any(_changes(function, one, other) is not False for other in others)


def _says_something(here: Trial) -> bool:
    """Whether the result holds numbers that could change."""
    if not isinstance(here.one, Case) or not isinstance(here.got.value, dict):
        return False
    parts = [x for x in here.got.value.values() if not isinstance(x, str)]
    parts = [numbers(x) for x in parts]
    return all(bool(x.any() and not x.isnan().any()) for x in parts)


def _with_other(here: Trial, i: int, n: int) -> Trial:
    """The same arguments, but the i-th, which is changed in one of two ways."""

    def make(generator: torch.Generator) -> tuple[Any, ...]:
        given = list(here.one.make(generator))
        x = given[i]
        if isinstance(x, Tensor) and x.is_floating_point():
            y = x if x.element_size() > 1 else x.float()  # one byte cannot be added to
            steps = torch.arange(y.numel()).view(y.shape).to(y)
            given[i] = (y.flip(-1) + steps if n else 0.5 * y + 0.3 * steps).to(x)
        elif isinstance(x, Tensor):
            given[i] = x.flip(0) if n else x.flip(-1)
        elif isinstance(x, float):
            given[i] = (0.7, 0.4)[n] * x
        elif isinstance(x, int):
            given[i] = x - 1 if x > 1 else x + 1
        return tuple(given)

    return replace(here, one=Case(make))


def _changes(function: Callable[..., Any], here: Trial, other: Trial) -> bool | None:
    """Whether the result changes with the argument; nothing where that is unknown."""
    plain = replace(here, one=Case(here.one.make), wanted=None)
    a, b = (one.see(function).value for one in (plain, replace(other, wanted=None)))
    return None if a is None or b is None else not same(a, b, EXACT)


def added(here: Trial) -> str:
    """An argument that was added to what is wanted."""
    if not isinstance(here.one, Case) or here.got.refusal:
        return ""
    got, wanted, _ = difference(*here.values, here.tolerance)
    made = here.one.make(torch.Generator().manual_seed(here.seed))
    for name, x in zip(here.task.arguments, made, strict=True):
        if isinstance(got, Tensor) and isinstance(x, Tensor) and x.shape == got.shape:
            if x.any() and same(got, numbers(wanted) + numbers(x), here.tolerance):
                return f"`{name}` itself was added to the result."
    return ""


def counted(everywhere: Trials, here: Trial) -> str:
    """By which product of arguments a count is off, on every input alike."""
    if _gap(here, here) is None:
        return ""
    rows = [_gap(one, here) for one in everywhere]
    if len(rows) < 3 or None in rows:
        return ""
    names = here.task.arguments
    for size in (1, 2, 3):
        for term in combinations_with_replacement(range(len(names)), size):
            factors = [
                gap / product if (product := prod(made[i] for i in term)) else None
                for gap, made in rows
            ]
            found = {round(f, 6) for f in factors if f is not None}
            if len(found) == 1 and abs(factor := found.pop()) in NICE:
                many = " · ".join(names[i] for i in term)
                times = "" if abs(factor) == 1 else f"{show(abs(factor))} · "
                return f"{times}{many} too {'many' if factor > 0 else 'few'}."
    return ""


def _gap(one: Trial, here: Trial) -> tuple[float, tuple[Any, ...]] | None:
    """How far a count is off, and the arguments, where all of these are numbers."""
    numbers_alone = isinstance(one.one, Case) and isinstance(here.values[0], dict)
    if not numbers_alone or one.got.refusal:
        return None
    _, _, name = difference(*here.values, here.tolerance)
    made = one.one.make(torch.Generator().manual_seed(one.seed))
    got, wanted = (seen.value.get(name) for seen in (one.got, one.wanted))
    if not all(isinstance(x, int | float) for x in (*made, got, wanted)):
        return None
    return got - wanted, made


def sized(here: Trial, everywhere: Trials) -> str:
    """Which argument says how long a dim is to be, where one is too long or short."""
    got, wanted = (_parts(seen.raw) for seen in (here.got, here.wanted))
    if not isinstance(here.one, Case) or here.got.error or len(got) != len(wanted):
        return ""
    for n, (a, b) in enumerate(zip(got, wanted, strict=True)):
        if not all(isinstance(x, Tensor) for x in (a, b)) or a.dim() != b.dim():
            continue
        for dim in range(a.dim()):
            if a.shape[dim] != b.shape[dim] and (says := _says(n, dim, everywhere)):
                sizes = f"{a.shape[dim]}, and wanted are {b.shape[dim]}"
                return f"Dim {dim} holds {sizes}: {says}."
    return ""


def _parts(raw: Any) -> Sequence[Any]:
    return raw if isinstance(raw, tuple | list) else (raw,)


def _says(n: int, dim: int, everywhere: Trials) -> str:
    """The argument, or the dim of one, that is as large as this dim on every input."""
    found = None
    for one in everywhere:
        if isinstance(one.one, Case):
            size = _parts(one.wanted.raw)[n].shape[dim]
            sizes = _sizes(one)
            alike = {name for name in sizes if sizes[name] == size}
            found = alike if found is None else found & alike
    return min(found or [""], key=len)  # a number's own name is the shortest


def _sizes(one: Trial) -> dict[str, int]:
    """Every size that an input brings, by the words for where it stands."""
    made, found = one.one.make(torch.Generator().manual_seed(one.seed)), {}
    for name, x in zip(one.task.arguments, made, strict=True):
        if isinstance(x, int):
            found[f"`{name}`"] = x
        for dim, length in enumerate(x.shape if isinstance(x, Tensor) else ()):
            found[f"the size of `{name}` along dim {dim}"] = length
    return found
