"""Compare what came with what was wanted, and recognise the usual mistakes.

Chapter: index
Source: course
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from tiny_lm.course.checks.expect import Mismatch

Known = Iterable[tuple[Any, str]]
FEW = 16  # a tensor of more entries is compared in a message by one of them
SHOWN = 6  # entries of a row, and rows of a matrix, that a message shows


def expect(
    got: Any,
    wanted: Any,
    on: str,
    known: Known = (),
    tolerance: float = 1e-4,
) -> None:
    """Refuse `got` unless it is close to `wanted`.

    Args:
        known: what a usual mistake gives, and the sentence that names the mistake.
        tolerance: relative and absolute.

    Raises:
        Mismatch: shapes differ, or a value does.
    """
    if close(got, wanted, tolerance):
        return
    if shape(got) != shape(wanted):
        raise Mismatch(
            on,
            f"{show(wanted)}, shape {shape(wanted)}",
            f"{show(got)}, shape {shape(got)}",
            recognise(got, known, tolerance),
        )
    because = recognise(got, known, tolerance)
    if torch.as_tensor(wanted).numel() > FEW:
        wanted, got = _worst_entry(wanted, got)
    raise Mismatch(on, wanted, got, because)


def _worst_entry(wanted: Tensor, got: Tensor) -> tuple[str, str]:
    """Two large tensors by the entry in which they differ most."""
    gap = (wanted.double() - got.double()).abs().nan_to_num(torch.inf)
    at = tuple(int(i) for i in torch.unravel_index(gap.argmax(), gap.shape))
    return f"{show(wanted[at])} at {list(at)}", f"{show(got[at])} there"


def recognise(got: Any, known: Known, tolerance: float = 1e-4) -> str:
    """The sentence of the first mistake whose result is `got`, or nothing."""
    for value, because in known:
        if close(got, value, tolerance):
            return because
    return ""


def close(got: Any, wanted: Any, tolerance: float = 1e-4) -> bool:
    """Same shape, and every entry near enough; NaN is near NaN."""
    a, b = (torch.as_tensor(x).detach().double().cpu() for x in (got, wanted))
    if a.shape != b.shape:
        return False
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


def shape(x: Any) -> tuple[int, ...]:
    """The shape as a plain tuple; of a number, ()."""
    return tuple(torch.as_tensor(x).shape)


def show(value: Any) -> str:
    """A value in as many characters as a person wants to read."""
    if isinstance(value, Tensor):
        return _show_tensor(value.detach().cpu())
    if isinstance(value, tuple | list):
        inner = ", ".join(show(one) for one in value)
        return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _show_tensor(x: Tensor) -> str:
    if x.dim() == 0:
        number = x.item()
        return f"{number:.4g}" if isinstance(number, float) else str(number)
    inner = ", ".join(_show_tensor(row) for row in x[:SHOWN])
    return f"[{inner}{', …' if len(x) > SHOWN else ''}]"
