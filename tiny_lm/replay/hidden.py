"""How much of the exchanges between experts a step hides, and how much it could.

Chapter: 05_comm/hiding
Source: course

A rank computes for K and its exchanges take C. Of C at most what runs beside a kernel
is hidden. Two stretches of K have nothing beside them in any order of the same work:
the first, before there is a row to send, and the last, when nothing is left to fetch.
So of C at least

    max(0, C - (K - first - last))

is exposed, on each rank. No order with these ends beats that. Most stay above it: an
exchange can run beside a kernel only if neither waits for the other, and forward passes
have less to compute for each byte than backward passes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import NamedTuple

from tiny_lm.hardware import Machine
from tiny_lm.replay.prices import Prices
from tiny_lm.replay.simulation import replay
from tiny_lm.replay.tape import Collective, Kernel, Tape, Wait
from tiny_lm.replay.timeline import COMM, KERNEL, Span, Timeline, union

PS_PER_MS = 10**9


class Hiding(NamedTuple):
    """Of one step on one machine; means over ranks, in milliseconds.

    Args:
        exchange_ms: exchanges under way, hidden or not.
        exposed_ms: of these, beside no kernel.
        bound_ms: what is exposed in any order of the same work.
        step_ms: the whole step.
    """

    exchange_ms: float
    exposed_ms: float
    bound_ms: float
    step_ms: float

    @property
    def share(self) -> float:
        """Of the exchanges, how much is hidden: the score."""
        return 1 - self.exposed_ms / self.exchange_ms


def hiding(tapes: Sequence[Tape], machine: Machine, hops: str = "pipelined") -> Hiding:
    """Replay a step, and look at its exchanges.

    Args:
        hops: as of `replay`; an answer needs both.
    """
    timeline = replay(tapes, machine, hops=hops)
    ranks = [_of_rank(timeline, tape, Prices(machine)) for tape in tapes]
    means = (fmean(column) / PS_PER_MS for column in zip(*ranks, strict=True))
    return Hiding(*means, timeline.step_ps / PS_PER_MS)


def slower_links(machine: Machine, by: float) -> Machine:
    """The machine with links that take so many times as long for a byte.

    Raises:
        ValueError: `by` is not positive.
    """
    if not by > 0:
        raise ValueError(f"links cannot be {by} times as slow")
    return replace(
        machine,
        name=f"{machine.name}, links {by:g} times as slow",
        nvlink_bytes_per_s=machine.nvlink_bytes_per_s / by,
        network_bytes_per_s=machine.network_bytes_per_s / by,
    )


def sweep(
    tapes: Sequence[Tape],
    machine: Machine,
    ratios: Iterable[float],
    hops: str = "pipelined",
) -> dict[float, Hiding]:
    """The same step where communication takes so many times what it does here."""
    return {by: hiding(tapes, slower_links(machine, by), hops) for by in ratios}


def is_exchange(name: str) -> bool:
    """Whether a span or a call of that name moves rows to experts, back, or counts."""
    return "all_to_all" in name or "counts" in name


def _of_rank(
    timeline: Timeline, tape: Tape, prices: Prices
) -> tuple[float, float, float]:
    """Exchanges, exposed, bound; in picoseconds."""
    spans = timeline.of(tape.rank)
    kernels = [span for span in spans if span.kind == KERNEL]
    moving = [span for span in spans if span.kind == COMM and is_exchange(span.name)]
    compute, exchange = _length(kernels), _length(moving)
    exposed = _length([*kernels, *moving]) - compute
    alone = _alone_ps(tape, prices)
    return exchange, exposed, max(0, exchange - (compute - alone))


def _alone_ps(tape: Tape, prices: Prices) -> int:
    """Kernels before the first exchange, and after the last that is waited for."""
    records = tape.records
    calls = [
        place
        for place, record in enumerate(records)
        if isinstance(record, Collective) and is_exchange(record.name)
    ]
    if not calls:
        return 0
    done = {records[place + 1].event for place in calls}  # the mark behind each
    last = max(
        place
        for place, record in enumerate(records)
        if isinstance(record, Wait) and record.event in done
    )
    ends = [*records[: calls[0]], *records[last:]]
    return sum(
        prices.kernel_ps(record.flops, record.num_bytes, record.precision)
        for record in ends
        if isinstance(record, Kernel)
    )


def _length(spans: Iterable[Span]) -> int:
    pieces = union(spans, {KERNEL, COMM})
    return sum(end - start for start, end in pieces)
