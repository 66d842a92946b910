"""Task 5.3, uneven choices: nothing is dropped, and nobody stays away.

Chapter: 05_comm/emulated_gpus
Source: deepseek_v3, section 3.2.2; gshard
"""

import torch

from tiny_lm.course.checks.comm import rehearsal as comm
from tiny_lm.course.checks.comm.dispatch import (
    ARRIVED,
    EACH_EXPERT,
    UNEVEN,
    dispatch,
    task_5_3,
)

whole = task_5_3.asks(
    "no row is lost or doubled: experts that nobody chose, a rank without tokens",
    UNEVEN,
    only=(*ARRIVED, *EACH_EXPERT),
)


@whole.mistake(
    "An expert takes no more than a fixed number of rows, and the others were dropped. "
    "Nothing is dropped here, however many want the same expert."
)
def with_a_capacity(x, experts, num_experts, group, there):
    k = experts.shape[1]
    flat = experts.flatten()
    order = flat.argsort(stable=True)
    place = torch.arange(len(flat)) - torch.searchsorted(flat[order], flat[order])
    leaving = order[place < max(1, -(-5 * len(flat) // (4 * num_experts)))]
    counts = flat[leaving].bincount(minlength=num_experts)
    table = comm.all_gather(counts[None], group)
    by_rank = table.view(group.size, group.size, -1)
    sends, coming = by_rank[group.rank].sum(1).tolist(), by_rank[:, group.rank]
    receives = coming.sum(1).tolist()
    came = there(x[leaving // k], sends, receives)
    numbers = torch.arange(coming.shape[1]).repeat(group.size)
    arriving = numbers.repeat_interleave(coming.flatten()).argsort(stable=True)
    return came[arriving], table.sum(0), (leaving, arriving, sends, receives)


@whole.mistake(
    "A token went to a rank once, though two of its experts live there. Each expert "
    "has its own row here: two experts, two rows."
)
def once_a_rank(x, experts, num_experts, group, there):
    local = num_experts // group.size
    ranks = experts // local
    first = (ranks[:, :, None] == ranks[:, None]).int().argmax(-1)
    kept = (first == torch.arange(experts.shape[1])).flatten()
    flat = experts.flatten()
    leaving = torch.arange(len(flat))[kept]
    leaving = leaving[flat[leaving].argsort(stable=True)]
    counts = flat[leaving].bincount(minlength=num_experts)
    table = comm.all_gather(counts[None], group)
    by_rank = table.view(group.size, group.size, -1)
    sends, coming = by_rank[group.rank].sum(1).tolist(), by_rank[:, group.rank]
    receives = coming.sum(1).tolist()
    came = there(x[leaving // experts.shape[1]], sends, receives)
    numbers = torch.arange(local).repeat(group.size)
    arriving = numbers.repeat_interleave(coming.flatten()).argsort(stable=True)
    return came[arriving], table.sum(0), (leaving, arriving, sends, receives)


@whole.mistake(
    "A rank without tokens returned before the calls, and the others wait for it. It "
    "has nothing to send, but it has counts to tell and rows to receive."
)
def leaves_early(x, experts, num_experts, group, there):
    if len(x) == 0:
        nobody = torch.zeros(num_experts, dtype=torch.int64)
        none = torch.zeros(0, dtype=torch.int64)
        return x, nobody, (none, none, [0] * group.size, [0] * group.size)
    return dispatch(x, experts, num_experts, group, there)
