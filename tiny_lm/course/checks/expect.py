"""What counts as equal, and how a value is shown to a learner.

Chapter: index
Source: course
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

FEW = 16  # a tensor of more entries is compared in a message by one of them
SHOWN = 6  # entries of a row, and rows of a matrix, that a message shows


class Mismatch(Exception):
    """A property that does not hold, in words for the learner.

    Args:
        on: the input, small enough to check by hand.
        wanted: what the definition gives; empty where `on` says it all.
        got: what the learner's function gave.
        because: the mistake that gives just this, where it is a known one.
    """

    def __init__(
        self, on: str, wanted: Any = "", got: Any = "", because: str = ""
    ) -> None:
        super().__init__(on)
        self.on = on
        self.wanted = wanted if isinstance(wanted, str) else show(wanted)
        self.got = got if isinstance(got, str) else show(got)
        self.because = because


def same(got: Any, wanted: Any, tolerance: float = 1e-4) -> bool:
    """Equal in kind and shape, and every number near enough; NaN is near NaN."""
    if isinstance(wanted, dict):
        return got.keys() == wanted.keys() and all(
            same(got[name], wanted[name], tolerance) for name in wanted
        )
    if isinstance(wanted, tuple | list):
        if not isinstance(got, tuple | list) or len(got) != len(wanted):
            return False
        return all(same(a, b, tolerance) for a, b in zip(got, wanted, strict=True))
    if not isinstance(wanted, Tensor | int | float):
        return type(got) is type(wanted) and got == wanted
    return isinstance(got, Tensor | int | float) and close(got, wanted, tolerance)


def close(got: Any, wanted: Any, tolerance: float = 1e-4) -> bool:
    """Same shape, and every entry near enough; NaN is near NaN."""
    a, b = (numbers(x).cpu() for x in (got, wanted))
    if a.shape != b.shape:
        return False
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


def numbers(x: Any) -> Tensor:
    """A tensor or a number in float64, which keeps whole numbers up to 2^53."""
    return torch.as_tensor(x, dtype=torch.float64).detach()


def shape(x: Any) -> tuple[int, ...]:
    """The shape as a plain tuple; of a number, ()."""
    return tuple(x.shape) if isinstance(x, Tensor) else ()


def show(value: Any) -> str:
    """A value in as many characters as a person wants to read."""
    if isinstance(value, Tensor):
        return _show_tensor(value.detach().cpu())
    if isinstance(value, tuple | list):
        inner = ", ".join(show(one) for one in value)
        return f"({inner})" if isinstance(value, tuple) else f"[{inner}]"
    if isinstance(value, dict):
        return "\n".join(f"{name} {show(one)}".strip() for name, one in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _show_tensor(x: Tensor) -> str:
    if x.dim() == 0:
        number = x.item()
        return f"{number:.4g}" if isinstance(number, float) else str(number)
    inner = ", ".join(_show_tensor(row) for row in x[:SHOWN])
    return f"[{inner}{', …' if len(x) > SHOWN else ''}]"


def brief(value: Any) -> str:
    """An argument of a call: small tensors whole, constant and large ones in short."""
    if isinstance(value, torch.Generator):
        return "generator"
    if isinstance(value, torch.nn.Module | torch.optim.Optimizer):
        return type(value).__name__
    if is_dataclass(value):
        return f"{type(value).__name__}({', '.join(_own(value))})"
    if not isinstance(value, Tensor):
        return show(value)
    sizes = ", ".join(str(size) for size in value.shape)
    number = value.flatten()[0].item() if value.numel() > 4 else None
    if number is not None and bool((value == number).all()):
        name = {0: "zeros", 1: "ones"}.get(number)
        return f"{name}({sizes})" if name else f"full(({sizes}), {show(number)})"
    if value.numel() <= FEW:
        return show(value)
    return f"{str(value.dtype).removeprefix('torch.')} of shape ({sizes})"


def _own(config: Any) -> Iterator[str]:
    """The fields of a config that are not as they are by default."""
    for field in fields(config):
        value = getattr(config, field.name)
        if value != field.default:
            inner = brief(value) if is_dataclass(value) else repr(value)
            yield f"{field.name}={inner}"


def difference(got: Any, wanted: Any, tolerance: float = 1e-4) -> tuple[Any, Any, str]:
    """The first part in which two values differ: both, and the name of the part."""
    if isinstance(wanted, dict):
        for name in wanted:
            if not same(got[name], wanted[name], tolerance):
                return got[name], wanted[name], name
    return got, wanted, ""


def told(got: Any, wanted: Any, tolerance: float = 1e-4) -> tuple[str, str]:
    """How `wanted` and `got` are told apart: whole, by shape, or by one entry."""
    got, wanted, name = difference(got, wanted, tolerance)
    name = f"{name} " if name else ""
    if shape(got) != shape(wanted):
        pair = (f"{_small(x)}shape {shape(x)}" for x in (wanted, got))
    elif isinstance(wanted, Tensor) and wanted.numel() > FEW:
        pair = _worst_entry(wanted, got)
    else:
        pair = (x if isinstance(x, str) else show(x) for x in (wanted, got))
    return tuple(f"{name}{text}" for text in pair)


def _small(x: Any) -> str:
    return f"{show(x)}, " if not isinstance(x, Tensor) or x.numel() <= FEW else ""


def _worst_entry(wanted: Tensor, got: Tensor) -> tuple[str, str]:
    """Two large tensors by the entry in which they differ most."""
    gap = (wanted.double() - got.double()).abs().nan_to_num(torch.inf)
    at = tuple(int(i) for i in torch.unravel_index(gap.argmax(), gap.shape))
    return f"{show(wanted[at])} at {list(at)}", f"{show(got[at])} there"
