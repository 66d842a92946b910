"""A learner's function as a check sees it: it is called here and runs elsewhere.

Chapter: appendix/teaching
Source: course
"""

import builtins
import contextlib
import math
import random
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
import torch
from torch import Tensor
from torch.utils._python_dispatch import (
    _disable_current_modes,
    _get_current_dispatch_mode_stack,
)

from tiny_lm.course.checks.comm.patience import ENDLESS
from tiny_lm.course.checks.work import Work
from tiny_lm.course.grade import after, remote
from tiny_lm.course.grade.channel import Gone
from tiny_lm.course.grade.session import CALL_S, Session
from tiny_lm.course.grade.values import Malformed, Receiver, Sender

DISORDER = (KeyError, TypeError, ValueError, IndexError, RuntimeError, AttributeError)


class Distant:
    """A function that runs in a worker.

    Args:
        number: by which the worker knows it; 0 is the one that is checked.
    """

    distant = True

    def __init__(self, session: Session, number: int, name: str) -> None:
        self.session, self.number, self.__name__ = session, number, name

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns there.

        Raises:
            Exception: of the name and text of what it raised there.
            Gone: the worker did not answer, or not with a value.
        """
        counting = [
            m for m in _get_current_dispatch_mode_stack() if isinstance(m, Work)
        ]
        grad = torch.is_grad_enabled()
        with _disable_current_modes():
            reply, came = self._asked(arguments, bool(counting), grad)
            try:
                value, error = self._opened(reply, came, arguments, counting)
            except (Malformed, *DISORDER):
                raise Gone("malformed") from None
        if isinstance(error, TimeoutError) and str(error) == ENDLESS:
            raise Gone("timeout")
        if error is not None:
            raise error
        return value

    def _asked(
        self, arguments: tuple, counted: bool, grad: bool
    ) -> tuple[dict[str, Any], list[bytes]]:
        session = self.session
        session.graphs += 1
        head = {"kind": "call", "function": self.number, "graph": session.graphs}
        head |= {"grad": grad, "work": counted}
        head["cpu"] = max(0.1, min(CALL_S, session.until - time.monotonic()))
        sent = cloudpickle.dumps(session.outgoing(arguments))
        state = torch.default_generator.get_state().numpy().tobytes()
        return session.exchange(head, [sent, state])

    def _opened(
        self, reply: dict, came: list[bytes], arguments: tuple, counting: list[Work]
    ) -> tuple[Any, BaseException | None]:
        """The value, or the error; what else the call did is done here, too."""
        session, graph = self.session, self.session.graphs
        receiver = Results(came, session.special, arguments)
        after.redo(reply["after"], arguments, receiver)
        _mimic(reply["settings"], came[-1])
        print(str(reply["printed"])[:20_000], end="")
        for mode in counting:
            _count(mode, reply["work"])
        if reply["kind"] == "error":
            return None, self._raised(reply)
        return self._differentiable(receiver, reply["value"], arguments, graph), None

    def _raised(self, reply: dict[str, Any]) -> BaseException:
        """The error, as the check would have seen it."""
        name, text = str(reply.get("name"))[:80], str(reply.get("text"))[:4000]
        last = self.session.last
        if last is not None and (type(last).__name__, str(last)) == (name, text):
            return last
        kind = getattr(builtins, name, None)
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            kind = type(name if name.isidentifier() else "Error", (Exception,), {})
        try:
            error = kind(text)
        except TypeError:  # UnicodeDecodeError and its like want more than a text
            error = type(name, (Exception,), {})(text)
        error.where = str(reply.get("where"))[:1000]
        return error

    def _differentiable(
        self, receiver: "Results", tree: Any, arguments: tuple, graph: int
    ) -> Any:
        """The result, with a way back to the arguments that want a gradient."""
        value = receiver.value(tree)
        if not receiver.wanted:
            return value
        inputs = list(remote.wanting(list(arguments)))
        if inputs and torch.is_grad_enabled():
            linked = _Back.apply(self.session, graph, receiver.wanted, *inputs)
        else:
            linked = tuple(x.detach().requires_grad_() for x in receiver.wanted)
        return receiver.again(linked).value(tree)


class Results(Receiver):
    """Opens results: views of arguments, and tensors that want a gradient.

    Args:
        arguments: of the call, as they are after it.
    """

    def __init__(self, blobs: list[bytes], special: Callable, arguments: tuple) -> None:
        super().__init__(blobs, special)
        self.arguments = arguments
        self.wanted: list[Tensor] = []
        self.linked: Iterator[Tensor] | None = None

    def again(self, linked: tuple[Tensor, ...]) -> "Results":
        """The same once more, with these for the tensors that want a gradient."""
        again = Results(self.blobs, self.special, self.arguments)
        again.linked = iter(linked)
        return again

    def _built(self, kind: str, rest: list, depth: int) -> Any:
        if kind == "v":
            return self._view(*rest)
        return super()._built(kind, rest, depth)

    def _view(self, place: int, *laid: Any) -> Tensor:
        x = self.arguments[place]
        if not isinstance(x, Tensor):
            raise Malformed("no view of a tensor")
        if not laid:
            return x
        start, shape, stride = laid
        if any(type(n) is not int or n < 0 for n in (*shape, *stride)):
            raise Malformed("no such view")
        if math.prod(shape) > 64 * max(1, x.numel()):
            raise Malformed("a view without end")
        return x.detach().as_strided(shape, stride, x.storage_offset() + start)

    def tensor(self, place: int, dtype: str, shape: list[int], wants: bool) -> Tensor:
        if not wants:
            return super().tensor(place, dtype, shape, False)
        if self.linked is not None:
            return next(self.linked)
        self.wanted.append(super().tensor(place, dtype, shape, False))
        return self.wanted[-1]


class _Back(torch.autograd.Function):
    """A result whose gradients are asked for where it was made."""

    @staticmethod
    def forward(ctx: Any, session: Session, graph: int, made: list, *inputs: Tensor):
        ctx.session, ctx.graph = session, graph
        ctx.set_materialize_grads(False)
        return tuple(made)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None):
        session = ctx.session
        sender = Sender(lambda x: None)
        head = {"kind": "back", "graph": ctx.graph, "cpu": CALL_S}
        head["grads"] = sender.tree(list(grads))
        reply, came = session.exchange(head, sender.blobs)
        if reply.get("kind") == "error":
            raise Distant(session, 0, "")._raised(reply)
        try:
            found = Receiver(came).value(reply["value"])
        except (Malformed, KeyError):
            raise Gone("malformed") from None
        if not isinstance(found, list) or len(found) != len(ctx.needs_input_grad) - 3:
            raise Gone("malformed")
        return None, None, None, *found


def _mimic(changed: Any, state: bytes) -> None:
    """Change here what was changed there: the guard around the call will see it."""
    torch.default_generator.set_state(
        torch.frombuffer(bytearray(state), dtype=torch.uint8)
    )
    changed = changed if isinstance(changed, list) else []
    if "Python's random numbers" in changed:
        random.random()
    if "numpy's random numbers" in changed and "numpy" in sys.modules:
        sys.modules["numpy"].random.random()
    if "the default dtype" in changed:
        torch.set_default_dtype(torch.float64)
    if "gradients switched on" in changed:
        torch.set_grad_enabled(not torch.is_grad_enabled())


def _count(mode: Work, told: Any) -> None:
    with contextlib.suppress(TypeError, ValueError):
        calls, flops, largest = (int(n) for n in told)
        mode.calls += calls
        mode.flops += flops
        mode.largest = max(mode.largest, largest)
