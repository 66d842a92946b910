"""Who talks to whom: groups of ranks, and meshes whose axes are groups.

Chapter: 05_comm/emulated_gpus
Source: torch_distributed

A `Group` is handed to whatever communicates, so a function's signature says with whom
it talks. A group of one needs no process group: every collective is the identity, and
the same code trains on a single process.
"""

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Group:
    """Some ranks, as one of them sees it.

    rank: my place in the group, 0..size-1; not my place in the world
    size: how many we are
    process_group: torch's handle; None for a group of one

    Raises:
        ValueError: `rank` lies outside, or several ranks have no process group.
    """

    rank: int
    size: int
    process_group: dist.ProcessGroup | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"rank={self.rank} is not one of size={self.size} ranks")
        if self.size > 1 and self.process_group is None:
            raise ValueError(f"a group of size={self.size} needs a process group")

    @property
    def members(self) -> tuple[int, ...]:
        """The world's ranks that belong to it, in the group's order."""
        if self.process_group is None:
            return (0,)
        return tuple(dist.get_process_group_ranks(self.process_group))


def solo() -> Group:
    """A group of one: nobody to talk to."""
    return Group(rank=0, size=1)


def world() -> Group:
    """All ranks there are; a group of one where no ranks were started."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return solo()
    return Group(dist.get_rank(), dist.get_world_size(), dist.group.WORLD)


def apart(group: Group) -> Group:
    """The same ranks on wires of their own: a second group, whose calls go apart.

    What is under way in one does not hold up the other. The board and a tape number all
    calls of the same ranks in one row, so ranks still have to agree on their order.
    Every rank of the group must call this.
    """
    if group.size == 1:
        return group
    ranks = list(group.members)
    handle = dist.new_group(ranks, use_local_synchronization=True)
    return Group(group.rank, group.size, handle)


def operations() -> int:
    """How many operations the default group has made, whoever asked for them."""
    return dist.group.WORLD._get_sequence_number_for_group()


class Mesh:
    """The world laid out as a grid with named axes; each axis gives a group.

    `Mesh({"dp": 2, "ep": 4})` puts ranks 0-3 in the first row and 4-7 in the second.
    Rank 5 then has `mesh["ep"]` of ranks 4, 5, 6, 7, where it is number 1, and
    `mesh["dp"]` of ranks 1 and 5, where it is number 1 as well. Neighbours on the last
    axis are neighbours in the machine, so the axis that talks most goes last.

    Every rank must make the same mesh: making it is itself a collective.

    Raises:
        ValueError: the sizes of the axes do not multiply to the number of ranks.
    """

    def __init__(self, axes: dict[str, int]) -> None:
        everyone = world()
        if math.prod(axes.values()) != everyone.size or min(axes.values()) < 1:
            sizes = " x ".join(f"{name}={size}" for name, size in axes.items())
            raise ValueError(f"a mesh of {sizes} does not cover {everyone.size} ranks")
        self.axes = dict(axes)
        self._groups = {
            name: _along(dim, everyone, tuple(axes.values()))
            for dim, name in enumerate(axes)
        }

    def __getitem__(self, axis: str) -> Group:
        if axis not in self._groups:
            known = ", ".join(self._groups)
            raise ValueError(f"no axis {axis!r} in this mesh; there are: {known}")
        return self._groups[axis]


def _along(dim: int, everyone: Group, sizes: tuple[int, ...]) -> Group:
    """This rank's group among all lines of the grid that run along `dim`."""
    size = sizes[dim]
    if size == 1:
        return solo()
    if size == everyone.size:
        return everyone
    grid = torch.arange(everyone.size).view(sizes)
    lines = grid.movedim(dim, -1).reshape(-1, size).tolist()
    mine, _ = dist.new_subgroups_by_enumeration(lines)
    return Group(dist.get_rank(mine), size, mine)
