"""Task 5.8 ends: what is held, halves of a backward, several stages on a rank.

Chapter: 05_comm/slower_link
Source: zero_bubble
"""

from collections import deque
from functools import cache
from itertools import accumulate

import torch

from tiny_lm.course.checks.comm.bubble import (
    FORWARD_FIRST,
    PEAK,
    TWO,
    bubble_and_memory,
    played,
)
from tiny_lm.course.checks.comm.bubble_waits import BEFORE, task_5_8
from tiny_lm.course.checks.comm.schedules import UNITS, Schedule
from tiny_lm.parallel.whole_schedules import build

ORDERS = (
    ("FFBWFBWBW", (0, 1, 0, 0, 2, 1, 1, 2, 2)),
    ("FBFBWFBWW", (0, 0, 1, 1, 0, 2, 2, 1, 2)),
)
SPLIT = [
    [(kind, stage, micro) for kind, micro in zip(kinds, numbers, strict=True)]
    for stage, (kinds, numbers) in enumerate(ORDERS)
]
GAVE_BACK = (
    "B gave back what W still needs: the weights' gradient is made of the same "
    "activations. Where there is a W, it comes last."
)
COUNTS = 'held += (kind == "F") - (kind in ("W", "BW")) => held += (kind == "F") - '

memory = task_5_8.asks(
    "a micro-batch is held from its F to the end of its backward, W or BW",
    played(TWO, UNITS),
    played(FORWARD_FIRST, UNITS),
    played(SPLIT, UNITS, "rank 1 is late with W0: it still holds 0 when F1 begins"),
    only=(PEAK,),
    otherwise="One more from each F on, one less after the W of that micro-batch, or "
    "its BW. The largest number on the way is the peak.",
    mistakes={
        f"{COUNTS}0": "Nothing was ever given back. After the end of its backward a "
        "micro-batch is held no longer.",
        f'{COUNTS}(kind in ("B", "BW"))': GAVE_BACK,
        f'{COUNTS}(kind != "F")': GAVE_BACK,
        f'{COUNTS}(kind == "W")': "Only a W gave anything back. A BW is a whole "
        "backward: after it nothing is needed either.",
        f'{COUNTS}(kind == "BW")': "Only a BW gave anything back. Where a backward is "
        "cut in two, W is its end.",
        "most = max(most, held) => most = held": "This is what was held last, not what "
        "was held at most.",
        'held += (kind == "F") - => held += 1 -': "Every action counts as one more. "
        "Only F makes something that has to be kept.",
        "peak.append(most) => peak.append(most - 1)": "One too few: while an F runs, "
        "its micro-batch is held already.",
        "return idle, peak => return idle, [max(peak)] * len(peak)": "All ranks got "
        "the largest number. Each has its own.",
    },
)

FORMULA = (
    "This is what 1F1B would need, whatever the schedule is: (stages - 1) · (F + B) "
    "units and as many micro-batches as there are stages from here to the end. Of this "
    "schedule it is not true: look at what it does."
)


def _formula(schedule, units):
    ranks = len(schedule)
    return [(ranks - 1) * sum(units.values())] * ranks, list(range(ranks, 0, -1))


@task_5_8.properties[0].mistake(FORMULA)
def formula_of_1f1b(schedule, units):
    return _formula(schedule, units)


@memory.mistake(FORMULA)
def formula_of_its_memory(schedule, units):
    return bubble_and_memory(schedule, units)[0], _formula(schedule, units)[1]


task_5_8.asks(
    "W waits only for its own B, and nobody waits for W",
    played(SPLIT, UNITS),
    otherwise="W is work like any other in its place in the list; its B stands before "
    "it there, so there is nothing to wait for.",
    mistakes={
        "clock[rank] = start + units[kind] => "
        'clock[rank] = start + units[kind] * (kind != "W")': "W took no time.",
        f'{BEFORE}("W" if way == "B" and ("W", stage, micro) in every else way, '
        "neighbour, micro)": "A backward waited until the stage behind had done W, "
        "too. Only B is waited for: that is why W can come late.",
        '"W": None}[way] => "W": stage + 1}[way]': "W waits for a neighbour. It needs "
        "nothing but what its own stage has.",
    },
)

THREE = [
    [("F", 0, 0), ("F", 2, 0), ("BW", 2, 0), ("BW", 0, 0)],
    [("F", 1, 0), ("BW", 1, 0)],
]
# Four stages on two ranks: to the end of the ranks and back, or round twice.
BACK = [
    [
        *(("F", 0, 0), ("F", 0, 1), ("F", 3, 0), ("BW", 3, 0)),
        *(("F", 3, 1), ("BW", 3, 1), ("BW", 0, 0), ("BW", 0, 1)),
    ],
    [
        *(("F", 1, 0), ("F", 2, 0), ("F", 1, 1), ("F", 2, 1)),
        *(("BW", 2, 0), ("BW", 1, 0), ("BW", 2, 1), ("BW", 1, 1)),
    ],
]
ROUND = [
    [
        (kind, stage, micro)
        for kind, stages in (("F", (rank, rank + 2)), ("BW", (rank + 2, rank)))
        for stage in stages
        for micro in (0, 1)
    ]
    for rank in (0, 1)
]

task_5_8.asks(
    "a rank may have several stages: a neighbour is a stage, wherever it lies",
    played(THREE, UNITS, "stages 0 and 2 lie on rank 0"),
    played(BACK, UNITS, "stages 0 and 3 lie on rank 0, stages 1 and 2 on rank 1"),
    played(ROUND, UNITS, "stages 0 and 2 lie on rank 0, stages 1 and 3 on rank 1"),
    otherwise="The number in an action is that of a stage. Who waits for whom, and "
    "what is held, goes by stage and micro-batch.",
    mistakes={
        "return idle, peak => return [max(idle)] * len(idle), peak": "All ranks got "
        "the same number. Their work differs, and so does what it leaves of the step.",
    },
)


@task_5_8.properties[-1].mistake(
    "What a micro-batch leaves with *both* stages of a rank was counted once. Each "
    "stage keeps its own, and gives back its own."
)
def a_set_of_micro_batches(schedule, units):
    peak = []
    for actions in schedule:
        held, most = set(), 0
        for kind, _, micro in actions:
            if kind == "F":
                held.add(micro)
            elif kind != "B":
                held.discard(micro)
            most = max(most, len(held))
        peak.append(most)
    return bubble_and_memory(schedule, units)[0], peak


@task_5_8.properties[-1].mistake(
    "The number of a rank was taken for that of a stage. A rank may have several "
    "stages, and then its neighbours are not the ranks beside it."
)
def ranks_for_stages(schedule, units):
    renamed = [
        [(kind, rank, micro) for kind, _, micro in actions]
        for rank, actions in enumerate(schedule)
    ]
    return bubble_and_memory(renamed, units)


def published(name: str, num_ranks: int, num_micro: int) -> Schedule:
    """A schedule of `tiny_lm`, as lists."""
    return [list(row) for row in build(name, num_ranks, num_micro).ranks]


task_5_8.asks(
    "equals the definition on GPipe, 1F1B, ZB1P, interleaved and ZBV",
    *(
        played(published(name, *sizes), UNITS, name)
        for name in ("gpipe", "1f1b", "zb1p", "interleaved", "zbv")
        for sizes in ((1, 2), (2, 4), (4, 8))
    ),
    played(published("1f1b", 3, 4), {"F": 3, "BW": 5}),
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
