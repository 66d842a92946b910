"""How long a schedule takes and who waits: free messages, and messages as dear as work.

Chapter: 05_comm/pipelines
Source: deepseek_v3, table 2; zero_bubble; megatron_interleaved; gpipe

A rank does its actions in order; one begins when the rank is free and all that it needs
is there. Handing a micro-batch to the next stage takes no time. What may take time is
the exchange of rows with experts *inside* a stage, in its forward and in its backward
for the input. Weight gradients exchange nothing.

Times are in units of one forward of a rank's whole share; a rank that holds two stages
takes half a unit for each.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from tiny_lm.parallel.schedules import Action
from tiny_lm.parallel.whole_schedules import (
    Part,
    Schedule,
    in_some_order,
    needs,
    works,
)


@dataclass(frozen=True, kw_only=True)
class Units:
    """How long each work of a micro-batch takes on one rank's share.

    Args:
        forward, backward, weights: of computing; the backward is that for the input.
        forward_sends, backward_sends: how long its exchange with experts takes.
        hidden: the two halves of a pair hide each other's exchange. Otherwise, and for
            whatever is not paired, computing and exchanging take turns.
    """

    forward: float = 1
    backward: float = 1
    weights: float = 1
    forward_sends: float = 0
    backward_sends: float = 0
    hidden: bool = False

    def length(self, kind: str) -> float:
        """Of an action, with what it sends."""
        computing, sending = self.computing(kind), self.sending(kind)
        if kind == "FB" and self.hidden:
            return max(computing, sending)
        return computing + sending

    def computing(self, kind: str) -> float:
        """Of an action, without what it sends."""
        f, b, w = self.forward, self.backward, self.weights
        return {"F": f, "B": b, "W": w, "BW": b + w, "FB": f + b + w}[kind]

    def sending(self, kind: str) -> float:
        """What an action sends, alone."""
        f, b = self.forward_sends, self.backward_sends
        return {"F": f, "B": b, "W": 0, "BW": b, "FB": f + b}[kind]


FREE = Units()
# Computing and exchanging take equally long: 1 and 2 units, the weights' included.
SERIES = Units(forward_sends=1, backward_sends=2)
HIDDEN = Units(forward_sends=1, backward_sends=2, hidden=True)


class Bar(NamedTuple):
    """An action and when it ran."""

    action: Action
    start: float
    end: float


def play(schedule: Schedule, units: Units = FREE) -> list[list[Bar]]:
    """When each rank does what; a list a rank.

    Raises:
        ValueError: the schedule gets stuck; `complaint` says where.
    """
    rows: list[list[Bar]] = [[] for _ in schedule.ranks]
    ends: dict[Part, float] = {}
    for rank, action in in_some_order(schedule):
        free = rows[rank][-1].end if rows[rank] else 0
        wanted = needs(action, schedule.num_stages)
        start = max([free, *(ends[need] for need in wanted)])
        end = start + units.length(action[0]) * schedule.share
        ends.update(dict.fromkeys(works(action), end))
        rows[rank].append(Bar(action, start, end))
    if sum(map(len, rows)) < sum(map(len, schedule.ranks)):
        raise ValueError(f"{schedule.name} gets stuck: not all actions can be done")
    return rows


def step_length(schedule: Schedule, units: Units = FREE) -> float:
    """Units from the first action to the end of the last, over all ranks."""
    return max(row[-1].end for row in play(schedule, units))


def idle(schedule: Schedule, units: Units = FREE) -> list[float]:
    """Units of the step in which each rank has nothing that it could do."""
    rows = play(schedule, units)
    last = max(row[-1].end for row in rows)
    return [last - sum(bar.end - bar.start for bar in row) for row in rows]


def computing_share(schedule: Schedule, units: Units) -> float:
    """What part of the step the ranks compute, on average: not wait or exchange."""
    work = sum(units.computing(a[0]) for row in schedule.ranks for a in row)
    spent = len(schedule.ranks) * step_length(schedule, units)
    return work * schedule.share / spent


# What a rank waits, in the same units: p ranks, F forward, B *whole* backward, W its
# weights' part, FB a pair.
CLOSED_FORMS: dict[str, Callable[[int, float, float, float, float], float]] = {
    "gpipe": lambda p, F, B, W, FB: (p - 1) * (F + B),
    "1f1b": lambda p, F, B, W, FB: (p - 1) * (F + B),
    "interleaved": lambda p, F, B, W, FB: (p - 1) * (F + B) / 2,
    "zb1p": lambda p, F, B, W, FB: (p - 1) * (F + B - 2 * W),
    "dualpipe": lambda p, F, B, W, FB: (p / 2 - 1) * (FB + B - 3 * W),
    "dualpipev": lambda p, F, B, W, FB: (p - 1) * (FB + B - 3 * W) / 2,
}


def closed_form(name: str, num_ranks: int, units: Units = FREE) -> float | None:
    """The published bubble, or None where none is published for all lengths.

    DualPipeV's is DualPipe's for a pipeline of twice as many stages, each half as long.
    """
    if name not in CLOSED_FORMS:
        return None
    lengths = [units.length(kind) for kind in ("F", "BW", "W", "FB")]
    return CLOSED_FORMS[name](num_ranks, *lengths)
