"""Pipeline schedules as lists of what each stage does: 1F1B, ZB1P and DualPipe.

An action is (kind, pipeline, micro-batch). Kinds: F forward; B the input's gradient
alone; W the weights' gradient alone; "BW" both; "FB" a forward and a backward of the
other pipeline as one piece of work. 1F1B and ZB1P have one pipeline, number 0. DualPipe
has two that run through the same ranks in opposite directions, 0 from rank 0 on.
"""

from collections import deque
from collections.abc import Iterator

from tiny_lm.gpus.tape import Kernel, Mark, Receive, Send, Tape, Wait

Action = tuple[str, int, int]


def one_f_one_b(num_stages: int, stage: int, num_micro: int) -> list[Action]:
    """As many forwards as there are stages behind, then one of each."""
    ahead = min(num_stages - stage - 1, num_micro)
    actions = [("F", 0, number) for number in range(ahead)]
    for number in range(num_micro):
        if number + ahead < num_micro:
            actions.append(("F", 0, number + ahead))
        actions.append(("BW", 0, number))
    return actions


def zb1p(num_stages: int, stage: int, num_micro: int) -> list[Action]:
    """1F1B whose weight gradients come `stage` backwards late, and fill the end."""
    actions: list[Action] = []
    for kind, _, number in one_f_one_b(num_stages, stage, num_micro):
        if kind == "F":
            actions.append(("F", 0, number))
            continue
        actions.append(("B", 0, number))
        if number >= stage:
            actions.append(("W", 0, number - stage))
    late = range(max(0, num_micro - stage), num_micro)
    return actions + [("W", 0, number) for number in late]


class _Rank:
    """One rank of DualPipe: `near` is the pipeline that starts on its own side."""

    def __init__(self, near: int) -> None:
        self.pipeline = (near, 1 - near)
        self.forward, self.backward = [0, 0], [0, 0]
        self.owed: deque[tuple[int, int]] = deque()  # weight gradients not done yet
        self.actions: list[tuple] = []

    def _next(self, counts: list[int], side: int) -> tuple[int, int]:
        counts[side] += 1
        return self.pipeline[side], counts[side] - 1

    def f(self, side: int) -> None:
        self.actions.append(("F", *self._next(self.forward, side)))

    def bw(self, side: int) -> None:
        self.actions.append(("BW", *self._next(self.backward, side)))

    def b(self, side: int) -> None:
        self.owed.append(self._next(self.backward, side))
        self.actions.append(("B", *self.owed[-1]))

    def w(self) -> None:
        self.actions.append(("W", *self.owed.popleft()))

    def fb(self, side: int) -> None:
        """A forward of this side and a backward of the other, as one."""
        forward = self._next(self.forward, side)
        self.actions.append(("FB", *forward, *self._next(self.backward, 1 - side)))


def dualpipe(num_stages: int, rank: int, num_micro: int) -> list[tuple]:
    """Eight phases; num_micro counts both pipelines, at least two for each rank."""
    half, from_edge = num_stages // 2, min(rank, num_stages - 1 - rank)
    to_middle = half - from_edge - 1
    gpu = _Rank(near=int(rank >= half))
    for _ in range(2 * to_middle):
        gpu.f(0)
    for _ in range(from_edge + 1):
        gpu.f(0), gpu.f(1)
    for _ in range(to_middle):
        gpu.b(1), gpu.w(), gpu.f(1)
    for turn in range(num_micro // 2 - num_stages + from_edge + 1):
        if turn == 0 and to_middle == 0:
            (
                gpu.f(0),
                gpu.bw(1),
            )  # the middle ranks cannot join them: one feeds the other
        else:
            gpu.fb(0)
        gpu.fb(1)
    for _ in range(to_middle):
        gpu.bw(1), gpu.fb(1)
    for turn in range(2 * (from_edge + 1)):
        splits = turn > from_edge  # weight gradients wait from half of this phase on
        (gpu.b if splits else gpu.bw)(1 - turn % 2)
    for _ in range(to_middle):
        gpu.w(), gpu.b(0)
    while gpu.owed:
        gpu.w()
    return gpu.actions


COST = {"F": 1, "B": 1, "W": 1, "BW": 2, "FB": 3}  # F = 1, B = 2, of which W = 1


def parts(action: tuple) -> list[Action]:
    """An action as forwards and backwards of one pipeline each."""
    kind, *rest = action
    if kind == "FB":
        return [("F", *rest[:2]), ("B", *rest[2:])]
    return [(kind[0], *rest)]


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


def _neighbours(part: Action, num_stages: int, rank: int) -> tuple[int, int]:
    """Where a forward or backward of this pipeline comes from, and where it goes."""
    step = 1 if (part[0] == "F") == (part[1] == 0) else -1
    return rank - step, rank + step


def _number(part: Action, num_micro: int) -> int:
    """One number for each message between two ranks."""
    kind, pipeline, micro = part
    return micro + num_micro * (2 * pipeline + (kind == "B"))


def _receives(part: Action, num_stages: int, rank: int, num_micro: int) -> Iterator:
    source, _ = _neighbours(part, num_stages, rank)
    if 0 <= source < num_stages:
        yield Receive("in", source, 0, _number(part, num_micro), "compute")


def _sends(part: Action, num_stages: int, rank: int, num_micro: int) -> Iterator:
    _, target = _neighbours(part, num_stages, rank)
    if 0 <= target < num_stages:
        yield Send("out", target, 0, _number(part, num_micro))
