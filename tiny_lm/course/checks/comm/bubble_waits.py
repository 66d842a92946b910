"""Task 5.8 goes on: who waits for whom, and what is left of the step.

Chapter: 05_comm/pipelines
Source: zero_bubble
"""

from tiny_lm.course.checks.comm.bubble import (
    FORWARD_FIRST,
    IDLE,
    ONE,
    SERIAL,
    TWO,
    bubble_and_memory,
    played,
    task_5_8,
)
from tiny_lm.course.checks.comm.schedules import UNITS, play

SUM = "idle.append(max(clock) - sum(units[kind] for kind, _, _ in actions)) =>"
NEIGHBOUR = 'neighbour = {"F": stage - 1, "B": stage + 1, "W": None}[way] => '
BEFORE = "before = (way, neighbour, micro) => before = "

waits = task_5_8.asks(
    "F waits for the stage before, B for the one behind; the rest of the step is idle",
    played(ONE, UNITS, "F0 of rank 0 ends at 1, F0 of rank 1 at 2, B0 at 4 and at 6"),
    played(TWO, UNITS),
    played(TWO, {"F": 2, "BW": 3}),
    played(SERIAL, UNITS),
    played(FORWARD_FIRST, UNITS),
    only=(IDLE,),
    otherwise="An action begins when its rank is free *and* what it waits for is over: "
    "F of the stage before, or B of the stage behind, of the same micro-batch. The "
    "step ends when the last rank is through, and what a rank does not work of it, it "
    "is idle.",
    mistakes={
        f"{SUM} idle.append(clock[_rank] - sum(units[k] for k, _, _ in actions))": (
            "What comes behind a rank's last action was left out: the step goes on "
            "until the slowest rank is through, and the others have nothing to do."
        ),
        f"{SUM} idle.append(max(clock) - len(actions))": "Actions were counted, and "
        "not the units that they take.",
        f"{SUM} idle.append(sum(units[kind] for kind, _, _ in actions))": "These are "
        "the units of *work*. Idle is what they leave of the step.",
        f"{SUM} idle.append(max(clock))": "This is the length of the step, work and "
        "all.",
        f"{SUM} idle.append((max(clock) - sum(units[kind] for kind, _, _ in actions))"
        " / max(clock))": "These are shares of the step. Wanted are units.",
        "clock[rank] = start + units[kind] => clock[rank] = start + 1": "Every action "
        "took one unit. What a kind takes is in `units`.",
        "clock[rank] = start + units[kind] => units = "
        "{'F': 1, 'B': 1, 'W': 1, 'BW': 2}\n"
        "                clock[rank] = start + units[kind]": "Lengths are written into "
        "the function. How long each kind takes comes in `units`.",
        "return idle, peak => return [sum(idle)] * len(idle), peak": "The idle units "
        "of all ranks were added up. Each rank has a number of its own.",
        "start = max(clock[rank], end.get(before, 0)) => start = clock[rank]": "An "
        "action began as soon as its rank was free, and what it waits for was not over "
        "yet.",
        "return idle, peak => return peak, idle": "The two lists are there, in another "
        "order: first idle, then peak.",
        f'{NEIGHBOUR}neighbour = {{"F": stage - 1, "B": stage - 1, "W": None}}[way]': (
            "A backward waits for the stage before it. Gradients come from the other "
            "end: B of a stage waits for B of the stage *behind*."
        ),
        f'{NEIGHBOUR}neighbour = {{"F": stage + 1, "B": stage + 1, "W": None}}[way]': (
            "A forward waits for the stage behind it. It is the other way round: F of "
            "a stage waits for F of the stage before."
        ),
        f'{NEIGHBOUR}neighbour = {{"F": stage - 1, "B": None, "W": None}}[way]': (
            "A backward waits for nobody. It needs the gradient that the stage behind "
            "sends back."
        ),
        f'{NEIGHBOUR}neighbour = {{"F": None, "B": stage + 1, "W": None}}[way]': (
            "A forward waits for nobody. It needs what the stage before sends on."
        ),
        "max(clock[rank], end.get(before, 0)) => end.get(before, 0)": "An action "
        "began when its input was there, though its rank was still at work on "
        "another.",
        f"{BEFORE}(way, neighbour, 0)": "Every action waits for micro-batch 0. It "
        "waits for its own, at the neighbour.",
        "before not in end:\n                    break => before not in end:\n"
        "                    continue": "A rank went past an action that was not ready "
        "and did a later one first. It keeps to its list: its order is what a schedule "
        "is.",
    },
)


@waits.mistake(
    "Only what lies before a rank's first action and behind its last was counted. It "
    "also waits in between, for what has not come back yet."
)
def ends_only(schedule, units):
    starts, ends = _times(schedule, units)
    step = max(ends.values())
    idle = [starts[a[0]] + step - ends[a[-1]] for a in schedule]
    return idle, bubble_and_memory(schedule, units)[1]


@waits.mistake(
    "What lies between a rank's actions was counted, and not what lies before the "
    "first and behind the last."
)
def gaps_only(schedule, units):
    starts, ends = _times(schedule, units)
    idle = [
        ends[a[-1]] - starts[a[0]] - sum(units[kind] for kind, _, _ in a)
        for a in schedule
    ]
    return idle, bubble_and_memory(schedule, units)[1]


def _times(schedule, units):
    starts = play(schedule, units).starts
    return starts, {action: at + units[action[0]] for action, at in starts.items()}
