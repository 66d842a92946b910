"""Pipeline schedules as data: what each rank does, in which order.

Chapter: 05_comm/pipelines
Source: gpipe; megatron_interleaved; zero_bubble; deepseek_v3, section 3.2.1; dualpipe

An action is (kind, chunk, micro-batch), and an "FB" names two of them:

    F    forward
    B    backward for the input alone: what the stage before waits for
    W    backward for the weights: nobody waits for it, so it can fill holes
    BW   both halves of the backward at once
    FB   a forward, and a BW of another micro-batch, as one piece of work in which each
         computes while the other communicates

The *chunk* says which of the rank's stages works. GPipe, 1F1B and ZB1P give a rank one
stage, number 0. Others give it two:

    interleaved      rank r of p holds the stages r and p + r: the pipeline goes round
                     twice
    zbv, dualpipev   r and 2p - 1 - r: it goes there and back, like a V
    dualpipe         r and p - 1 - r of *two* pipelines that run in opposite directions:
                     while one fills from its end, so does the other. Every stage has
                     two copies, and each pipeline numbers its own micro-batches

`whole_schedules` puts the ranks together, and checks them.
"""

from collections import deque
from collections.abc import Callable

Action = tuple  # (kind, pipeline, micro-batch), or ("FB", p, micro, other p, micro)


def gpipe(num_stages: int, rank: int, num_micro: int) -> list[Action]:
    """All forwards, then all backwards: every rank does the same."""
    return [(kind, 0, number) for kind in ("F", "BW") for number in range(num_micro)]


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


def interleaved(
    num_ranks: int, rank: int, num_micro: int, extra: int = 0
) -> list[Action]:
    """1F1B in which each rank holds two stages, half as long: the pipe fills sooner.

    Micro-batches go in groups of as many as there are ranks: a group passes a rank's
    first stage, then its second.

    Args:
        extra: forwards that are done before the first backward, beyond those needed.
            With one of them each forward and backward that follow each other are of
            different micro-batches, and become a pair: one hides what the other sends.

    Raises:
        ValueError: the micro-batches are no whole number of groups.
    """
    if num_micro % num_ranks:
        raise ValueError(
            f"interleaved wants micro-batches in groups of num_ranks={num_ranks}, "
            f"got num_micro={num_micro}"
        )
    turns = [
        (chunk, first + number)
        for first in range(0, num_micro, num_ranks)
        for chunk in (0, 1)
        for number in range(num_ranks)
    ]
    ahead = min(num_ranks + 2 * (num_ranks - rank - 1) + extra, len(turns))
    actions: list[Action] = [("F", *turn) for turn in turns[:ahead]]
    for done, (chunk, micro) in enumerate(turns):
        backward = (1 - chunk, micro)
        if done + ahead >= len(turns):
            actions.append(("BW", *backward))
        elif extra:
            actions.append(("FB", *turns[done + ahead], *backward))
        else:
            actions += [("F", *turns[done + ahead]), ("BW", *backward)]
    return actions


def interleaved_pairs(num_ranks: int, rank: int, num_micro: int) -> list[Action]:
    """Interleaved with one more forward first, and pairs from then on.

    Source: kimi_k2, section 2.4.2
    """
    return interleaved(num_ranks, rank, num_micro, extra=1)


class _Rank:
    """One rank with two stages: sides 0 and 1, whose work it counts and writes down."""

    def __init__(self, near: int = 0) -> None:
        self.chunk = (near, 1 - near)
        self.forward, self.backward = [0, 0], [0, 0]
        self.owed: deque[Action] = deque()  # weight gradients that are not done yet
        self.actions: list[Action] = []

    def _next(self, counts: list[int], side: int) -> Action:
        counts[side] += 1
        return self.chunk[side], counts[side] - 1

    def f(self, side: int) -> None:
        self.actions.append(("F", *self._next(self.forward, side)))

    def bw(self, side: int) -> None:
        self.actions.append(("BW", *self._next(self.backward, side)))

    def b(self, side: int) -> None:
        self.owed.append(self._next(self.backward, side))
        self.actions.append(("B", *self.owed[-1]))

    def owes(self, side: int) -> list[Action]:
        return [which for which in self.owed if which[0] == self.chunk[side]]

    def w(self, side: int | None = None) -> None:
        """The weight gradient that is owed longest, of this side or of both."""
        which = self.owed[0] if side is None else self.owes(side)[0]
        self.owed.remove(which)
        self.actions.append(("W", *which))

    def fb(self, side: int) -> None:
        """A forward of this side and a backward of the other, as one."""
        forward = self._next(self.forward, side)
        self.actions.append(("FB", *forward, *self._next(self.backward, 1 - side)))


def zbv(num_ranks: int, rank: int, num_micro: int) -> list[Action]:
    """The pipeline as a V: the rank with the first stage has the last one, too.

    Raises:
        ValueError: fewer micro-batches than the filling of the V takes.
    """
    if num_micro < 2 * num_ranks - 1:
        raise ValueError(
            f"zbv wants at least {2 * num_ranks - 1} micro-batches on "
            f"num_ranks={num_ranks}, got num_micro={num_micro}"
        )
    gpu, to_middle = _Rank(), num_ranks - rank - 1
    for _ in range(2 * to_middle + 1):
        gpu.f(0)
    for _ in range(rank):
        gpu.f(1), gpu.f(0)
    for _ in range(to_middle + 1):
        gpu.f(1), gpu.b(1), gpu.w()
    while gpu.forward[1] < num_micro:
        if gpu.forward[0] < num_micro:
            gpu.f(0)
        gpu.b(0), gpu.w(), gpu.f(1), gpu.b(1), gpu.w()
    for _ in range(rank):
        gpu.b(0), gpu.b(1)
    for _ in range(to_middle + 1):
        gpu.b(0), gpu.w(0)
    for side in (1, 0):
        while gpu.owes(side):
            gpu.w(side)
    return gpu.actions


def dualpipe(num_stages: int, rank: int, num_micro: int) -> list[Action]:
    """Two pipelines that meet.

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
    return _two_sides(_Rank(int(rank >= half)), half, from_edge, num_micro // 2)


def dualpipev(num_ranks: int, rank: int, num_micro: int) -> list[Action]:
    """DualPipe folded in the middle: one V, half the ranks, one copy of each stage.

    Raises:
        ValueError: fewer micro-batches than two a rank.
    """
    if num_micro < 2 * num_ranks:
        raise ValueError(
            f"dualpipev wants two micro-batches a rank at least, "
            f"got num_ranks={num_ranks} and num_micro={num_micro}"
        )
    return _two_sides(_Rank(), num_ranks, rank, num_micro)


def _two_sides(gpu: _Rank, half: int, from_edge: int, num_each: int) -> list[Action]:
    """Eight phases, from a pipeline that fills to one that drains."""
    to_middle = half - from_edge - 1
    for _ in range(2 * to_middle):
        gpu.f(0)
    for _ in range(from_edge + 1):
        gpu.f(0), gpu.f(1)
    for _ in range(to_middle):
        gpu.b(1), gpu.w(), gpu.f(1)
    for turn in range(num_each - 2 * half + from_edge + 1):
        if turn == 0 and to_middle == 0:
            # The ranks in the middle cannot join them: one feeds the other.
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


Order = Callable[[int, int, int], list[Action]]  # of (num_ranks, rank, num_micro)
# A rank's chunks are whole stages: one of each pipeline that passes it.
OF_WHOLE_STAGES: dict[str, Order] = {
    "gpipe": gpipe,
    "1f1b": one_f_one_b,
    "zb1p": zb1p,
    "dualpipe": dualpipe,
}
# A rank's two chunks are two stages of the one pipeline, which has twice as many.
OF_HALF_STAGES: dict[str, Order] = {
    "interleaved": interleaved,
    "interleaved_pairs": interleaved_pairs,
    "zbv": zbv,
    "dualpipev": dualpipev,
}
SCHEDULES = OF_WHOLE_STAGES | OF_HALF_STAGES


def parts(action: Action) -> list[Action]:
    """An action as what it does to one micro-batch each: ("FB", …) is F and BW."""
    kind, *rest = action
    if kind == "FB":
        return [("F", *rest[:2]), ("BW", *rest[2:])]
    return [action]


def stage_of(pipeline: int, num_stages: int, rank: int) -> int:
    """Which stage of this pipeline the rank holds, if it holds whole stages."""
    return num_stages - 1 - rank if pipeline else rank


def neighbours(part: Action, rank: int) -> tuple[int, int]:
    """The ranks, if they exist, that work of a whole stage comes from and goes to."""
    step = 1 if (part[0] == "F") == (part[1] == 0) else -1
    return rank - step, rank + step
