"""Record what a rank does, as a tape: every kernel, every collective, every wait.

Chapter: 05_comm/emulated_time
Source: course

    with recording(rank, model) as recorder:
        train_step(…)
    tape = recorder.tape()

Three sources fill a tape. PyTorch shows each operation before it runs, forward and
backward, and `operations` says what it costs. `kernels` tells of those that are fused
on a GPU: attention, norms, FP8 products. `comm` tells of collectives.

A collective starts when the kernels before it are through, and the kernels after the
wait for it wait for it: an event of the compute stream that the comm stream waits for,
and one back. Where a call is synchronous, start and wait are one.

Names begin with the module of the model in which the work was asked for. The backward
pass knows it, too: autograd numbers its nodes as the forward pass makes them.

Tapes hold whole numbers, no times and no addresses. So the same step from the same
state gives the same tape, bit for bit. One thing is left to chance: a parameter whose
gradient comes straight from a collective may get a copy of it, or the thing itself, by
whether the wire's thread has let go of it yet. No such parameter is in `tiny_lm`.
"""

from bisect import bisect
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tiny_lm import kernels
from tiny_lm.kernels import Work
from tiny_lm.replay import operations
from tiny_lm.replay.tape import (
    COMM,
    COMPUTE,
    Collective,
    Kernel,
    Mark,
    Receive,
    Record,
    Send,
    Tape,
    Wait,
)

_recorder: "Recorder | None" = None


@contextmanager
def recording(rank: int, model: nn.Module | None = None) -> Iterator["Recorder"]:
    """Record what this process does inside the `with`, backward passes included.

    All ranks of a group must start at the same call, for calls are numbered from here.

    Args:
        rank: in the world, as it stands on the tape.
        model: whose modules give kernels their names; without it they have short ones.

    Raises:
        RuntimeError: a recording runs already.
    """
    global _recorder
    recorder = Recorder(rank)
    with ExitStack() as stack:
        stack.enter_context(kernels.listen(recorder))
        for name, module in model.named_modules() if model else ():
            stack.enter_context(recorder.names.follow(name, module))
        _recorder = recorder
        try:
            with recorder:
                yield recorder
        finally:
            _recorder = None


def active() -> "Recorder | None":
    """The recorder of this process, where it records."""
    return _recorder


def inside(module: nn.Module, backward: bool = False) -> AbstractContextManager[None]:
    """What is recorded in the `with` is named after a module of the recorded model.

    For work that is cut out of a module's forward pass, or of its backward pass: calls
    of modules, and what autograd runs, have their names without it.
    """
    recorder = active()
    return recorder.names.inside(module, backward) if recorder else nullcontext()


class Recorder(TorchDispatchMode):
    """Fills the tape of one rank."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.names = _Names()
        self._rank = rank
        self._records: list[Record] = []
        self._inside = 0  # how many kernels we are inside of; inside, nothing counts
        self._calls: Counter[Hashable] = Counter()
        self._events = 0
        self._counters: dict[Any, operations.Counter | None] = {}

    def tape(self) -> Tape:
        """What was recorded so far."""
        return Tape(self._rank, tuple(self._records))

    def begin(self, name: str, work: Work | None) -> None:
        """Charge a fused kernel; until it ends, what runs inside it is free."""
        if work is not None and not self._inside:
            self._charge(name, work)
        self._inside += 1

    def end(self) -> None:
        """The end of what began last."""
        self._inside -= 1

    @contextmanager
    def collective(
        self,
        name: str,
        kind: str,
        num_bytes: Sequence[int],
        group: tuple[int, ...],
        root: int | None = None,
    ) -> Iterator[None]:
        """A collective runs inside the `with`; arguments are those of the record."""
        with self.start(name, kind, num_bytes, group, root) as event:
            self.wait(event)
            yield

    @contextmanager
    def start(
        self,
        name: str,
        kind: str,
        num_bytes: Sequence[int],
        group: tuple[int, ...],
        root: int | None = None,
    ) -> Iterator[int]:
        """A collective is started inside the `with`; gives the event to `wait` for."""
        name, sizes = self.names.full(name), tuple(num_bytes)
        call = Collective(name, kind, sizes, group, self._next(group), COMM, root)
        with self._under_way(call) as event:
            yield event

    @contextmanager
    def message(self, end: str, peer: int, num_bytes: int) -> Iterator[None]:
        """A message passes inside the `with`; `end` is "send" or "receive"."""
        kind = {"send": Send, "receive": Receive}[end]
        number, name = self._next((end, peer)), self.names.full(end)
        record = kind(name, peer, num_bytes, number, COMM)
        with self._under_way(record) as event:
            self.wait(event)
            yield

    def _next(self, line: Hashable) -> int:
        """Number of a call among those of its group, or of a message to its peer."""
        self._calls[line] += 1
        return self._calls[line] - 1

    @contextmanager
    def _under_way(self, record: Record) -> Iterator[int]:
        """On the comm stream, after what was computed so far; gives its event."""
        self._records.append(Wait(self._mark(COMPUTE), COMM))
        self._records.append(record)
        self._inside += 1
        try:
            yield self._mark(COMM)
        finally:
            self._inside -= 1

    def wait(self, event: int) -> None:
        """What is computed from here on needs what happened there."""
        self._records.append(Wait(event, COMPUTE))

    def send(self, name: str, peer: int, num_bytes: int, sequence: int) -> None:
        """A message leaves once what was computed so far is there.

        Args:
            peer: the world's rank that gets it.
            sequence: a number that names it at both ends.
        """
        self._records.append(Wait(self._mark(COMPUTE), COMM))
        self._records.append(Send(self.names.full(name), peer, num_bytes, sequence))

    def receive(self, name: str, peer: int, num_bytes: int, sequence: int) -> None:
        """What is computed from here on needs a message; arguments as in `send`."""
        name = self.names.full(name)
        self._records.append(Receive(name, peer, num_bytes, sequence, COMPUTE))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self._inside:
            if func not in self._counters:
                self._counters[func] = operations.counter(func)
            if count := self._counters[func]:
                work = count(func, args, kwargs, result)
                self._charge(func.overloadpacket.__name__, work)
        return result

    def _charge(self, name: str, work: Work) -> None:
        if work.flops or work.num_bytes:  # PyTorch launches nothing for no numbers
            self._records.append(Kernel(self.names.full(name), *work, COMPUTE))

    def _mark(self, stream: str) -> int:
        """An event: what came last on the stream is through."""
        self._records.append(Mark(self._events, stream))
        self._events += 1
        return self._events - 1


class _Names:
    """Where in the model we are, forward by its modules, backward by autograd."""

    def __init__(self) -> None:
        self._known: dict[nn.Module, str] = {}
        self._stack = [("", False)]  # module, and whether we go back
        self._starts = [0]  # number of the first autograd node …
        self._modules = [""]  # … that was made in this module

    @contextmanager
    def follow(self, name: str, module: nn.Module) -> Iterator[None]:
        """Notice whenever the module begins and ends its forward pass."""
        self._known[module] = name
        first = module.register_forward_pre_hook(lambda *_: self._enter(name))
        last = module.register_forward_hook(self._leave, always_call=True)
        try:
            yield
        finally:
            first.remove()
            last.remove()

    @contextmanager
    def inside(self, module: nn.Module, backward: bool) -> Iterator[None]:
        """Be in the module until the `with` ends."""
        self._enter(self._known.get(module, ""), backward)
        try:
            yield
        finally:
            self._leave()

    def full(self, name: str) -> str:
        """The name with its module before it, and behind it whether we go back."""
        node = torch._C._current_autograd_node()
        module, backward = self._stack[-1]
        if node is not None:
            # What adds up a parameter's gradient has the last number of all: no module.
            place = bisect(self._starts, node._sequence_nr()) - 1
            module, backward = self._modules[place], True
        return f"{module} {name}{' backward' if backward else ''}".strip()

    def _enter(self, name: str, backward: bool = False) -> None:
        self._stack.append((name, backward))
        self._note()

    def _leave(self, *_: Any) -> None:
        self._stack.pop()
        self._note()

    def _note(self) -> None:
        self._starts.append(torch.autograd._get_sequence_nr())
        self._modules.append(self._stack[-1][0])
