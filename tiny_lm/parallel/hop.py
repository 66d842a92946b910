"""One hop of a token on its way: who gets a copy, and how the answers come back.

Chapter: 05_comm/experts_apart
Source: deepseek_v3, section 3.2.2; deep_ep

A hop begins with *items* and with what each of them wants: a table of yes and no, one
column an expert. The experts belong to the members of a group, in order. An item goes
once to each member that holds an expert it wants, however many it wants there:

    items     wants of member 0    of member 1        copies that leave
      a        yes  no              yes  yes           a, c to member 0
      b        no   no              no   yes           a, b to member 1
      c        yes  yes             no   no

With each copy goes its row of that table, a bit an expert, so that the next hop knows
where to go on. What comes back is one row a copy, and an item adds up those of its own.

A *choice* is one yes of the table. Weights have a value a choice; values travel beside
the copies, in the order of members, items and experts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor

from tiny_lm.gpus import comm
from tiny_lm.gpus.mesh import Group


@dataclass(frozen=True)
class Hop:
    """Where every copy goes, and so how to bring its answer back.

    item_of_copy: [copies], sorted by member
    copies_by_item, starts: [copies] and [n], an item's copies, from its start on
    sends, receives: copies to and from each member
    choices: the choices, numbered item by item, in the order in which they leave
    choice_sends, choice_receives: values to and from each member
    """

    group: Group
    item_of_copy: Int[Tensor, " copies"]
    copies_by_item: Int[Tensor, " copies"]
    starts: Int[Tensor, " n"]
    sends: Sequence[int]
    receives: Sequence[int]
    choices: Int[Tensor, " choices"]
    choice_sends: Sequence[int]
    choice_receives: Sequence[int]

    def out(self, items: Shaped[Tensor, "n W"]) -> Shaped[Tensor, "m W"]:
        """Copies of the items leave, and those for this rank arrive, by sender."""
        rows = items.index_select(0, self.item_of_copy)
        return comm.all_to_all(rows, self.sends, self.receives, self.group)

    def back(self, rows: Shaped[Tensor, "m W"]) -> Shaped[Tensor, "copies W"]:
        """One row for each copy that arrived goes home to where the copy came from."""
        return comm.all_to_all(rows, self.receives, self.sends, self.group)

    def add_up(self, rows: Float[Tensor, "copies D"]) -> Float[Tensor, "n D"]:
        """The sum of each item's rows, in the order of the members."""
        return sum_bags(rows, self.copies_by_item, self.starts)

    def values_out(self, values: Float[Tensor, " n"]) -> Float[Tensor, " m"]:
        """One number a choice leaves with the copies."""
        leaving = values.index_select(0, self.choices)
        counts = self.choice_sends, self.choice_receives
        return comm.all_to_all(leaving, *counts, self.group)

    def values_back(self, values: Float[Tensor, " m"]) -> Float[Tensor, " n"]:
        """One number a choice comes home."""
        counts = self.choice_receives, self.choice_sends
        home = comm.all_to_all(values, *counts, self.group)
        return torch.empty_like(home).index_copy_(0, self.choices, home)


def plan_hop(
    wanted: Bool[Tensor, "n E"], origins: Sequence[int], group: Group
) -> tuple[Hop, Bool[Tensor, "m e"], Int[Tensor, "ranks n_origins"]]:
    """Tell the members what will come: one exchange of counts and one of wants.

    Args:
        wanted: which experts of the group each item wants; each wants one or more.
        origins: how many of the items, in order, came from each origin.

    Returns:
        The hop, what the arriving copies want of this member's experts, and how many
        of them came from each member and, before, from each of its origins.
    """
    of_member = wanted.unflatten(1, (group.size, -1))
    needed = of_member.any(-1)
    member, item = needed.T.nonzero(as_tuple=True)
    by_origin = needed.split(list(origins))
    counts = torch.stack([part.sum(0) for part in by_origin], dim=1).int()
    arriving = comm.all_to_all_counts(counts, group)
    sends, receives = torch.stack([counts, arriving]).sum(-1).tolist()
    bits = pack_bits(of_member[item, member])
    arrived = comm.all_to_all(bits, sends, receives, group)
    wants = unpack_bits(arrived, of_member.shape[-1])
    hop = Hop(
        group,
        item_of_copy=item,
        copies_by_item=item.argsort(stable=True),
        starts=starts_of(needed.sum(1)),
        sends=sends,
        receives=receives,
        choices=number_choices(of_member).transpose(0, 1)[of_member.transpose(0, 1)],
        choice_sends=of_member.sum((0, 2)).tolist(),
        choice_receives=[int(part.sum()) for part in wants.split(receives)],
    )
    return hop, wants, arriving


def number_choices(wanted: Bool[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """0, 1, 2, … at each yes, from the first item to the last."""
    return (wanted.flatten().cumsum(0) - 1).view(wanted.shape)


def starts_of(counts: Int[Tensor, " n"]) -> Int[Tensor, " n"]:
    """Where each run begins, if they stand one after the other."""
    return counts.cumsum(0) - counts


def sum_bags(
    rows: Float[Tensor, "R D"],
    members: Int[Tensor, " choices"],
    starts: Int[Tensor, " n"],
    weights: Float[Tensor, " choices"] | None = None,
) -> Float[Tensor, "n D"]:
    """Sums of rows, weighted or not: bag i begins at `starts[i]` in `members`."""
    if not len(starts):
        return rows.new_zeros(0, rows.shape[-1])
    return F.embedding_bag(
        members, rows, starts, mode="sum", per_sample_weights=weights
    )


def pack_bits(table: Bool[Tensor, "copies e"]) -> UInt8[Tensor, "copies bytes"]:
    """Eight columns a byte."""
    padded = F.pad(table, (0, -table.shape[1] % 8)).unflatten(1, (-1, 8))
    return (padded * _powers(table)).sum(-1, dtype=torch.uint8)


def unpack_bits(
    packed: UInt8[Tensor, "copies bytes"], num_columns: int
) -> Bool[Tensor, "copies e"]:
    """What `pack_bits` packed."""
    bits = (packed.unsqueeze(-1) & _powers(packed)) != 0
    return bits.flatten(1)[:, :num_columns]


def _powers(like: Tensor) -> UInt8[Tensor, "8"]:
    return 2 ** torch.arange(8, dtype=torch.uint8, device=like.device)
