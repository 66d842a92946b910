"""The orders of all ranks together, and what is wrong with a schedule.

Chapter: 05_comm/pipelines
Source: course

    build("zbv", num_ranks=4, num_micro=8).ranks[0]
    → (("F", 0, 0), ("F", 0, 1), …)       (kind, stage, micro-batch)

Here every stage and every micro-batch has one number, whoever holds it. So all
schedules obey the same four rules, and one checker serves them all:

    each stage does F, B and W of each micro-batch, once, and on one rank
    F of a stage comes after F of the stage before
    B of a stage comes after B of the stage behind, and after its own F
    W of a stage comes after its own B

Even DualPipe needs no rule of its own: the second half of its micro-batches enters at
the last rank, which holds stage 0 as well.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from tiny_lm.parallel.schedules import OF_HALF_STAGES, SCHEDULES, Action, parts
from tiny_lm.parts import require

Part = tuple[str, int, int]  # F, B or W; stage; micro-batch
KINDS = ("F", "B", "W", "BW", "FB")
NAMES = {"F": "goes forward (F)", "B": "goes back (B)", "W": "gives its W"}


@dataclass(frozen=True)
class Schedule:
    """What every rank does, in order.

    Args:
        ranks: for each rank its actions, (kind, stage, micro-batch); a pair is
            ("FB", stage, micro-batch, stage, micro-batch).
    """

    name: str
    num_stages: int
    num_micro: int
    ranks: tuple[tuple[Action, ...], ...]

    @property
    def share(self) -> float:
        """What part of a rank's whole share a stage is: one half where it holds two."""
        return len(self.ranks) / self.num_stages

    @property
    def copies(self) -> float:
        """How many copies of each stage there are."""
        held = [{w[1] for action in row for w in works(action)} for row in self.ranks]
        return sum(map(len, held)) / self.num_stages


def build(name: str, num_ranks: int, num_micro: int) -> Schedule:
    """A schedule of this name for all ranks.

    Raises:
        ValueError: no such schedule, or counts that do not fit it.
    """
    require(
        name in SCHEDULES,
        f"unknown schedule {name!r}; there are: {', '.join(SCHEDULES)}",
    )
    for what, count in (("num_ranks", num_ranks), ("num_micro", num_micro)):
        require(count >= 1, f"{what} must be at least 1, got {count}")
    num_stages = num_ranks * (2 if name in OF_HALF_STAGES else 1)

    def place(rank: int, chunk: int, micro: int) -> tuple[int, int]:
        if name == "dualpipe":
            own = chunk * num_micro // 2  # each pipeline counts from 0
            return (num_ranks - 1 - rank if chunk else rank), micro + own
        if name in ("zbv", "dualpipev"):
            return (num_stages - 1 - rank if chunk else rank), micro
        return chunk * num_ranks + rank, micro

    ranks = []
    for rank in range(num_ranks):
        row = []
        for kind, *which in SCHEDULES[name](num_ranks, rank, num_micro):
            placed = [place(rank, *which[n : n + 2]) for n in range(0, len(which), 2)]
            row.append((kind, *chain.from_iterable(placed)))
        ranks.append(tuple(row))
    return Schedule(name, num_stages, num_micro, tuple(ranks))


def works(action: Action) -> list[Part]:
    """An action as single works: F, B and W of one micro-batch on one stage each."""
    return [
        (kind, *which)
        for half, *which in parts(action)
        for kind in (("B", "W") if half == "BW" else (half,))
    ]


def needs(action: Action, num_stages: int) -> list[Part]:
    """What must be done before this action can begin."""
    return [need for part in parts(action) for need in _needs(part, num_stages)]


def _needs(part: Action, num_stages: int) -> list[Part]:
    kind, stage, micro = part
    if kind == "W":
        return [("B", stage, micro)]
    if kind == "F":
        return [("F", stage - 1, micro)] if stage else []
    behind = [("B", stage + 1, micro)] if stage + 1 < num_stages else []
    return [("F", stage, micro), *behind]


def in_some_order(schedule: Schedule) -> Iterator[tuple[int, Action]]:
    """Ranks and actions so that all that an action needs comes before it.

    It ends early where nobody can go on.
    """
    places, done, going = [0] * len(schedule.ranks), set(), True
    while going:
        going = False
        for rank, actions in enumerate(schedule.ranks):
            while places[rank] < len(actions):
                action = actions[places[rank]]
                if not done.issuperset(needs(action, schedule.num_stages)):
                    break
                done.update(works(action))
                places[rank] += 1
                going = True
                yield rank, action


def complaint(schedule: Schedule, most_alive: float | None = None) -> str | None:
    """The first thing that is wrong with a schedule, in one sentence; None: nothing.

    Args:
        most_alive: micro-batches whose activations a rank may keep at a time, in units
            of its whole share; without it, memory is not looked at.
    """
    for check in (_unknown, _how_often, _stuck):
        if found := check(schedule):
            return found
    if most_alive is None:
        return None
    for rank, peak in enumerate(peak_alive(schedule)):
        if peak > most_alive:
            return (
                f"rank {rank} keeps {peak:g} micro-batches alive at a time, "
                f"and {most_alive:g} are allowed"
            )
    return None


def peak_alive(schedule: Schedule, until: str = "B") -> list[float]:
    """Micro-batches whose activations a rank keeps at the worst moment.

    A micro-batch on one of two stages counts one half.

    Args:
        until: `B` or `W`: what frees activations. What W needs, the inputs of products,
            is in truth a part of them, so the answer lies between the two.

    Raises:
        ValueError: neither `B` nor `W`.
    """
    require(until in ("B", "W"), f"until must be B or W, got {until!r}")
    peaks = []
    for actions in schedule.ranks:
        alive = peak = 0
        for action in actions:
            steps = [(kind == "F") - (kind == until) for kind, *_ in works(action)]
            alive, peak = alive + sum(steps), max(peak, alive + max(0, *steps))
        peaks.append(peak * schedule.share)
    return peaks


def _say(work: Part) -> str:
    kind, stage, micro = work
    return f"{kind} of micro-batch {micro} on stage {stage}"


def _unknown(schedule: Schedule) -> str | None:
    for rank, actions in enumerate(schedule.ranks):
        for action in actions:
            fits = action[0] in KINDS and len(action) == (5 if action[0] == "FB" else 3)
            numbers = action[1:]
            limits = (schedule.num_stages, schedule.num_micro) * 2
            within = zip(numbers, limits, strict=False)
            if not fits or not all(0 <= n < limit for n, limit in within):
                return f"rank {rank} has an action that means nothing: {action!r}"
    return None


def _how_often(schedule: Schedule) -> str | None:
    """Each work once, and the works of a micro-batch on a stage on one rank."""
    where: dict[Part, list[int]] = {}
    for rank, actions in enumerate(schedule.ranks):
        for action in actions:
            for work in works(action):
                where.setdefault(work, []).append(rank)
    for stage in range(schedule.num_stages):
        for micro in range(schedule.num_micro):
            for kind, name in NAMES.items():
                ranks = where.get((kind, stage, micro), [])
                if not ranks:
                    return f"micro-batch {micro} never {name} on stage {stage}"
                if len(ranks) > 1:
                    return f"{_say((kind, stage, micro))} is done {len(ranks)} times"
                if ranks != where["F", stage, micro]:
                    return (
                        f"{_say((kind, stage, micro))} is on rank {ranks[0]}, but "
                        f"its F on rank {where['F', stage, micro][0]}"
                    )
    return None


def _stuck(schedule: Schedule) -> str | None:
    """Who cannot go on, and whether it is their own order that is wrong."""
    done, places = set(), Counter()
    for rank, action in in_some_order(schedule):
        done.update(works(action))
        places[rank] += 1
    waiting = {
        rank: actions[places[rank] :]
        for rank, actions in enumerate(schedule.ranks)
        if places[rank] < len(actions)
    }
    if not waiting:
        return None
    found = [
        (rank, action, need)
        for rank, (action, *_) in waiting.items()
        for need in needs(action, schedule.num_stages)
        if need not in done
    ]
    for rank, action, need in found:
        if any(need in works(later) for later in waiting[rank]):
            return f"rank {rank} wants to do {_told(action)} before {_say(need)}"
    rank, action, need = found[0]
    other = next(
        r for r, rest in waiting.items() if any(need in works(a) for a in rest)
    )
    return (
        f"nobody can go on: rank {rank} waits with {_told(action)} for {_say(need)}, "
        f"but rank {other} first wants to do {_told(waiting[other][0])}, "
        f"which waits too"
    )


def _told(action: Action) -> str:
    return " and ".join(_say(part) for part in parts(action))


def of_lists(ranks: Sequence[Sequence[Action]], name: str = "yours") -> Schedule:
    """A schedule from plain lists, as a lab or an explorer has them.

    Raises:
        ValueError: nobody does anything.
    """
    numbers = [which for row in ranks for a in row for _, *which in parts(tuple(a))]
    require(bool(numbers), "no rank does anything")
    num_stages, num_micro = (1 + max(column) for column in zip(*numbers, strict=True))
    rows = tuple(tuple(map(tuple, row)) for row in ranks)
    return Schedule(name, num_stages, num_micro, rows)
