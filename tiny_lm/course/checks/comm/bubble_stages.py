"""Task 5.8 goes on: what is held, halves of a backward, several stages on a rank.

Chapter: 05_comm/pipelines
Source: zero_bubble
"""

from tiny_lm.course.checks.comm.bubble import (
    FORWARD_FIRST,
    PEAK,
    TWO,
    bubble_and_memory,
    played,
)
from tiny_lm.course.checks.comm.bubble_waits import BEFORE, task_5_8
from tiny_lm.course.checks.comm.schedules import UNITS

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


# One rank does B and W where its neighbour does BW.
MIXED = [
    [("F", 0, 0), ("BW", 0, 0)],
    [("F", 1, 0), ("B", 1, 0), ("W", 1, 0)],
]
halves = task_5_8.asks(
    "B is waited for as BW is; nobody waits for W, which waits for nobody",
    played(SPLIT, UNITS),
    played(MIXED, UNITS),
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


@halves.mistake(
    "A BW and a B are different things here to whoever waits for them. A stage may do "
    "one where its neighbour does the other: either is the backward that is waited for."
)
def by_the_whole_kind(schedule, units):
    every = {action for actions in schedule for action in actions}
    end, clock = {}, [0] * len(schedule)
    while len(end) < len(every):
        for rank, actions in enumerate(schedule):
            for kind, stage, micro in actions:
                if (kind, stage, micro) in end:
                    continue
                step = {"F": -1, "W": len(every)}.get(kind, 1)
                before = (kind, stage + step, micro)
                if before in every and before not in end:
                    break
                clock[rank] = max(clock[rank], end.get(before, 0)) + units[kind]
                end[kind, stage, micro] = clock[rank]
    idle = [max(clock) - sum(units[kind] for kind, _, _ in a) for a in schedule]
    return idle, bubble_and_memory(schedule, units)[1]


# Three stages on two ranks, and an end that is not rank 0's.
THREE = [
    [("F", 0, 0), ("F", 2, 0), ("BW", 2, 0), ("BW", 0, 0)],
    [("F", 1, 0), ("BW", 1, 0)],
]
LATE = [
    [("F", 0, 0), ("B", 0, 0), ("W", 0, 0)],
    [
        (kind, stage, 0)
        for kind, stage in zip("FFBBWW", (1, 2, 2, 1, 2, 1), strict=True)
    ],
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
    played(LATE, {"F": 1, "B": 1, "W": 2}, "stages 1 and 2 lie on rank 1"),
    played(BACK, UNITS, "stages 0 and 3 lie on rank 0, stages 1 and 2 on rank 1"),
    played(ROUND, UNITS, "stages 0 and 2 lie on rank 0, stages 1 and 3 on rank 1"),
    otherwise="The number in an action is that of a stage. Who waits for whom, and "
    "what is held, goes by stage and micro-batch.",
    mistakes={
        "idle.append(max(clock) => idle.append(clock[0]": "The end of the step was "
        "taken from rank 0. The slowest rank ends it, whichever that is.",
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
