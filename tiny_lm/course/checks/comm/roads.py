"""Roads between ranks as lab 5's functions are handed them, and ways to walk them.

Chapter: 05_comm/emulated_gpus
Source: course

A road moves rows and knows no gradients, like the kernels that do it on GPUs. What went
over it is written down.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from tiny_lm.course.checks.comm import rehearsal
from tiny_lm.course.checks.comm.rehearsal import AnyGroup

Way = tuple[Tensor, Tensor, list[int], list[int]]


class Road:
    """`road(rows, send_counts, receive_counts)` gives the rows that come.

    Args:
        name: of the argument, "there" or "home".
        trips: what all roads of this rank have carried: names and numbers of rows.
    """

    def __init__(self, name: str, group: AnyGroup, trips: list | None = None) -> None:
        self.name, self.group = name, group
        self.trips = [] if trips is None else trips

    def __call__(
        self, rows: Tensor, send_counts: Sequence[int], receive_counts: Sequence[int]
    ) -> Tensor:
        """The rows that the other ranks send here, in the order of the ranks."""
        counts = (_plain(send_counts), _plain(receive_counts))
        self.trips.append((self.name, len(rows)))
        return rehearsal.all_to_all(rows.detach(), *counts, self.group)

    def __repr__(self) -> str:
        return self.name


def _plain(counts: Sequence[int]) -> list[int]:
    return counts.tolist() if isinstance(counts, Tensor) else [int(n) for n in counts]


def ways(experts: Sequence[Tensor], num_experts: int) -> list[Way]:
    """The way of each rank's rows, from what the tokens of all ranks chose."""
    size = len(experts)
    counts = [e.flatten().bincount(minlength=num_experts) for e in experts]
    table = torch.stack(counts).view(size, size, -1)  # from, to, expert there
    numbers = torch.arange(table.shape[2]).repeat(size)
    found = []
    for rank, chosen in enumerate(experts):
        local = numbers.repeat_interleave(table[:, rank].flatten())
        found.append(
            (
                chosen.flatten().argsort(stable=True),
                local.argsort(stable=True),
                table[rank].sum(1).tolist(),
                table[:, rank].sum(1).tolist(),
            )
        )
    return found


def brought(rows: Sequence[Tensor], way: Sequence[Way]) -> list[Tensor]:
    """What comes home along each rank's way: a row for each choice of its tokens.

    Raises:
        ValueError, IndexError, RuntimeError: the ways do not fit the rows.
    """
    parts = []
    for mine, (_, arriving, _, receives) in zip(rows, way, strict=True):
        back = torch.full_like(mine, torch.nan)
        back[arriving] = mine
        parts.append(back.split(receives))
    found = []
    for rank, (leaving, _, sends, _) in enumerate(way):
        theirs = [part[rank] for part in parts]
        if [len(x) for x in theirs] != sends:
            raise ValueError("counts")
        came = torch.cat(theirs)
        home = torch.full_like(came, torch.nan)
        home[leaving] = came
        found.append(home)
    return found


def carried(choices: Sequence[Tensor], way: Sequence[Way]) -> list[Tensor]:
    """What the experts of each rank get: a row for each choice, along the ways."""
    parts = [
        mine[leaving].split(sends)
        for mine, (leaving, _, sends, _) in zip(choices, way, strict=True)
    ]
    came = [torch.cat([part[rank] for part in parts]) for rank in range(len(way))]
    return [rows[way[rank][1]] for rank, rows in enumerate(came)]
