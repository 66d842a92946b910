"""Task 5.5's inputs, and what is looked at: numbers that arrive, calls and bytes.

Chapter: 05_comm/emulated_gpus
Source: course
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from tiny_lm.course.checks.answer import Answer
from tiny_lm.course.checks.case import Probe
from tiny_lm.course.checks.comm import rehearsal
from tiny_lm.course.checks.comm.ranks import on_ranks, once_each
from tiny_lm.course.checks.comm.rehearsal import AnyGroup
from tiny_lm.course.checks.expect import Mismatch, show
from tiny_lm.course.checks.result import conform

TWO_ROADS = "The function returns two functions, there and home, with a comma between."
NO_ROWS = "A road returns rows of numbers: code times scale, where codes came."
EACH_ONE = [[int(to == (rank + 1) % 4) for to in range(4)] for rank in range(4)]


def use(
    function: Callable,
    group: AnyGroup,
    there: Tensor,
    home: Tensor,
    sends: list[int],
    receives: list[int],
    tile: int,
) -> Any:
    """The call of one rank, and a trip over both of its roads."""
    roads = function(group, tile)
    if roads is None:
        return None
    if not isinstance(roads, tuple | list) or len(roads) != 2:
        return show(roads)
    if not all(callable(road) for road in roads):
        return show(roads)
    seen = []
    trips = (there, sends, receives), (home, receives, sends)
    for road, (rows, leave, come) in zip(roads, trips, strict=True):
        with rehearsal.metering(group) as meter:
            came = road(rows.clone(), list(leave), list(come))
        calls = ", ".join(f"{n} {kind}" for kind, n in sorted(meter.calls.items()))
        came = came.detach() if isinstance(came, Tensor) else show(came)
        if isinstance(came, Tensor) and came.element_size() == 1:
            came = f"{str(came.dtype).removeprefix('torch.')}"  # cannot be sent back
        seen.append((came, meter.total_bytes, calls or "none"))
    return seen


def observed(
    answer: Answer, rows: Sequence[Tensor], table: list[list[int]], tile: int
) -> dict[str, Any]:
    """What all ranks got over both roads, by name.

    Args:
        rows: that each rank sends there; home go other ones.
        table: how many from which rank to which.
    """
    given = []
    for rank, mine in enumerate(rows):
        receives = [row[rank] for row in table]
        back = mine.new_zeros(sum(receives), mine.shape[1])
        back += 1 + 2**-9 + torch.arange(back.numel()).view(back.shape) / 16
        given.append((mine, back, table[rank], receives, tile))
    found = on_ranks(answer, use, given)
    for trips in found:
        if isinstance(trips, str):
            call = f"{answer.name}(group, {tile})"
            raise Mismatch(call, "two functions", trips, TWO_ROADS)
    seen: dict[str, Any] = {}
    for which, name in enumerate(("there", "home")):
        for rank, trips in enumerate(found):
            came, _, _ = trips[which]
            if isinstance(came, str):
                raise Mismatch(f"rows, {name}", "a tensor of FP32", came, NO_ROWS)
            like = torch.zeros(0, rows[rank].shape[1])
            if getattr(came, "ndim", 0) == 2:
                like = like.new_zeros(came.shape)
            seen[f"{name}, to rank {rank} came"] = conform(came, like, (name,), False)
        for rank, trips in enumerate(found):
            _, num_bytes, calls = trips[which]
            seen[f"{name}, calls of rank {rank}:"] = calls
            seen[f"{name}, bytes that rank {rank} sends:"] = num_bytes
    return seen


def by_hand(rows: list[list[float]], tile: int, note: str) -> Probe:
    """Each rank sends these rows to the next, rank 1 twice as large ones, and so on."""

    @once_each
    def see(answer: Answer, generator: Generator) -> dict[str, Any]:
        table = [[n * len(rows) for n in row] for row in EACH_ONE]
        sent = [2.0**rank * torch.tensor(rows) for rank in range(4)]
        return observed(answer, sent, table, tile)

    lines = [
        f"tile {tile}; each rank sends to the next, the last to rank 0: rank 0",
        f"{show(rows)}, rank 1 twice that, and so on",
        note,
    ]
    return Probe(see, "\n".join(lines))


def random(width: int, tile: int, most: int = 4) -> Probe:
    """Numbers of all sizes, and counts at random, of which many are 0.

    Widths are multiples of 4: torch makes no FP32 of fewer than two rows of a slice
    that begins elsewhere, which is no concern of this task.
    """

    @once_each
    def see(answer: Answer, generator: Generator) -> dict[str, Any]:
        table = torch.randint(-2, most, (4, 4), generator=generator).clamp(min=0)
        table[2] = 0
        sent = []
        for row in table:
            shape = int(row.sum()), width
            sizes = torch.exp2(8 * torch.randn(shape, generator=generator))
            sent.append(sizes * torch.randn(shape, generator=generator))
        return observed(answer, sent, table.tolist(), tile)

    text = f"rows of {width} in tiles of {tile}, a random number to each rank"
    return Probe(see, text)
