"""Pipelines whose work comes in whole units and whose messages are free: bubbles alone.

Chapter: 05_comm/slower_link
Source: deepseek_v3, section 3.2.1; zero_bubble

A unit is one forward of one micro-batch. Nothing but the order of the work decides how
long a rank waits, and the waiting can be counted on one's fingers.
"""

from collections.abc import Callable, Iterator, Mapping

from tiny_lm.hardware import Machine
from tiny_lm.parallel.schedules import Action, neighbours, parts
from tiny_lm.replay.simulation import replay
from tiny_lm.replay.tape import Kernel, Mark, Receive, Record, Send, Tape, Wait
from tiny_lm.replay.timeline import Timeline

Schedule = Callable[[int, int, int], list[Action]]
COST = {"F": 1, "B": 1, "W": 1, "BW": 2, "FB": 3}  # F = 1, B = 2, of which W = 1
PS_PER_UNIT = 10**12
# One FLOP is a unit and takes a second; launches and messages take nothing.
UNITS = Machine(
    name="a unit of work takes a second, a message nothing",
    source="course",
    gpus_per_node=1,
    bf16_flops_per_s=1.0,
    memory_bytes_per_s=1.0,
    nvlink_bytes_per_s=1.0,
    network_bytes_per_s=1.0,
    launch_s=0.0,
    nvlink_alpha_s=0.0,
    network_alpha_s=0.0,
)


def play(
    schedule: Schedule,
    num_stages: int,
    num_micro: int,
    cost: Mapping[str, int] | None = None,
) -> Timeline:
    """The timeline of a schedule, a second a unit.

    Args:
        cost: units of each kind of action; `COST` where none is given.
    """
    return replay(tapes(schedule, num_stages, num_micro, cost), UNITS)


def idle(timeline: Timeline) -> list[int]:
    """Units that each rank waits in the step."""
    return [
        (timeline.step_ps - row.compute_ps) // PS_PER_UNIT for row in timeline.summary()
    ]


def tapes(
    schedule: Schedule,
    num_stages: int,
    num_micro: int,
    cost: Mapping[str, int] | None = None,
) -> list[Tape]:
    """A tape a rank: kernels of so many FLOPs, messages of no bytes between them.

    Args:
        cost: FLOPs of each kind of action; `COST` where none is given.
    """
    cost = cost or COST
    return [
        Tape(rank, tuple(_records(schedule, num_stages, rank, num_micro, cost)))
        for rank in range(num_stages)
    ]


def _records(
    schedule: Schedule,
    num_stages: int,
    rank: int,
    num_micro: int,
    cost: Mapping[str, int],
) -> Iterator[Record]:
    events = 0
    for action in schedule(num_stages, rank, num_micro):
        moves = [p for p in parts(action) if p[0] != "W"]
        for part in moves:
            source, _ = neighbours(part, rank)
            if 0 <= source < num_stages:
                number = _number(part, num_micro)
                yield Receive("in", source, 0, number, "compute")
        yield Kernel(" ".join(map(str, action)), cost[action[0]], 0)
        yield Mark(events)
        yield Wait(events, "comm")
        for part in moves:
            _, target = neighbours(part, rank)
            if 0 <= target < num_stages:
                yield Send("out", target, 0, _number(part, num_micro))
        events += 1


def _number(part: Action, num_micro: int) -> int:
    """One number for each message between two ranks."""
    kind, pipeline, micro = part
    return micro + num_micro * (2 * pipeline + (kind != "F"))
