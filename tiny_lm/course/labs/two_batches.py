"""Layers of experts as their parts, for two micro-batches that may take turns.

Chapter: 05_comm/hiding
Source: deepseek_v3, section 3.2.1

    attend           attention and the router: computes
    start_dispatch   rows leave for their experts: gives what is under way
    experts          the experts of this rank, and the shared one: computes
    start_combine    results leave for their tokens: gives what is under way

`wait()` gives what has arrived. `dispatch` and `combine` start and wait at once.
A micro-batch knows where it is and refuses a part that is not its next, so what is left
to decide is the order of the calls. Every call is written down.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

NEXT = {  # where a micro-batch must be for a part, and where it is afterwards
    "attend": ("at its door", "attended"),
    "dispatch": ("attended", "with its experts"),
    "experts": ("with its experts", "through its experts"),
    "combine": ("through its experts", "at its door"),
}
COMPUTES = ("attend", "experts")
TRAVELS = ("dispatch", "combine")


class OutOfOrder(RuntimeError):
    """A part was asked for that is not a micro-batch's next."""


class Call(NamedTuple):
    """One call, as it was made: "wait" stands for the wait of a dispatch or combine."""

    part: str
    batch: str
    layer: int
    waits: bool = False

    def __str__(self) -> str:
        what = f"wait for {self.part}" if self.waits else self.part
        return f"{what} of {self.batch} in layer {self.layer}"


class Pending(Protocol):
    """What is under way; as `gpus.comm.Pending`."""

    def wait(self) -> Any: ...


class Parts(Protocol):
    """What the parts of a layer do with what a micro-batch holds."""

    def attend(self, held: Any) -> Any: ...

    def start_dispatch(self, held: Any) -> Pending: ...

    def experts(self, held: Any) -> Any: ...

    def start_combine(self, held: Any) -> Pending: ...


@dataclass(frozen=True)
class Batch:
    """A micro-batch on its way: its name, the layer it is in, and where there."""

    name: str
    held: Any = field(default=None, repr=False)
    layer: int = 0
    at: str = "at its door"

    def __str__(self) -> str:
        return f"{self.name}, {self.at} in layer {self.layer}"


class UnderWay:
    """A micro-batch that was sent; `wait()` gives it when it is here."""

    def __init__(self, call: Call, pending: Pending, calls: list[Call]) -> None:
        self.call = call
        self._pending: Pending | None = pending
        self._calls = calls

    def wait(self) -> Batch:
        """The micro-batch, once it is here.

        Raises:
            OutOfOrder: it was waited for before.
        """
        part, name, layer, _ = self.call
        if self._pending is None:
            raise OutOfOrder(
                f"the {part} of {name} in layer {layer} was waited for already: keep "
                "what the first wait() gave"
            )
        pending, self._pending = self._pending, None
        self._calls.append(Call(part, name, layer, waits=True))
        return Batch(name, pending.wait(), layer + (part == "combine"), NEXT[part][1])

    @property
    def open(self) -> bool:
        """Whether nobody waited for it yet."""
        return self._pending is not None


class Layer:
    """One layer: its parts, each for one micro-batch.

    Args:
        number: from 0.
        calls: where every call is written down.
    """

    def __init__(self, number: int, parts: Parts, calls: list[Call]) -> None:
        self.number = number
        self._parts, self._calls = parts, calls

    def attend(self, x: Batch) -> Batch:
        """Attention and the router."""
        return self._compute("attend", x)

    def experts(self, rows: Batch) -> Batch:
        """The experts of this rank read their rows, the shared one its tokens."""
        return self._compute("experts", rows)

    def start_dispatch(self, x: Batch) -> UnderWay:
        """Rows leave for their experts; go on at once."""
        return self._start("dispatch", x)

    def start_combine(self, rows: Batch) -> UnderWay:
        """What experts made leaves for its tokens; go on at once."""
        return self._start("combine", rows)

    def dispatch(self, x: Batch) -> Batch:
        """Rows leave for their experts, and nothing is done until all are there."""
        return self.start_dispatch(x).wait()

    def combine(self, rows: Batch) -> Batch:
        """Results leave for their tokens, and nothing is done until all are there."""
        return self.start_combine(rows).wait()

    def _compute(self, part: str, x: Batch) -> Batch:
        self._check(part, x)
        held = getattr(self._parts, part)(x.held)
        return Batch(x.name, held, x.layer, NEXT[part][1])

    def _start(self, part: str, x: Batch) -> UnderWay:
        call = self._check(part, x)
        pending = getattr(self._parts, f"start_{part}")(x.held)
        return UnderWay(call, pending, self._calls)

    def _check(self, part: str, x: Batch) -> Call:
        """Write the call down.

        Raises:
            OutOfOrder: it is not what comes next for this micro-batch.
        """
        here = f"{part} in layer {self.number}"
        if isinstance(x, UnderWay):
            _, name, layer, _ = x.call
            raise OutOfOrder(
                f"{here}: {name} is still under way, in the {x.call.part} of layer "
                f"{layer}"
            )
        if not isinstance(x, Batch):
            raise OutOfOrder(f"{here}: {type(x).__name__} is no micro-batch")
        if (x.at, x.layer) != (NEXT[part][0], self.number):
            raise OutOfOrder(f"{here}: not next for {x}")
        call = Call(part, x.name, self.number)
        self._calls.append(call)
        return call


class _Nothing:
    """The parts of a layer that only exists on paper."""

    def attend(self, held: Any) -> Any:
        return held

    experts = attend

    def start_dispatch(self, held: Any) -> Pending:
        return self

    start_combine = start_dispatch

    def wait(self) -> Any:
        return None


def on_paper(num_layers: int) -> tuple[list[Layer], Batch, Batch, list[Call]]:
    """Layers without numbers, two micro-batches, and the list of calls to come."""
    calls: list[Call] = []
    layers = [Layer(number, _Nothing(), calls) for number in range(num_layers)]
    return layers, Batch("a"), Batch("b"), calls


def in_turn(layers: Sequence[Layer], a: Batch, b: Batch) -> tuple[Batch, Batch]:
    """The plain order: each micro-batch waits for all that it sends."""
    for layer in layers:
        a = layer.combine(layer.experts(layer.dispatch(layer.attend(a))))
        b = layer.combine(layer.experts(layer.dispatch(layer.attend(b))))
    return a, b
