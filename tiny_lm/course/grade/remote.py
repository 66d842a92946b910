"""What stands in a learner's process for a thing that stays with the judge.

Chapter: appendix/teaching
Source: course

A road, a layer or a group of ranks is not sent: whoever had it could write down what
never happened. A call of it is a question to the judge, who does it and keeps count.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Generator, Tensor

Ask = Callable[[int, str, tuple, dict], Any]
_ask: list[Ask] = []  # how a question travels, once there is somebody to ask


def ask_by(ask: Ask) -> None:
    """Say how questions travel in this process."""
    _ask[:] = [ask]


class Remote:
    """A thing of the judge's; its class has the name of the thing's."""

    def __init__(self, number: int, facts: dict[str, Any], text: str) -> None:
        self.__dict__.update(facts)
        self._number, self._text = number, text

    def __repr__(self) -> str:
        return self._text

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return _ask[0](self._number, "", arguments, named)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in type(self).asked:
            kind = type(self).__name__
            raise AttributeError(f"{kind!r} object has no attribute {name!r}")
        if name in type(self).fetched:
            return _ask[0](self._number, name, (), {})
        return lambda *given, **named: _ask[0](self._number, name, given, named)


def remote(
    number: int, kind: str, facts: dict, asked: tuple, fetched: tuple, text: str
) -> Remote:
    """Made where a message is opened."""
    made = type(kind, (Remote,), {"asked": {*asked, *fetched}, "fetched": {*fetched}})
    return made(number, facts, text)


def generator(state: Tensor) -> Generator:
    """A generator as the judge's stands."""
    made = Generator()
    made.set_state(state)
    return made


def wanting(values: Any) -> Iterator[Tensor]:
    """Tensors among the arguments that want a gradient, in order, on either side."""
    if isinstance(values, Tensor):
        if values.requires_grad:
            yield values
    elif isinstance(values, tuple | list):
        for one in values:
            yield from wanting(one)
    elif isinstance(values, dict):
        yield from wanting(list(values.values()))


def tensor(
    raw: bytes, dtype: torch.dtype, shape: tuple, stride: tuple, wants: bool
) -> Tensor:
    """A tensor from its bytes, laid out as the judge's was."""
    flat = torch.frombuffer(bytearray(raw), dtype=torch.uint8) if raw else None
    made = torch.empty(shape, dtype=dtype) if flat is None else flat.view(dtype)
    made = made.reshape(shape)
    if stride != made.stride():
        laid = torch.empty_strided(shape, stride, dtype=dtype)
        made = laid.copy_(made)
    return made.requires_grad_() if wants else made
