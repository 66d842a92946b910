"""Task 5.3's inputs, and what is looked at: where rows are, and how they find home.

Chapter: 05_comm/emulated_gpus
Source: course

Which of an expert's rows comes first is free, so rows are listed in a fixed order; and
a way is followed home, whatever order it belongs to.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from tiny_lm.course.checks.answer import Answer
from tiny_lm.course.checks.case import Probe
from tiny_lm.course.checks.comm import rehearsal as comm
from tiny_lm.course.checks.comm.ranks import on_ranks, once_each
from tiny_lm.course.checks.comm.rehearsal import AnyGroup
from tiny_lm.course.checks.comm.roads import Road, Way, brought
from tiny_lm.course.checks.result import conform

Given = list[tuple[Tensor, Tensor, int]]  # of each rank: x, experts, num_experts
RESULTS = ("rows", "load", "way")
WAY = ("leaving", "arriving", "send_counts", "receive_counts")


def use(function: Callable, group: AnyGroup, *given: Any) -> tuple | None:
    """The call of one rank: the result, the trips of rows, and other bytes."""
    there = Road("there", group)
    with comm.metering(group) as meter:
        result = function(*given, group, there)
    if result is None:
        return None
    return result, there.trips, meter.total_bytes - meter.num_bytes["all_to_all"]


def observed(answer: Answer, reference: Callable, given: Given) -> dict[str, Any]:
    """What all ranks got, by name."""
    found = on_ranks(answer, use, given)
    likes = found
    if answer.function is not reference:
        likes = on_ranks(Answer(reference, answer.name), use, given)
    load = likes[0][0][1].tolist()
    results = []
    for (result, *_), (like, *_) in zip(found, likes, strict=True):
        result = conform(result, _as_long(result, like), RESULTS, False)
        results.append((*result[:2], _way(result[2], like[2])))
    seen: dict[str, Any] = {}
    for rank, (rows, *_) in enumerate(results):
        seen[f"rows on rank {rank}:"] = listed(rows)
    for rank, (rows, *_) in enumerate(results):
        ids = _experts_of(rank, load, len(given), len(rows))
        for expert in _local(rank, load, len(given)):
            seen[f"rows of expert {expert}:"] = listed(rows[ids == expert])
    for rank, (_, counted, _) in enumerate(results):
        seen[f"load on rank {rank}:"] = counted
    seen |= _homecoming(results, load)
    for rank, (_, trips, more) in enumerate(found):
        seen[f"rows that rank {rank} sends:"] = sum(n for _, n in trips)
        few = 32 * len(load) * len(given)
        seen[f"beside rows, rank {rank} sends"] = "counts" if more <= few else "more"
    return seen


def listed(rows: Tensor) -> Tensor:
    """Rows in an order that is always the same."""
    return torch.tensor(sorted(rows.tolist())).view(rows.shape).to(rows)


def _local(rank: int, load: list[int], size: int) -> range:
    each = len(load) // size
    return range(rank * each, (rank + 1) * each)


def _experts_of(rank: int, load: list[int], size: int, num_rows: int) -> Tensor:
    """Whose rows they are, if they stand expert after expert; -1 beyond."""
    mine = _local(rank, load, size)
    ids = torch.tensor(mine).repeat_interleave(
        torch.tensor(load)[mine.start : mine.stop]
    )
    return F.pad(ids, (0, max(0, num_rows - len(ids))), value=-1)[:num_rows]


def _way(way: Any, like: Way) -> Way:
    way = tuple(way) if isinstance(way, list) else way
    if isinstance(way, tuple) and len(way) == len(WAY):
        counts = (x.tolist() if isinstance(x, Tensor) else list(x) for x in way[2:])
        way = (*way[:2], *counts)
    return conform(way, _as_long(way, like), WAY, True)


def _as_long(got: Any, like: tuple) -> tuple:
    """What is promised, but as many as came: how many is looked at later."""
    if not isinstance(got, tuple | list) or len(got) != len(like):
        return like
    pairs = zip(got, like, strict=True)
    return tuple(
        y.new_zeros(x.shape)
        if isinstance(x, Tensor) and isinstance(y, Tensor) and x.dim() == y.dim()
        else y
        for x, y in pairs
    )


def _homecoming(results: Sequence[tuple], load: list[int]) -> dict[str, Any]:
    """What each choice finds when all rows go home along the ways as they are."""
    names = [f"home to rank {rank}, row and expert:" for rank in range(len(results))]
    marked = []
    for rank, (rows, *_) in enumerate(results):
        ids = _experts_of(rank, load, len(results), len(rows))
        marked.append(torch.cat([rows.double(), ids[:, None].double()], dim=1))
    try:
        home = brought(marked, [way for *_, way in results])
    except (ValueError, IndexError, RuntimeError):
        return dict.fromkeys(names, "the counts do not lead there")
    return dict(zip(names, home, strict=True))


def small(
    reference: Callable, experts: Sequence[list], num_experts: int, note: str = ""
) -> Probe:
    """Rows whose numbers tell rank and token: 21 is token 1 of rank 2.

    Args:
        experts: of each rank, what its tokens chose.
    """
    top_k = max(len(row) for rank in experts for row in rank)
    given = [
        (
            10.0 * rank + torch.arange(len(chosen))[:, None],
            torch.tensor(chosen, dtype=torch.int64).view(-1, top_k),
            num_experts,
        )
        for rank, chosen in enumerate(experts)
    ]

    @once_each
    def see(answer: Answer, generator: Generator) -> dict[str, Any]:
        fresh = [tuple(x.clone() for x in one[:2]) + one[2:] for one in given]
        return observed(answer, reference, fresh)

    lines = [
        f"{num_experts} experts on {len(experts)} ranks; row 10 is token 0 of rank 1"
    ]
    lines += chosen_by(experts)
    return Probe(see, "\n".join([*lines, *([note] if note else [])]))


def chosen_by(experts: Sequence[list]) -> list[str]:
    """For each rank a line: which token goes to which experts."""
    lines = []
    for rank, chosen in enumerate(experts):
        texts = [
            f"{10 * rank + token} to {' and '.join(map(str, row))}"
            for token, row in enumerate(chosen)
        ]
        lines.append(f"rank {rank}: {', '.join(texts) or 'no tokens'}")
    return lines


def random(
    reference: Callable, sizes: Sequence[int], num_experts: int, k: int, width: int
) -> Probe:
    """Tokens at random, so many on each rank; no expert twice for one token."""

    @once_each
    def see(answer: Answer, generator: Generator) -> dict[str, Any]:
        given = []
        for n in sizes:
            scores = torch.rand(n, num_experts, generator=generator) ** 2
            x = torch.randn(n, width, generator=generator)
            given.append((x, scores.topk(k).indices, num_experts))
        return observed(answer, reference, given)

    many = ", ".join(map(str, sizes))
    return Probe(see, f"{many} tokens on the ranks, {num_experts} experts, {k} a token")
