"""What a call did to its arguments: told in a worker, done again by the judge.

Chapter: appendix/teaching
Source: course
"""

from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from tiny_lm.course.grade.values import Malformed, Receiver, Sender


def snapshot(x: Any) -> Any:
    """What to compare an argument with afterwards."""
    if isinstance(x, Tensor):
        grad = x.grad if x.is_leaf else None
        grad = None if grad is None else grad.clone()
        return x.detach().clone(), grad, x.requires_grad
    if isinstance(x, nn.Module):
        return [snapshot(part) for part in _tensors(x).values()], _modes(x)
    if isinstance(x, list):  # lists of plain things may be taken apart
        return _plain(x)
    return None


def changes(sender: Sender, before: list[Any], arguments: tuple[Any, ...]) -> list:
    """What is other than before: the places of arguments, and what they are now."""
    found = []
    for place, (was, x) in enumerate(zip(before, arguments, strict=True)):
        if isinstance(x, Tensor):
            now = _tensor(sender, was, x)
        elif isinstance(x, nn.Module):
            parts = zip(_tensors(x).items(), was[0], strict=False)
            told = {name: _tensor(sender, old, part) for (name, part), old in parts}
            now = {name: one for name, one in told.items() if one}
            if _modes(x) != was[1]:
                now[""] = _modes(x)
        elif isinstance(x, Optimizer):
            now = sender.tree(x.state_dict())
        elif isinstance(x, Generator):
            now = _whole(sender, x.get_state())
        elif isinstance(x, list) and _plain(x) != was:
            now = sender.tree(x)
        else:
            now = None
        if now:
            found.append([place, now])
    return found


def redo(told: Any, arguments: tuple[Any, ...], receiver: Receiver) -> None:
    """Do to the judge's own arguments what was done to their copies.

    Raises:
        Malformed: no call does that.
    """
    try:
        for place, now in told:
            _redo(now, arguments[place], receiver)
    except (TypeError, ValueError, KeyError, IndexError, RuntimeError) as error:
        raise Malformed(f"no such change: {type(error).__name__}") from None


def _redo(now: Any, x: Any, receiver: Receiver) -> None:
    if isinstance(x, Tensor):
        _put(now, x, receiver)
    elif isinstance(x, nn.Module):
        parts = _tensors(x)
        for name, one in now.items():
            if name:
                _put(one, parts[name], receiver)
                continue
            for part, training in zip(x.modules(), one, strict=True):
                part.training = bool(training)
    elif isinstance(x, Optimizer):
        x.load_state_dict(receiver.value(now))
    elif isinstance(x, Generator):
        x.set_state(receiver.tensor(*now[1:]))
    elif isinstance(x, list):
        x[:] = receiver.value(now)


def _tensor(sender: Sender, was: tuple, x: Tensor) -> dict[str, Any] | None:
    value, grad, wants = was
    told: dict[str, Any] = {}
    if x.shape != value.shape or not _equal(x.detach(), value):
        told["value"] = _whole(sender, x.detach())
    now = x.grad if x.is_leaf else None
    if (now is None) != (grad is None):
        told["grad"] = None if now is None else _whole(sender, now)
    elif now is not None and not _equal(now, grad):
        told["grad"] = _whole(sender, now)
    if x.requires_grad != wants:
        told["wants"] = x.requires_grad
    return told or None


def _put(now: dict[str, Any], x: Tensor, receiver: Receiver) -> None:
    with torch.no_grad():
        if "value" in now:
            value = receiver.tensor(*now["value"][1:])
            if value.shape == x.shape and value.dtype == x.dtype:
                x.copy_(value)
            else:
                x.data = value
        if "grad" in now:
            grad = now["grad"]
            x.grad = None if grad is None else receiver.tensor(*grad[1:])
    if "wants" in now and x.is_leaf:
        x.requires_grad_(bool(now["wants"]))


def _whole(sender: Sender, x: Tensor) -> list:
    """A tensor with its bytes, whatever else it may be a view of."""
    return Sender.tensor(sender, x)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _modes(model: nn.Module) -> list[bool]:
    return [part.training for part in model.modules()]


def _plain(x: list) -> list:
    return [_plain(one) if isinstance(one, list) else one for one in x]


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if not a.numel():
        return True
    flat = (x.contiguous().reshape(-1).view(torch.uint8) for x in (a, b))
    return torch.equal(*flat)
