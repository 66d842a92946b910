"""Task 5.8: what any pipeline schedule wastes in time, and takes in memory.

Chapter: 05_comm/pipelines
Source: zero_bubble
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tiny_lm.course.checks.answer import Answer
from tiny_lm.course.checks.case import Probe
from tiny_lm.course.checks.comm.patience import ENDLESS, Watched, patience
from tiny_lm.course.checks.comm.schedules import Schedule, text
from tiny_lm.course.checks.expect import Mismatch, numbers, show
from tiny_lm.course.checks.task import Task


def bubble_and_memory(
    schedule: Sequence[Sequence[tuple[str, int, int]]], units: Mapping[str, int]
) -> tuple[list[int], list[int]]:
    """Idle units of each rank, and how many micro-batches it holds at once, at most."""
    every = {(k[0], stage, m) for actions in schedule for k, stage, m in actions}
    end, clock = {}, [0] * len(schedule)
    while len(end) < len(every):
        for rank, actions in enumerate(schedule):
            for kind, stage, micro in actions:
                way = kind[0]
                if (way, stage, micro) in end:
                    continue
                neighbour = {"F": stage - 1, "B": stage + 1, "W": None}[way]
                before = (way, neighbour, micro)
                if before in every and before not in end:
                    break
                start = max(clock[rank], end.get(before, 0))
                clock[rank] = start + units[kind]
                end[way, stage, micro] = clock[rank]
    idle, peak = [], []
    for _rank, actions in enumerate(schedule):
        idle.append(max(clock) - sum(units[kind] for kind, _, _ in actions))
        held = most = 0
        for kind, _, _ in actions:
            held += (kind == "F") - (kind in ("W", "BW"))
            most = max(most, held)
        peak.append(most)
    return idle, peak


IDLE, PEAK = "idle", "peak"

task_5_8 = Task(
    id="5.8",
    lab="05_comm",
    title="Bubble and memory",
    name="bubble_and_memory",
    piece="comm.bubble_and_memory",
    difficulty=3,
    minutes=30,
    points=4,
    reference=bubble_and_memory,
    returns=(IDLE, PEAK),
    errors={
        ENDLESS: "This goes on for ever: something is waited for that never comes. "
        "Every schedule here can be carried out. Is it the right neighbour, and what "
        "do the first stage's F and the last stage's B wait for?",
        "KeyError": "Something is looked up that is not there. The first stage has no "
        "stage before it, the last one none behind, and some schedules have no W.",
    },
    hints=(
        """
        Nothing has to be guessed: an action begins as soon as its rank is free and what
        it waits for is over. So write down when each action ends, and go round all
        ranks until nothing is left.
        """,
        """
        Keep a clock for each rank, and a dict with the end of each action. F of a stage
        waits for F of stage - 1, B for B of stage + 1, of the same micro-batch and on
        whatever rank; at the ends of the pipeline there is nothing to wait for. A rank
        whose next action cannot begin yet is left where it is, and the next rank is
        looked at. Memory needs no clock: walk through each list once.
        """,
        """
        An action begins at max(clock[rank], end of what it waits for), and its end is
        the rank's new clock; keep it under kind[0], so that a BW is a B to whoever
        waits. Idle is max(clock) less the units of all of the rank's actions. For
        memory, count one up at each F and one down at each W or BW.
        """,
    ),
)

TAKEN = (
    "Something took the caller's list apart, as pop and remove do. Work on a copy: "
    "list(actions) makes one."
)
EACH = "Each of the two lists has one number for each rank."
BOTH = "Two lists are wanted, with a comma between them."


def played(schedule: Schedule, units: Mapping[str, int], note: str = "") -> Probe:
    """What the function says of a schedule, which the message shows."""
    kinds = {action[0] for actions in schedule for action in actions}
    costs = ", ".join(f"{k} {cost}" for k, cost in units.items() if k in kinds)
    on = f"{text(schedule)}\nunits: {costs}\n{note}".strip()
    return Probe(lambda answer, g: read(answer, schedule, units, on), on)


def read(
    answer: Answer, schedule: Schedule, units: Mapping[str, int], on: str
) -> dict[str, list[float]]:
    """The two lists, in numbers."""
    given = Watched(Watched(actions) for actions in schedule)
    with patience():
        result = answer(given, dict(units))
    if given.plain() != [list(actions) for actions in schedule]:
        raise Mismatch(on, "the schedule as it was", "a changed one", TAKEN)
    wanted = f"two lists, idle and peak, of {len(schedule)} numbers each"
    if not isinstance(result, tuple | list) or len(result) != 2:
        raise Mismatch(on, wanted, show(result), BOTH)
    return {
        name: _numbers(part, len(schedule), Mismatch(on, wanted, show(result), EACH))
        for name, part in zip((IDLE, PEAK), result, strict=True)
    }


def _numbers(part: Any, many: int, refusal: Mismatch) -> list[float]:
    try:
        values = numbers(part).tolist()
    except (TypeError, ValueError, RuntimeError):
        raise refusal from None
    if not isinstance(values, list) or len(values) != many:
        raise refusal
    return [int(x) if x == int(x) else x for x in values]


# Two ranks. Of ONE, rank 0 waits in the middle and rank 1 at both ends.
ONE = [[("F", 0, 0), ("BW", 0, 0)], [("F", 1, 0), ("BW", 1, 0)]]
TWO = [
    [("F", 0, 0), ("F", 0, 1), ("BW", 0, 0), ("BW", 0, 1)],
    [("F", 1, 0), ("BW", 1, 0), ("F", 1, 1), ("BW", 1, 1)],
]
KINDS = ("F", "BW")
SERIAL = [[(kind, s, micro) for micro in (0, 1) for kind in KINDS] for s in range(3)]
FORWARD_FIRST = [
    [(kind, s, micro) for kind in KINDS for micro in (0, 1, 2)] for s in (0, 1)
]
