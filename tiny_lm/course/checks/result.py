"""What a task promises to return: how many results, of which kind, dtype and shape.

Chapter: index
Source: course

The reference's own result says what is promised.
"""

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from tiny_lm.course.checks.expect import FEW, shape, show

COUNTS = ("no results", "a result", "two results", "three results", "four results")
COMMA = "Several results are returned with a comma between them."
ORDER = "The results are there, in another order."
PAIR = (
    "A pair stands where one tensor is promised. topk, sort, and max with a dim give "
    "values and indices: take one of the two, `.values` or `.indices`."
)
HOLDS_ON = (
    "A tensor stands where a plain number is promised: it holds on to all that it was "
    "computed from, and later cells count on a number. `.item()` or `float(…)` makes "
    "one."
)
PLAIN = "One plain number is wanted: no text, no tuple, no list."
NO_TENSOR = (
    "Later cells go on with a tensor. A detour through numpy, lists or numbers also "
    "loses the gradient."
)
NO_INDICES = (
    "Whole numbers are promised: ids, places, counts. topk, sort and max give back two "
    "things, the values and the places where they stood, and only the places are whole."
)
WIDTH = (
    "Whole numbers that index something later have to be int64: torch reads uint8 as a "
    "mask in some places, and gather, bincount or an embedding refuse other widths."
)
MASK = "This is a mask, True and False. Numbers are promised: lay the mask over them."
WHOLE = "These are whole numbers, and real ones are promised."
LOW = (
    "This has lost precision: half the bits are gone. Give back what the inputs came "
    "in, or more."
)
CODES = (
    "Codes of one byte are promised. The numbers may be right: "
    "`.to(torch.float8_e4m3fn)` makes codes of them."
)
WANTS = (
    "This result wants a gradient, though nothing that came in does. As a parameter it "
    "would be handed to an optimizer too."
)
SIDE = "It lies on its side: rows and columns have changed places."
LOST = (
    "A dim of size 1 got lost. `squeeze()` drops every such dim, and an index drops "
    "the dim it reads: name the dim, or keep it."
)
ROW = (
    "A row of numbers stands where one number is promised: the last mean, or sum, is "
    "still to be taken."
)
FLAGS = (
    "These are a 1 or a 0 for each, as a mask has them. Promised are the numbers of "
    "those that were chosen: ids."
)
EXTRA = "There is a dim of size 1 too many."
JOINED = "Two dims were joined that are promised apart."
APART = "Dims are still apart that are promised as one."
Sizes = tuple[int, ...]


class Misfit(Exception):
    """A result of another kind than promised: wanted, got, because."""


def conform(got: Any, like: Any, names: Sequence[str], any_width: bool) -> Any:
    """`got` in the form of the reference's result `like`; shapes are not compared.

    Args:
        names: of the results, for the message.
        any_width: whole numbers need not be int64.

    Raises:
        Misfit: it is of another kind.
    """
    if not isinstance(like, tuple):
        return _one(got, like, names[0] if names else "", any_width)
    wanted = f"{COUNTS[len(like)]}: {', '.join(names)}"
    if not isinstance(got, tuple | list) or len(got) != len(like):
        because = (
            f"{len(got)} results came." if isinstance(got, tuple | list) else COMMA
        )
        raise Misfit(wanted, show(got), because)
    try:
        return tuple(
            _one(a, b, name, any_width)
            for a, b, name in zip(got, like, names, strict=True)
        )
    except Misfit as misfit:
        if _kinds(got) != _kinds(like) and sorted(_kinds(got)) == sorted(_kinds(like)):
            raise Misfit(wanted, show(tuple(got)), ORDER) from misfit
        raise


def _kinds(results: Sequence[Any]) -> list[str]:
    return [
        ("real" if x.is_floating_point() else "whole")
        if isinstance(x, Tensor)
        else type(x).__name__
        for x in results
    ]


def _one(got: Any, like: Any, name: str, any_width: bool) -> Any:
    if not isinstance(like, Tensor):
        return _number(got, like, name)
    if isinstance(got, Real) and not isinstance(got, bool) and like.dim() == 0:
        return torch.as_tensor(float(got), dtype=torch.float64)
    if not isinstance(got, Tensor):
        because = PAIR if isinstance(got, tuple) else NO_TENSOR
        raise Misfit(
            f"{name}: a tensor".lstrip(": "), f"{show(got)}, a {_type(got)}", because
        )
    because = _dtype(got, like, any_width)
    if because:
        wanted = str(like.dtype).removeprefix("torch.")
        dtype = str(got.dtype).removeprefix("torch.")
        told = f"{dtype}{_values(got)}"
        raise Misfit(f"{name}: {wanted}".lstrip(": "), told, because)
    if got.requires_grad and not like.requires_grad and like.is_floating_point():
        raise Misfit(f"{name}: a plain tensor", "one that wants a gradient", WANTS)
    if got.shape != like.shape:
        told = f"shape {shape(got)}{_values(got)}"
        because = _reshaped(shape(got), shape(like))
        if got.dim() == like.dim() and not like.is_floating_point():
            flags = ((got == 0) | (got == 1)).all() and like.max() > 1
            because = because or FLAGS * bool(flags)
        raise Misfit(f"{name}: shape {shape(like)}".lstrip(": "), told, because)
    return got


def _values(x: Tensor) -> str:
    return f": {show(x)}" if x.numel() <= FEW else ""


def _reshaped(got: Sizes, like: Sizes) -> str:
    """What became of the dims, where the sizes tell."""
    if not like and len(got) == 1:
        return ROW
    if math.prod(got) == math.prod(like) and len(got) != len(like):
        if [n for n in got if n > 1] != [n for n in like if n > 1]:
            return JOINED if len(got) < len(like) else APART
        return LOST if len(got) < len(like) else EXTRA
    if got == like[::-1]:
        return SIDE
    return ""


def _dtype(got: Tensor, like: Tensor, any_width: bool) -> str:
    """What is wrong with the dtype, or nothing."""
    if got.dtype == torch.bool and like.dtype != torch.bool:
        return MASK
    if like.is_floating_point() and like.element_size() == 1:
        return "" if got.dtype == like.dtype else CODES
    if like.is_floating_point():
        if not got.is_floating_point():
            return WHOLE
        return LOW if got.element_size() < 4 else ""
    if got.is_floating_point():
        return NO_INDICES
    return "" if any_width or got.dtype == like.dtype else WIDTH


def _number(got: Any, like: Any, name: str) -> Any:
    if isinstance(got, Tensor):
        raise Misfit(
            f"{name}: a plain number".lstrip(": "), f"{show(got)}, a tensor", HOLDS_ON
        )
    if not isinstance(got, type(like)) and not isinstance(got, Real):
        told = f"{show(got)}, a {_type(got)}"
        raise Misfit(f"{name}: a {_type(like)}".lstrip(": "), told, PLAIN)
    return got


def _type(x: Any) -> str:
    return {"ndarray": "numpy array"}.get(type(x).__name__, type(x).__name__)
