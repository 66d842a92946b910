"""Say what is one kernel on a GPU, for whoever counts kernels.

Chapter: 05_comm
Source: course

PyTorch on a CPU runs attention as six operations, and this course emulates an FP8
product with dozens. A GPU runs one kernel for either. So such code says which kernel it
stands for and what work that does; a listener charges it, and nothing that runs inside:

    with kernel("fprop", lambda: Work(flops, num_bytes, "fp8")):
        y = x @ w.T                # emulated: whatever it takes on a CPU

The backward pass of a `fused` function is one kernel as well. Autograd runs what was
done inside in reverse, one node after the other, so a node at either end of it marks
where that kernel begins and ends.

`replay.recorder` listens. Where nobody does, all of this costs one comparison a kernel.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

_PRECISIONS = {
    torch.float8_e4m3fn: "fp8",
    torch.float8_e5m2: "fp8",
    torch.bfloat16: "bf16",
    torch.float16: "bf16",  # tensor cores are as fast with either
    torch.float64: "fp64",
}


class Work(NamedTuple):
    """What one kernel does.

    Args:
        num_bytes: read and written in the GPU's memory; what stays on the chip between
            fused operations is not among them.
        precision: of the arithmetic, as `tape.Kernel` has it.
    """

    flops: int
    num_bytes: int
    precision: str


@runtime_checkable
class Listener(Protocol):
    """Is told where kernels begin and end; those inside another are not kernels."""

    def begin(self, name: str, work: Work | None) -> None:
        """A kernel begins; None: what only the emulation does, and no GPU."""

    def end(self) -> None:
        """What began last ends."""


# No thread's own: on CUDA, backward passes run in another.
_listener: Listener | None = None
_NOTHING = nullcontext()


def listening() -> bool:
    """Whether anybody counts kernels."""
    return _listener is not None


@contextmanager
def listen(listener: Listener) -> Iterator[None]:
    """Tell the listener of every kernel inside the `with`.

    Raises:
        RuntimeError: somebody listens already.
    """
    global _listener
    if _listener is not None:
        raise RuntimeError("a recording runs already: one at a time")
    _listener = listener
    try:
        yield
    finally:
        _listener = None


def kernel(name: str, work: Callable[[], Work]) -> AbstractContextManager[None]:
    """What runs inside the `with` is one kernel; its work is asked for if need be."""
    return _NOTHING if _listener is None else _told(_listener, name, work())


def emulation() -> AbstractContextManager[None]:
    """What runs inside the `with` only the emulation does, and no GPU."""
    return _NOTHING if _listener is None else _told(_listener, "", None)


@contextmanager
def _told(listener: Listener, name: str, work: Work | None) -> Iterator[None]:
    listener.begin(name, work)
    try:
        yield
    finally:
        listener.end()


def fused(name: str, count: Callable[..., tuple[Work, Work]]) -> Callable:
    """A function that is one kernel forward and one backward.

    Every tensor that it differentiates must be among its positional arguments, and its
    result a tensor. One that it uses twice it must make a view of first. Then its
    gradients are added to each other before any that come from outside, recorded or
    not, and recording changes no bit.

    Args:
        count: from the same arguments, the work of the forward and of the backward
            pass.
    """

    def decorate(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        @wraps(function)
        def call(*args: Any, **options: Any) -> Tensor:
            if _listener is None:
                return function(*args, **options)
            forward, backward = count(*args, **options)
            going = _Going()
            args = _mark_end(args, going)
            with _told(_listener, name, forward):
                y = function(*args, **options)
            return _Begin.apply(y, name, backward, going) if y.requires_grad else y

        return call

    return decorate


class _Going:
    """Whether a backward pass is inside the kernel now.

    A pipeline that splits a backward runs the node at the kernel's end a second time,
    for its weights alone: the kernel is through by then, and must not end twice.
    """

    inside = False


def _mark_end(args: tuple, going: _Going) -> tuple:
    """The same arguments, such that the backward pass ends the kernel before them."""
    tensors = [(n, x) for n, x in enumerate(args) if isinstance(x, Tensor)]
    wanted = [n for n, x in tensors if x.requires_grad]
    if not (wanted and torch.is_grad_enabled()):
        return args
    marked = _End.apply(going, *(args[n] for n in wanted))
    new = dict(zip(wanted, marked, strict=True))
    return tuple(new.get(n, x) for n, x in enumerate(args))


class _Begin(torch.autograd.Function):
    """The identity; going backward, a kernel begins here."""

    @staticmethod
    def forward(ctx, y, name, work, going):
        ctx.listener, ctx.name, ctx.work, ctx.going = _listener, name, work, going
        return y.view_as(y)

    @staticmethod
    def backward(ctx, grad):
        if ctx.listener is _listener:  # the same recording still runs
            _listener.begin(ctx.name, ctx.work)
            ctx.going.inside = True
        return grad, None, None, None


class _End(torch.autograd.Function):
    """The identity of several tensors; going backward, a kernel ends here."""

    @staticmethod
    def forward(ctx, going, *inputs):
        ctx.listener, ctx.going = _listener, going
        ctx.set_materialize_grads(False)
        return tuple(x.view_as(x) for x in inputs)

    @staticmethod
    def backward(ctx, *grads):
        if ctx.listener is _listener and ctx.going.inside:
            _listener.end()
            ctx.going.inside = False
        return None, *grads


def precision(dtype: torch.dtype | None) -> str:
    """In what precision a GPU computes with numbers of a dtype, as a tape has it."""
    return _PRECISIONS.get(dtype, "fp32")


def num_bytes(*tensors: Tensor) -> int:
    """Bytes of tensors; values that broadcasting repeats count once."""
    return sum(_own_bytes(x) for x in tensors)


def _own_bytes(x: Tensor) -> int:
    count = x.element_size()
    for size, stride in zip(x.shape, x.stride(), strict=True):
        count *= size if stride or not size else 1
    return count
