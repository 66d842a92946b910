"""Pipeline schedules of the checks: played in units of time, and in words.

Chapter: 05_comm/pipelines
Source: zero_bubble

An action is (kind, stage, micro-batch), and a schedule has a list of them for each
rank. A rank does its actions one after the other and waits where one is not ready yet.
A backward is B, for the inputs, and W, for the weights, or BW, both in one piece.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Action = tuple[str, int, int]
Schedule = Sequence[Sequence[Action]]
UNITS = {"F": 1, "B": 1, "W": 1, "BW": 2}  # that an action takes


@dataclass(frozen=True)
class Play:
    """How a schedule went.

    Args:
        starts: when each action began, as far as they got.
        step: when the last rank was through.
        idle: units in which each rank had nothing to do.
        stuck: who waits for what, a line a rank; empty where all were through.
    """

    starts: dict[Action, int]
    step: int
    idle: list[int]
    stuck: str


def short(action: Action) -> Action:
    """The same, for whoever waits: a BW is a B to them."""
    kind, stage, micro = action
    return kind[0], stage, micro


def needed(action: Action) -> Action:
    """What an action waits for, where there is such a stage."""
    way, stage, micro = short(action)
    return {
        "F": ("F", stage - 1, micro),
        "B": ("B", stage + 1, micro),
        "W": ("B", stage, micro),
    }[way]


def play(schedule: Schedule, units: Mapping[str, int]) -> Play:
    """Every rank does its list in order, each action as soon as it can."""
    last = max(stage for actions in schedule for _, stage, _ in actions)
    ends: dict[Action, int] = {}
    starts: dict[Action, int] = {}
    clocks, places = [0] * len(schedule), [0] * len(schedule)
    moved = True
    while moved:
        moved = False
        for rank, actions in enumerate(schedule):
            while places[rank] < len(actions):
                action = actions[places[rank]]
                if any(other not in ends for other in _before(action, last)):
                    break
                ready = max((ends[other] for other in _before(action, last)), default=0)
                starts[action] = max(clocks[rank], ready)
                clocks[rank] = starts[action] + units[action[0]]
                ends[short(action)] = clocks[rank]
                places[rank] += 1
                moved = True
    step = max(clocks)
    busy = [sum(units[kind] for kind, _, _ in actions) for actions in schedule]
    waiting = [
        _waits(actions[place], ends, last)
        for actions, place in zip(schedule, places, strict=True)
        if place < len(actions)
    ]
    return Play(starts, step, [step - work for work in busy], "\n".join(waiting))


def _before(action: Action, last: int) -> list[Action]:
    """All that has to be over: at the neighbour, and the stage's own forward."""
    kind, stage, micro = action
    own = [] if kind == "F" else [("F", stage, micro)]
    other = needed(action)
    return own + [other] * (0 <= other[1] <= last)


def _waits(action: Action, ends: Mapping[Action, int], last: int) -> str:
    kind, stage, micro = action
    lacks = next(other for other in _before(action, last) if other not in ends)
    for_whom = f"{lacks[0]}{micro} of stage {lacks[1]}"
    return f"stage {stage} waits in {kind[0]}{micro} for {for_whom}"


def held(actions: Sequence[Action]) -> int:
    """Micro-batches that a rank holds at once, at most: from F to their last action."""
    last = {action[1:]: place for place, action in enumerate(actions)}
    now = most = 0
    for place, (kind, *of) in enumerate(actions):
        now += kind == "F"
        most = max(most, now)
        now -= last[tuple(of)] == place
    return most


def text(schedule: Schedule) -> str:
    """A line a rank; the stage stands with an action only where a rank has several."""
    lines = []
    for rank, actions in enumerate(schedule):
        several = len({stage for _, stage, _ in actions}) > 1
        words = [
            f"{kind}{micro}" + f" of stage {stage}," * several
            for kind, stage, micro in actions
        ]
        lines.append(f"rank {rank}: {' '.join(words)}".rstrip(","))
    return "\n".join(lines)
