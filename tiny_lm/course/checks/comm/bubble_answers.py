"""Task 5.8 ends: published schedules, and right answers in other styles.

Chapter: 05_comm/pipelines
Source: course
"""

from collections import deque
from functools import cache
from itertools import accumulate

import torch
from torch import Generator

from tiny_lm.course.checks.answer import Answer
from tiny_lm.course.checks.case import Probe
from tiny_lm.course.checks.comm.bubble import played, read
from tiny_lm.course.checks.comm.bubble_stages import task_5_8
from tiny_lm.course.checks.comm.schedules import UNITS, Schedule, text
from tiny_lm.parallel.whole_schedules import build


def published(name: str, num_ranks: int, num_micro: int) -> Schedule:
    """A schedule of `tiny_lm`, as lists."""
    return [list(row) for row in build(name, num_ranks, num_micro).ranks]


def any_schedule(answer: Answer, generator: Generator) -> dict[str, list[float]]:
    """A schedule, sizes and units that are drawn."""

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    name = NAMES[draw(0, len(NAMES) - 1)]
    ranks = draw(2, 4)
    schedule = published(name, ranks, ranks * draw(2, 3))  # zbv: no fewer
    units = {"F": draw(1, 5), "B": draw(1, 5), "W": draw(1, 5), "BW": draw(2, 9)}
    on = f"{name}, {ranks} ranks, units {units}"
    found = read(answer, schedule, units, f"{text(schedule)}\nunits: {units}")
    return {f"{on}: {part}": values for part, values in found.items()}


NAMES = ("gpipe", "1f1b", "zb1p", "interleaved", "zbv")

task_5_8.asks(
    "equals the definition on GPipe, 1F1B, ZB1P, interleaved and ZBV",
    *(
        played(published(name, *sizes), UNITS, name)
        for name in NAMES
        for sizes in ((1, 2), (2, 4), (4, 8))
    ),
    played(published("1f1b", 3, 4), {"F": 3, "BW": 5}),
    *[Probe(any_schedule, "one of these schedules, with sizes and units drawn")] * 2,
    otherwise="On the small schedules above it is right. What is different here?",
)


@task_5_8.accepts
def unit_by_unit(schedule, units):
    """A clock that ticks for all ranks at once."""
    queues = [deque(actions) for actions in schedule]
    stages = {action[1] for queue in queues for action in queue}
    over, running, now = set(), [None] * len(queues), 0
    busy = torch.zeros(len(queues))
    while any(queues) or any(running):
        for rank, job in enumerate(running):
            if job and job[1] == now:
                over.add(job[0])
                running[rank] = None
        for rank, queue in enumerate(queues):
            if queue and not running[rank]:
                kind, stage, micro = queue[0]
                other = stage + {"F": -1, "B": 1, "BW": 1, "W": 0}[kind]
                way = "F" if kind == "F" else "B"
                if kind == "W" or other not in stages or (way, other, micro) in over:
                    queue.popleft()
                    running[rank] = (
                        (way * (kind != "W"), stage, micro),
                        now + units[kind],
                    )
        busy += torch.tensor([float(job is not None) for job in running])
        now += 1
    return now - 1 - busy, torch.tensor(_held(schedule))


def _held(schedule):
    peaks = []
    for actions in schedule:
        last = {action[1:]: place for place, action in enumerate(actions)}
        gone = set(last.values())
        changes = [(a[0] == "F") - (n - 1 in gone) for n, a in enumerate(actions)]
        peaks.append(max(accumulate(changes)))
    return peaks


@task_5_8.accepts
def by_recursion(schedule, units):
    """An action's end from the ends of the two that it waits for."""
    place = {a: (r, n) for r, list_ in enumerate(schedule) for n, a in enumerate(list_)}

    @cache
    def end(action):
        kind, stage, micro = action
        rank, n = place[action]
        waits = [schedule[rank][n - 1]] if n else []
        for other in {"F": ("F",), "W": ()}.get(kind, ("B", "BW")):
            neighbour = (other, stage + (-1 if kind == "F" else 1), micro)
            waits += [neighbour] * (neighbour in place)
        return max(map(end, waits), default=0) + units[kind]

    step = max(end(action) for action in place)
    idle = [step - sum(units[a[0]] for a in actions) for actions in schedule]
    return [idle, _held(schedule)]
