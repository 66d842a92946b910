"""Count the bytes that a rank sends.

Chapter: 05_comm/emulated_gpus
Source: collective_cost

One convention, whatever an implementation does: each value goes from the rank that has
it straight to the ranks that need it, and nothing is counted that stays. An all-reduce
is a reduce-scatter followed by an all-gather. With n bytes in the argument and p ranks,
one rank sends

    all_reduce        2 (p - 1) / p * n     (a ring sends exactly as much)
    all_gather        (p - 1) * n
    reduce_scatter    (p - 1) / p * n
    broadcast         (p - 1) * n at the source, else 0
    reduce            n, and 0 at the target
    all_to_all        its rows for other ranks
    send              n; a receive sends nothing
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(eq=False)  # two meters with the same counts are still two
class Meter:
    """What this rank sent to other ranks, by kind of collective."""

    num_bytes: Counter[str] = field(default_factory=Counter)
    calls: Counter[str] = field(default_factory=Counter)

    @property
    def total_bytes(self) -> int:
        """Bytes sent, over all kinds."""
        return self.num_bytes.total()


# Those that are counting now. No thread's own: on CUDA, backward passes run in another.
_METERS: list[Meter] = []


@contextmanager
def metering() -> Iterator[Meter]:
    """Count what this rank sends inside the `with`, backward passes included."""
    meter = Meter()
    _METERS.append(meter)
    try:
        yield meter
    finally:
        _METERS.remove(meter)


def count(kind: str, num_bytes: int) -> None:
    """Add one call to every meter that is counting."""
    for meter in _METERS:
        meter.calls[kind] += 1
        meter.num_bytes[kind] += num_bytes
