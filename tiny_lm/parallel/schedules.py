"""Pipeline schedules as data: what each stage does, in which order.

Chapter: 05_comm/slower_link
Source: deepseek_v3, section 3.2.1; zero_bubble

An action is (kind, pipeline, micro-batch), and an "FB" names two of them:

    F    forward
    B    backward for the input alone: what the stage before waits for
    W    backward for the weights: nobody waits for it, so it can fill holes
    BW   both halves of the backward at once
    FB   a forward, and a BW of the other pipeline, as one piece of work in which each
         computes while the other communicates

1F1B and ZB1P have one pipeline, number 0. DualPipe has two that run through the same
ranks in opposite directions, 0 from rank 0 on and 1 from the last rank on: each rank
holds two stages, and while one pipeline fills from its end, so does the other.
"""

from collections import deque
from collections.abc import Callable

Action = tuple  # (kind, pipeline, micro-batch), or ("FB", p, micro, other p, micro)


def one_f_one_b(num_stages: int, rank: int, num_micro: int) -> list[Action]:
    """As many forwards as there are stages behind, then one of each."""
    ahead = min(num_stages - rank - 1, num_micro)
    actions = [("F", 0, number) for number in range(ahead)]
    for number in range(num_micro):
        if number + ahead < num_micro:
            actions.append(("F", 0, number + ahead))
        actions.append(("BW", 0, number))
    return actions


def zb1p(num_stages: int, rank: int, num_micro: int) -> list[Action]:
    """1F1B whose weight gradients come `rank` backwards late, and fill the end."""
    actions: list[Action] = []
    for kind, _, number in one_f_one_b(num_stages, rank, num_micro):
        if kind == "F":
            actions.append(("F", 0, number))
            continue
        actions.append(("B", 0, number))
        if number >= rank:
            actions.append(("W", 0, number - rank))
    late = range(max(0, num_micro - rank), num_micro)
    return actions + [("W", 0, number) for number in late]


class _Rank:
    """One rank of DualPipe; side 0 is the pipeline that starts on its own half."""

    def __init__(self, near: int) -> None:
        self.pipeline = (near, 1 - near)
        self.forward, self.backward = [0, 0], [0, 0]
        self.owed: deque[Action] = deque()  # weight gradients that are not done yet
        self.actions: list[Action] = []

    def _next(self, counts: list[int], side: int) -> Action:
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


def dualpipe(num_stages: int, rank: int, num_micro: int) -> list[Action]:
    """Eight phases, from a pipeline that fills to one that drains.

    Args:
        num_micro: counts both pipelines.

    Raises:
        ValueError: an odd number of stages or of micro-batches, or fewer micro-batches
            than two a stage: the phases would not meet.
    """
    if num_stages % 2 or num_micro % 2 or num_micro < 2 * num_stages:
        raise ValueError(
            f"dualpipe wants even counts and two micro-batches a stage at least, "
            f"got num_stages={num_stages} and num_micro={num_micro}"
        )
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
            # The two middle ranks cannot join them: one feeds the other.
            gpu.f(0), gpu.bw(1)
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


SCHEDULES: dict[str, Callable[[int, int, int], list[Action]]] = {
    "1f1b": one_f_one_b,
    "zb1p": zb1p,
    "dualpipe": dualpipe,
}


def parts(action: Action) -> list[Action]:
    """An action as what it does to one micro-batch each: ("FB", …) is F and BW."""
    kind, *rest = action
    if kind == "FB":
        return [("F", *rest[:2]), ("BW", *rest[2:])]
    return [action]


def stage_of(pipeline: int, num_stages: int, rank: int) -> int:
    """Which stage of this pipeline the rank holds."""
    return num_stages - 1 - rank if pipeline else rank


def neighbours(part: Action, rank: int) -> tuple[int, int]:
    """The ranks, if they exist, that this work comes from and goes to."""
    step = 1 if (part[0] == "F") == (part[1] == 0) else -1
    return rank - step, rank + step
