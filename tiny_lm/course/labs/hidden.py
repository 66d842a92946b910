"""What an order of calls hides on the scaled twin, and what its longest gap waits for.

Chapter: 05_comm/hiding
Source: course

A call's records are the same in whatever order the calls are made. So from one recorded
run the tapes of any other order can be put together.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from tiny_lm.course.labs.mixture_layers import Ran
from tiny_lm.course.labs.two_batches import COMPUTES, Call
from tiny_lm.hardware import Machine
from tiny_lm.replay import specs
from tiny_lm.replay.simulation import replay
from tiny_lm.replay.tape import Collective, Kernel, Record, Tape
from tiny_lm.replay.timeline import COMM, KERNEL, Span, Timeline

PS_PER_MS = 10**9
SMALL = 100  # a gap is worth a word if so many of them are longer than the step


def tapes(ran: Sequence[Ran]) -> list[Tape]:
    """What each rank did, as it was recorded."""
    return [_tape(rank, one.calls, one.pieces) for rank, one in enumerate(ran)]


def reordered(ran: Sequence[Ran], calls: Sequence[Call]) -> list[Tape]:
    """What each rank would have done in another order of the same calls."""
    found = []
    for rank, one in enumerate(ran):
        by_call = dict(zip(one.calls, one.pieces, strict=True))
        found.append(_tape(rank, calls, [by_call[call] for call in calls]))
    return found


def _tape(rank: int, calls: Sequence[Call], pieces: Sequence[Sequence[Record]]) -> Tape:
    """One after the other: records named by their call, collectives numbered anew."""
    records: list[Record] = []
    numbers: Counter[tuple[int, ...]] = Counter()
    for call, piece in zip(calls, pieces, strict=True):
        for record in piece:
            if isinstance(record, Collective):
                record = record._replace(sequence=numbers[record.group])
                numbers[record.group] += 1
            if isinstance(record, Kernel | Collective):
                record = record._replace(name=label(call))
            records.append(record)
    return Tape(rank, tuple(records))


def label(call: Call) -> str:
    """The name of a call's records: micro-batch, part, layer."""
    part = (
        {"dispatch": "unpack", "combine": "add"}[call.part] if call.waits else call.part
    )
    return f"{call.batch} {part} {call.layer}"


def one_to_one(tapes: Iterable[Tape]) -> Machine:
    """The scaled twin, with links on which this run sends as long as it computes."""
    twin = specs.machines()["scaled_twin"]
    ranks = replay(tapes, twin).summary()
    faster = sum(r.comm_ps for r in ranks) / sum(r.compute_ps for r in ranks)
    return replace(
        twin,
        name="scaled twin, compute : communication 1 : 1",
        nvlink_bytes_per_s=faster * twin.nvlink_bytes_per_s,
        network_bytes_per_s=faster * twin.network_bytes_per_s,
    )


def with_links(machine: Machine, times: float) -> Machine:
    """The machine with links so many times as fast."""
    return replace(
        machine,
        name=f"{machine.name}, links x {times:g}",
        nvlink_bytes_per_s=times * machine.nvlink_bytes_per_s,
        network_bytes_per_s=times * machine.network_bytes_per_s,
    )


def least_ps(timeline: Timeline) -> int:
    """What no order of the same calls can be below: all work, or all trips, of a rank.

    Args:
        timeline: of the plain order, in which no trip has to queue.
    """
    return max(max(time.compute_ps, time.comm_ps) for time in timeline.summary())


def share_hidden(timeline: Timeline) -> float:
    """Of the time in which bytes are under way, the part beside a kernel."""
    ranks = timeline.summary()
    return sum(r.hidden_ps for r in ranks) / sum(r.comm_ps for r in ranks)


def bars(timeline: Timeline, rank: int) -> list[Span]:
    """A rank's spans, with all that it computes between two trips as one."""
    found: list[Span] = []
    for span in timeline.of(rank):
        if span.kind == KERNEL:
            span = span._replace(name=_stretch(span.name))
        last = found[-1] if found else None
        if last and _continues(last, span):
            found[-1] = last._replace(end_ps=span.end_ps)
        else:
            found.append(span)
    return found


def _stretch(name: str) -> str:
    """What stands between two trips, by its main part."""
    batch, part, layer = name.split()
    if part in ("unpack", "experts", "combine"):
        return f"{batch} experts {layer}"
    return f"{batch} attend {int(layer) + (part == 'add')}"


def _continues(last: Span, span: Span) -> bool:
    same = (last.stream, last.kind, last.name) == (span.stream, span.kind, span.name)
    return same and span.kind == KERNEL and last.end_ps == span.start_ps


@dataclass(frozen=True)
class Gap:
    """A time in which a rank has nothing to compute.

    Args:
        trip: what is under way meanwhile, by name.
        idle: what could have run in it, by name; or nothing.
        late: whether the trip could have begun earlier.
    """

    rank: int
    start_ps: int
    end_ps: int
    trip: str
    idle: str
    late: bool

    @property
    def length_ps(self) -> int:
        return self.end_ps - self.start_ps

    def __str__(self) -> str:
        length = f"{self.length_ps / PS_PER_MS:.1f} ms"
        lines = [f"Longest gap: rank {self.rank} computes nothing for {length},"]
        lines.append(f"while {_called(self.trip)} is under way.")
        if self.idle:
            lines.append(f"{_called(self.idle)} could have run in it, but in this")
            lines.append("order it stands behind that wait.")
        elif self.late:
            lines.append("It could have left earlier: other work stands before it.")
        else:
            lines.append("Nothing was ready: both micro-batches were under way.")
        return "\n".join(lines)


def _called(name: str) -> str:
    batch, part, layer = name.split()
    return f"`{part}` of {batch} in layer {layer}"


def longest_gap(timeline: Timeline, calls: Sequence[Call]) -> Gap | None:
    """The longest in which something could have run, else the longest of all.

    What follows a rank's last attend or experts is no gap: nothing is left to do.
    """
    ranks = sorted({span.rank for span in timeline.spans})
    gaps = [gap for rank in ranks for gap in _gaps(timeline, rank, calls)]
    useful = [gap for gap in gaps if gap.idle] or [gap for gap in gaps if gap.late]
    return max(useful or gaps, key=lambda gap: gap.length_ps, default=None)


def _gaps(timeline: Timeline, rank: int, calls: Sequence[Call]) -> Iterator[Gap]:
    spans = timeline.of(rank)
    trips = [span for span in spans if span.kind == COMM]
    computing = [span for span in spans if span.kind == KERNEL]
    begins: dict[str, int] = {}
    for span in computing:
        if span.name.split()[1] in COMPUTES:
            begins.setdefault(span.name, span.start_ps)
    arrives = {trip.name: trip.end_ps for trip in trips}
    last = max(begins.values())
    for before, after in pairwise(computing):
        start, end = before.end_ps, after.start_ps
        if SMALL * (end - start) < timeline.step_ps or end > last:
            continue
        trip = max(trips, key=lambda t: min(t.end_ps, end) - max(t.start_ps, start))
        waiting = [name for name, at in begins.items() if at >= end]
        idle = min(
            (max(start, _ready_ps(name, arrives)), begins[name], name)
            for name in waiting
        )
        could = idle[2] if 2 * (end - idle[0]) > end - start else ""
        yield Gap(rank, start, end, trip.name, could, _late(trip.name, calls))


def _ready_ps(name: str, arrives: Mapping[str, int]) -> int:
    """When the input of an attend or experts is there."""
    batch, part, layer = name.split()
    if part == "experts":
        return arrives[f"{batch} dispatch {layer}"]
    return arrives.get(f"{batch} combine {int(layer) - 1}", 0)


def _late(trip: str, calls: Sequence[Call]) -> bool:
    """Whether other calls stand between the start of a trip and what it carries."""
    batch, part, layer = trip.split()
    maker = "attend" if part == "dispatch" else "experts"
    made = calls.index(Call(maker, batch, int(layer)))
    return calls[made + 1] != Call(part, batch, int(layer))
