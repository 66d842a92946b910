"""Tapes of pipeline schedules with kernels of whole units of work."""

from collections.abc import Iterator

from tiny_lm.gpus.tape import Kernel, Mark, Receive, Send, Tape, Wait
from tiny_lm.parallel.schedules import Action, neighbours, parts

COST = {"F": 1, "B": 1, "W": 1, "BW": 2, "FB": 3}  # F = 1, B = 2, of which W = 1


def tapes(schedule, num_stages: int, num_micro: int, cost=None) -> list[Tape]:
    """A tape a rank: kernels of so many units, messages of no bytes between them."""
    cost = cost or COST
    return [
        Tape(rank, tuple(_records(schedule, num_stages, rank, num_micro, cost)))
        for rank in range(num_stages)
    ]


def _records(schedule, num_stages: int, rank: int, num_micro: int, cost) -> Iterator:
    events = 0
    for action in schedule(num_stages, rank, num_micro):
        moves = [p for p in parts(action) if p[0] != "W"]
        for part in moves:
            yield from _receives(part, num_stages, rank, num_micro)
        yield Kernel(" ".join(map(str, action)), cost[action[0]], 0)
        yield Mark(events)
        yield Wait(events, "comm")
        for part in moves:
            yield from _sends(part, num_stages, rank, num_micro)
        events += 1


def _number(part: Action, num_micro: int) -> int:
    """One number for each message between two ranks."""
    kind, pipeline, micro = part
    return micro + num_micro * (2 * pipeline + (kind != "F"))


def _receives(part: Action, num_stages: int, rank: int, num_micro: int) -> Iterator:
    source, _ = neighbours(part, rank)
    if 0 <= source < num_stages:
        yield Receive("in", source, 0, _number(part, num_micro), "compute")


def _sends(part: Action, num_stages: int, rank: int, num_micro: int) -> Iterator:
    _, target = neighbours(part, rank)
    if 0 <= target < num_stages:
        yield Send("out", target, 0, _number(part, num_micro))
