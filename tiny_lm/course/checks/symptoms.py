"""What the numbers themselves say about a wrong answer that no mistake explains.

Chapter: index
Source: course
"""

import torch
from torch import Tensor

from tiny_lm.course.checks.expect import difference, numbers, same, show
from tiny_lm.course.checks.trial import Trial, Trials

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
FLOAT32 = (
    "The inputs are float64 here, and the result is as exact as float32: `.float()`, "
    "or a torch.zeros(…) without a dtype, loses half of the digits."
)
MOODY = (
    "Asked again on the same input, it gives what is wanted. Something is kept between "
    "calls, or drawn at random."
)
NOTHING = "Nothing but zeros came."
SIGN = "The numbers are right but for their sign."
PLACES = "These are the right numbers, in other places."
ALIKE = (
    "All rows are alike, and they should differ: one answer was made for all. Each row "
    "has its own."
)
REPEATED = "Row 0 is right, and the other rows repeat it: each has its own."
ROUGH = "Close, and not equal: something was rounded, or left out that is small."
ROUNDED = "This was rounded to"
SHOWS_A_CAUSE = (CUT, REACHED, NAN, INF, FLOAT32, MOODY, SIGN, ROUNDED)


def symptom(here: Trial, everywhere: Trials) -> str:
    """What the numbers have in common with the wanted ones, or nothing."""
    tolerance = here.tolerance
    if here.got.refusal or here.wanted.refusal:
        return ""
    if same(*here.values, tolerance):
        return MOODY
    name = difference(*here.values, tolerance)[2]
    pair = _numbers(here, name)
    if pair is None:
        return ""
    a, b = pair
    if isinstance(x := here.wanted.value[name], Tensor) and not x.is_floating_point():
        return _of_ids(a, b)
    if name.startswith("gradient") and not (a.any() and b.any()):
        return REACHED if a.any() else CUT
    if a.numel() > 1:
        return _of_numbers(a, b, tolerance)
    return (
        _of_numbers(a, b, tolerance)
        if not a.isfinite()
        else _rounded(a, b) or _ratio(everywhere, name)
    )


def _numbers(one: Trial, name: str) -> tuple[Tensor, Tensor] | None:
    """A part of what was got and wanted, as numbers of one shape."""
    if not isinstance(one.got.value, dict) or name not in one.got.value:
        return None
    a, b = one.got.value[name], one.wanted.value[name]
    if any(not isinstance(x, Tensor | int | float) for x in (a, b)):
        return None
    a, b = numbers(a), numbers(b)
    return (a, b) if a.shape == b.shape else None


def _ratio(everywhere: Trials, name: str) -> str:
    """By what a single number is off, where it is by the same on every input."""
    pairs = [_numbers(one, name) for one in everywhere if one.wrong]
    pairs = [pair for pair in pairs if pair is not None]
    if len(pairs) < 2 or not all(b.all() for _, b in pairs):
        return ""
    ratios = torch.cat([(a / b).flatten() for a, b in pairs])
    if not ratios.isfinite().all() or not same(ratios, ratios[:1].expand_as(ratios)):
        return ""
    return SIGN if ratios[0] == -1 else f"It is {show(ratios[0])} times what is wanted."


def _rounded(a: Tensor, b: Tensor) -> str:
    """To how many decimals, where the right numbers have more."""
    for decimals in (1, 2, 3):
        if same(a, b.round(decimals=decimals), 1e-6):
            many = f"{decimals} decimal{'s' * (decimals > 1)}"
            return f"{ROUNDED} {many}. Later cells count on all of them."
    return ""


def _of_numbers(a: Tensor, b: Tensor, tolerance: float) -> str:
    if a.isnan().any() and not b.isnan().any():
        return NAN
    if a.isinf().any() and not b.isinf().any():
        return INF
    if a.numel() > 1 and not a.any():
        return NOTHING
    if same(a, b, 1e-5):
        return FLOAT32
    if says := _rounded(a, b):
        return says
    if same(a, -b, tolerance):
        return SIGN
    many = len(b.unique()) > 2  # two values in other places say little
    if many and same(a.flatten().sort().values, b.flatten().sort().values):
        return PLACES
    if _alike(a, tolerance) and not _alike(b, tolerance):
        return REPEATED if same(a[:1], b[:1], tolerance) else ALIKE
    return _in_proportion(a, b, tolerance)


def _alike(x: Tensor, tolerance: float) -> bool:
    """Whether there are rows, each the same as the first."""
    return x.dim() > 1 and len(x) > 1 and same(x, x[:1].expand_as(x), tolerance)


def _of_ids(a: Tensor, b: Tensor) -> str:
    """Numbers of things are not near each other, nor in proportion."""
    if _alike(a, 0.0) and not _alike(b, 0.0):
        return REPEATED if torch.equal(a[:1], b[:1]) else ALIKE
    if a.dim() and torch.equal(a.sort(-1).values, b.sort(-1).values):
        return PLACES
    return ""


def _in_proportion(a: Tensor, b: Tensor, tolerance: float) -> str:
    both = b.isfinite() & (b != 0)
    if both.sum() < 2 or not a.isfinite().all():
        return ""
    ratio = (a[both] / b[both]).median()
    if ratio != 0 and same(a, ratio * b, tolerance) and (ratio - 1).abs() > 0.02:
        return f"Every number is {show(ratio)} times what is wanted."
    gap = (a - b).median()
    if same(a, b + gap, tolerance):
        return f"Every number is off by the same: {show(gap)}."
    return ROUGH if same(a, b, 2e-2) else ""


def places(here: Trial) -> str:
    """Which places along which dim are right, where some are."""
    if here.got.refusal or here.wanted.refusal:
        return ""
    name = difference(*here.values, here.tolerance)[2]
    a, b = _numbers(here, name) or (torch.zeros(0), torch.zeros(0))
    for dim, size in enumerate(a.shape):
        pairs = zip(a.unbind(dim), b.unbind(dim), strict=True)
        right = [same(x, y, here.tolerance) for x, y in pairs]
        if any(right) and size > 2:
            wrong = show([i for i, good in enumerate(right) if not good][:6])
            return f"Wrong at {wrong} of {size} along dim {dim}, and right elsewhere."
    return ""
