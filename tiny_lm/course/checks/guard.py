"""What a call may not leave behind: changed arguments, and changed global settings.

Chapter: index
Source: course

Arguments are compared by value: a write through numpy or `.data` raises no version.
"""

import random
import sys
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

Change = tuple[str, str, str]  # wanted, got, because

IN_PLACE = (
    "An operation in place (`x += …`, `x[…] = …`, a name that ends in `_`, a write "
    "through `.data` or numpy) wrote into what the caller handed over. Work on a new "
    "tensor."
)
GRAD = (
    "backward() inside this function left gradients with what the caller handed over. "
    "Who asked for the result decides about gradients."
)
WANTS = "requires_grad was switched on something that belongs to the caller."
MODE = (
    "model.eval(), model.train() and requires_grad_() stay in force after this call: "
    "leave the model as it came."
)
SEED = (
    "Global random numbers were seeded, or Python's and numpy's drawn: every later "
    "cell then draws others. Use the generator that is handed over, or none."
)
SETTING = "This holds for everything that runs afterwards. Put it back, or leave it."


def _tensor(x: Tensor) -> dict[str, Any]:
    grad = None if not x.is_leaf or x.grad is None else x.grad.clone()
    return {"value": x.detach().clone(), "grad": grad, "wants": x.requires_grad}


def _module(model: nn.Module) -> tuple[list[bool], list[bool]]:
    training = [part.training for part in model.modules()]
    return training, [weight.requires_grad for weight in model.parameters()]


def settings() -> dict[str, Any]:
    found = {
        "the seed of torch's random numbers": torch.initial_seed(),
        "Python's random numbers": random.getstate(),
        "the default dtype": torch.get_default_dtype(),
        "gradients switched on": torch.is_grad_enabled(),
    }
    if "numpy" in sys.modules:
        name, keys, *rest = sys.modules["numpy"].random.get_state()
        found["numpy's random numbers"] = (name, keys.tobytes(), *rest)
    return found


def restore(settings: dict[str, Any]) -> None:
    torch.set_default_dtype(settings["the default dtype"])
    torch.set_grad_enabled(settings["gradients switched on"])
    random.setstate(settings["Python's random numbers"])
    if "numpy's random numbers" in settings:
        numpy = sys.modules["numpy"]
        name, keys, *rest = settings["numpy's random numbers"]
        keys = numpy.frombuffer(keys, dtype=numpy.uint32)
        numpy.random.set_state((name, keys, *rest))


class Guard:
    """Remembers arguments and settings before a call, and finds what changed.

    Args:
        writes: places of the arguments that are there to be written into.
    """

    def __init__(
        self, arguments: tuple[Any, ...], writes: Collection[int] = ()
    ) -> None:
        self.settings = settings()
        self.tensors = {
            i: _tensor(x)
            for i, x in enumerate(arguments)
            if isinstance(x, Tensor) and i not in writes
        }
        self.modules = {
            i: _module(x) for i, x in enumerate(arguments) if isinstance(x, nn.Module)
        }

    def changed(self, arguments: tuple[Any, ...]) -> Change | None:
        """The first change, or nothing; settings are put back."""
        for i, before in self.tensors.items():
            change = _changed_tensor(before, arguments[i])
            if change:
                return change
        for i, before in self.modules.items():
            if _module(arguments[i]) != before:
                return "a model as it was", "one in another mode", MODE
        now = settings()
        other = [name for name, value in self.settings.items() if now[name] != value]
        if not other:
            return None
        restore(self.settings)
        because = SEED if "random" in other[0] else SETTING
        return f"{other[0]} as before the call", "changed", because


def _changed_tensor(before: dict[str, Any], x: Tensor) -> Change | None:
    value, now = before["value"], x.detach()
    if value.shape != now.shape or not _equal(value, now):
        return "arguments as they were", "a changed argument", IN_PLACE
    if x.requires_grad != before["wants"]:
        return "arguments as they were", "one that wants a gradient", WANTS
    grad = x.grad if x.is_leaf else None
    if (grad is None) != (before["grad"] is None):
        return "arguments as they were", "one with a gradient", GRAD
    return None


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.is_floating_point() and a.element_size() == 1:  # torch compares no codes
        a, b = a.float(), b.float()
    return torch.equal(a, b) or bool(((a == b) | ((a != a) & (b != b))).all())
