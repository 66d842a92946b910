"""What a function did with one input: a value to compare, an error, or a refusal.

Chapter: index
Source: course
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor

from tiny_lm.course.checks.answer import Answer, NotDone
from tiny_lm.course.checks.case import Case, Input, Probe, arguments_of, describe
from tiny_lm.course.checks.expect import Mismatch, same
from tiny_lm.course.checks.result import Misfit, conform
from tiny_lm.course.checks.spec import Spec

SEED = 910_741  # of the global random numbers: one that nobody else would choose


@dataclass
class Seen:
    """What came of one input.

    Args:
        raw: what the function returned.
        value: what is compared of it, by name.
        refusal: why there is nothing to compare.
        error: its message, where the function raised one.
        stumble: the message of what its result made the check raise.
    """

    raw: Any = None
    value: Any = None
    refusal: Mismatch | None = None
    error: str = ""
    stumble: str = ""
    printed: str = ""


def observe(
    task: Spec,
    function: Callable[..., Any],
    one: Input,
    seed: int,
    wanted: Seen | None = None,
) -> Seen:
    """Call the function with this input, made anew, and look at what comes back.

    Args:
        wanted: what the reference did, which says what kind of result is promised.

    Raises:
        NotDone: the function is the stub.
    """
    writes = [task.arguments.index(name) for name in task.writes]
    answer, seen = Answer(function, task.name, writes), Seen()
    torch.default_generator.manual_seed(SEED)
    generator = Generator().manual_seed(seed)
    try:
        if isinstance(one, Probe):
            seen.value = seen.raw = one.use(answer, generator)
        else:
            _use(task, answer, one, generator, seen, wanted)
    except Mismatch as mismatch:
        seen.refusal = mismatch
    except Misfit as misfit:
        on = describe(one, seed, task.arguments)
        seen.refusal = Mismatch(on, *misfit.args)
    except NotDone:
        raise
    except Exception as error:  # the check stumbled over what came back
        seen.refusal = answer.unreadable(error)
        seen.stumble = f"{type(error).__name__}: {error}"
    seen.error, seen.printed = answer.error, answer.printed.getvalue()
    return seen


def _use(
    task: Spec,
    answer: Answer,
    one: Case,
    generator: Generator,
    seen: Seen,
    wanted: Seen | None,
) -> None:
    arguments = arguments_of(one, generator, task.arguments)
    result = seen.raw = answer(*arguments)
    if wanted is not None:
        result = conform(result, wanted.raw, task.returns, task.any_width)
    seen.value = task.view(result, *arguments)
    if not isinstance(seen.value, dict):
        names = task.returns if isinstance(seen.value, tuple) else task.returns[:1]
        parts = seen.value if isinstance(seen.value, tuple) else (seen.value,)
        seen.value = dict(zip(names or ("",), parts, strict=True))
    if one.slopes:
        by_name = dict(zip(task.arguments, arguments, strict=True))
        seen.value |= _slopes(seen.value, {n: by_name[n] for n in one.slopes})


def _slopes(value: dict[str, Any], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of every real part by every input; zero where there is none."""
    found = {}
    for part, x in value.items():
        if not isinstance(x, Tensor) or not x.is_floating_point():
            continue
        pull = torch.randn(x.shape, generator=Generator().manual_seed(7)).to(x)
        grads = [None] * len(inputs)
        if x.requires_grad:
            grads = torch.autograd.grad(
                (x * pull).sum(),
                list(inputs.values()),
                retain_graph=True,
                allow_unused=True,
            )
        of = f"gradient of {part}".removesuffix("of ").rstrip()
        for (name, z), grad in zip(inputs.items(), grads, strict=True):
            grad = torch.zeros_like(z) if grad is None else grad
            found[f"{of} by {name}:"] = grad
    return {part: x for part, x in value.items()} | found


def alike(one: Seen, other: Seen, tolerance: float) -> bool:
    """Whether two functions did the same: value, error, or result of a wrong kind."""
    told = [_text(seen.error or seen.stumble) for seen in (one, other)]
    if any(told):
        return told[0] == told[1]
    if one.refusal or other.refusal:
        if not (one.refusal and other.refusal):
            return False
        if one.raw is None:  # a probe has none: what it says is all there is
            return other.raw is None and _said(one.refusal) == _said(other.refusal)
        kinds = _kinds(one.raw) == _kinds(other.raw)
        return kinds and _safely_same(one.raw, other.raw, tolerance)
    return _safely_same(one.value, other.value, tolerance)


def _said(refusal: Mismatch) -> tuple[str, str, str]:
    return refusal.wanted, refusal.got, refusal.because


def _kinds(x: Any) -> Any:
    """Types and dtypes, of which a result of the wrong kind may consist."""
    if isinstance(x, tuple | list):
        return [_kinds(one) for one in x]
    return x.dtype if isinstance(x, Tensor) else type(x)


def _text(error: str) -> str:
    """An error message without its numbers: sizes are another input's."""
    return re.sub(r"\d+", "0", error)


def _safely_same(a: Any, b: Any, tolerance: float) -> bool:
    try:
        return same(a, b, tolerance)
    except Exception:  # whatever a learner returned may be compared here
        return False
