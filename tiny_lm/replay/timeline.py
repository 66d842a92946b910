"""When everything ran, and where the time of each rank went.

Chapter: 05_comm/emulated_time
Source: course

A rank's step splits into three parts that add up to it exactly:

    compute       at least one kernel runs
    exposed       no kernel runs, and bytes of this rank are under way
    bubble        no kernel runs and nothing is under way: the rank waits for others

*Exposed* asks only whether bytes move, not whether the next kernel needs these bytes.
Communication beside a kernel is *hidden*. It costs nothing here, though on a real chip
it takes processors and memory bandwidth from that kernel.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

KERNEL, COMM, WAIT = "kernel", "comm", "wait"


class Span(NamedTuple):
    """One bar of the picture.

    Args:
        kind: `kernel`; `comm`, bytes under way or held up by a busy port; `wait`, in a
            collective or a receive whose other ranks are not there yet.
    """

    rank: int
    stream: str
    name: str
    start_ps: int
    end_ps: int
    kind: str


class RankTime(NamedTuple):
    """Where one rank's step went; compute + exposed + bubble is the step."""

    rank: int
    compute_ps: int
    comm_ps: int  # under way, hidden or not
    exposed_ps: int
    bubble_ps: int

    @property
    def hidden_ps(self) -> int:
        """Communication that ran beside a kernel."""
        return self.comm_ps - self.exposed_ps


@dataclass(frozen=True)
class Timeline:
    """An emulated step: what ran when, on which machine.

    Args:
        machine: name of the machine that it was replayed on.
        spans: by rank, stream and start; those of a stream never overlap.
        step_ps: when the last stream of the last rank was through.
    """

    machine: str
    spans: tuple[Span, ...]
    step_ps: int

    def of(self, rank: int) -> tuple[Span, ...]:
        """The spans of one rank."""
        return tuple(span for span in self.spans if span.rank == rank)

    def summary(self) -> tuple[RankTime, ...]:
        """Where the time went, a row a rank, in rank order."""
        by_rank = groupby(self.spans, key=lambda span: span.rank)
        return tuple(self._rank_time(rank, tuple(spans)) for rank, spans in by_rank)

    def _rank_time(self, rank: int, spans: tuple[Span, ...]) -> RankTime:
        compute_ps = _length(union(spans, {KERNEL}))
        comm_ps = _length(union(spans, {COMM}))
        busy_ps = _length(union(spans, {KERNEL, COMM}))
        return RankTime(
            rank, compute_ps, comm_ps, busy_ps - compute_ps, self.step_ps - busy_ps
        )

    def __str__(self) -> str:
        """A table in microseconds, for the eye."""
        head = f"emulated on {self.machine}: {self.step_ps / 1e6:,.3f} µs"
        rows = [
            f"{'rank':>6}{'compute':>14}{'exposed':>14}{'hidden':>14}{'bubble':>14}"
        ]
        for row in self.summary():
            parts = row.compute_ps, row.exposed_ps, row.hidden_ps, row.bubble_ps
            rows.append(f"{row.rank:>6}" + "".join(f"{p / 1e6:>14,.3f}" for p in parts))
        return "\n".join([head, *rows])


def union(spans: Iterable[Span], kinds: set[str]) -> Iterator[tuple[int, int]]:
    """The times at which at least one span of these kinds runs, as disjoint pieces."""
    pieces = sorted((s.start_ps, s.end_ps) for s in spans if s.kind in kinds)
    if not pieces:
        return
    start, end = pieces[0]
    for next_start, next_end in pieces[1:]:
        if next_start > end:
            yield start, end
            start, end = next_start, next_end
        end = max(end, next_end)
    yield start, end


def _length(pieces: Iterable[tuple[int, int]]) -> int:
    return sum(end - start for start, end in pieces)
