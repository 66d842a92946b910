"""Task 5.3, what the rows leave behind: a load, a way home, and no other traffic.

Chapter: 05_comm/emulated_gpus
Source: deepseek_v3, section 2.1.2; deep_ep
"""

import torch

from tiny_lm.course.checks.comm import dispatch_all as dispatch_all  # asks first
from tiny_lm.course.checks.comm import rehearsal as comm
from tiny_lm.course.checks.comm.dispatch import (
    COUNTED,
    HOME,
    TWO_EACH,
    TWO_LOCAL,
    UNEVEN,
    dispatch,
    random,
    task_5_3,
)

ONE_RANK = (
    "Only this rank's tokens were counted. Each rank would then balance for itself, "
    "and their routers would drift apart: the load is that of all ranks."
)
task_5_3.asks(
    "load: how many rows each expert gets, over the tokens of all ranks",
    TWO_LOCAL,
    UNEVEN,
    only=COUNTED,
    mistakes={
        "table.sum(0) => counts": ONE_RANK,
        "table.sum(0) => torch.zeros_like(counts).index_add_(0, torch.arange("
        "coming.shape[1]) + group.rank * coming.shape[1], coming.sum(0))": "Only the "
        "experts of this rank were counted. Balance is a matter of all of them, and "
        "every rank has to know it.",
        "table.sum(0) => coming.sum(0)": "These are the loads of this rank's experts "
        "alone. Wanted are those of all experts.",
        "table.sum(0) => table.sum(1)": "This is how many rows each rank sends, not "
        "how many each expert gets: the table was added up along the wrong dim.",
        "table.sum(0) => (table > 0).sum(0)": "This is how many ranks chose an expert, "
        "and not how many rows it gets.",
        "table.sum(0) => group.size * counts": "This rank's own counts were taken for "
        "everybody's. Other ranks have other tokens.",
        "table.sum(0) => group.size * table.sum(0)": "The load was added up over the "
        "ranks twice. In a table of all ranks' counts, one sum over the ranks is all.",
        "table.sum(0) => table.amax(0)": "The largest count was taken. An expert gets "
        "the rows of all ranks.",
    },
)

INVERSE = (
    "An order and its inverse were taken for each other: leaving[i] is the choice that "
    "leaves as row i, and arriving[j] the place, among the rows as they came, of row j."
)
task_5_3.asks(
    "way: along it each row finds back to its token and choice",
    TWO_EACH,
    TWO_LOCAL,
    UNEVEN,
    only=HOME,
    otherwise="The way is (leaving, arriving, send_counts, receive_counts), as they "
    "were used for these rows.",
    mistakes={
        "(leaving, arriving, sends => (leaving // k, arriving, sends": "leaving holds "
        "tokens. A token has several choices, and each has its own weight: keep the "
        "number of the choice.",
        "(leaving, arriving, sends => (leaving.argsort(), arriving, sends": INVERSE,
        "(leaving, arriving, sends => (leaving, arriving.argsort(), sends": INVERSE,
        "(leaving, arriving, sends => (leaving, torch.arange(len(came)), sends": (
            "arriving says that rows stand as they came. They were sorted by expert."
        ),
        "(leaving, arriving, sends => (torch.arange(len(leaving)), arriving, sends": (
            "leaving says that the choices leave as they stand. They were sorted by "
            "expert."
        ),
        "arriving, sends, receives) => arriving, receives, sends)": "The way holds "
        "receive_counts before send_counts. Both are meant as they were on the way "
        "there: what this rank sent, then what it got.",
    },
)

TRAVELS = task_5_3.asks(
    "rows travel once, and beside them nothing but counts",
    TWO_EACH,
    only=tuple(
        name
        for rank in range(4)
        for name in (
            f"rows that rank {rank} sends:",
            f"beside rows, rank {rank} sends",
        )
    ),
)


@TRAVELS.mistake(
    "Every rank got every token, and picked its own. That is right, and costs as many "
    "times the bytes as there are ranks: send a row to the ranks that want it."
)
def all_to_everybody(x, experts, num_experts, group, there):
    size = group.size
    sizes = comm.all_gather(torch.tensor([len(x)]), group).tolist()
    everything = there(x.repeat(size, 1), [len(x)] * size, sizes)
    *_, way = dispatch(x, experts, num_experts, group, Silent(there))
    chosen = there(experts.repeat(size, 1), [len(x)] * size, sizes)
    local = num_experts // size
    first = group.rank * local
    mine = [
        everything[(chosen == expert).any(1)] for expert in range(first, first + local)
    ]
    counts = experts.flatten().bincount(minlength=num_experts)
    return torch.cat(mine), comm.all_reduce(counts, group), way


class Silent:
    """A road whose trips are not written down."""

    def __init__(self, road) -> None:
        self.group = road.group

    def __call__(self, rows, sends, receives):
        return comm.all_to_all(rows, sends, receives, self.group)


@TRAVELS.mistake("The rows went over the road twice. Keep what came the first time.")
def travels_twice(x, experts, num_experts, group, there):
    dispatch(x, experts, num_experts, group, there)
    return dispatch(x, experts, num_experts, group, there)


@TRAVELS.mistake(
    "The tokens were gathered on every rank, beside the road. Only counts have to be "
    "known to all: rows are what costs."
)
def gathers_tokens(x, experts, num_experts, group, there):
    longest = comm.all_gather(torch.tensor([len(x)]), group).max()
    padded = torch.zeros(int(longest), 4096)
    comm.all_gather(padded, group)
    return dispatch(x, experts, num_experts, group, there)


task_5_3.asks(
    "equals the definition on random choices, however uneven",
    random((5, 0, 9, 3), 8, 3, 4),
    random((1, 1, 1, 1), 4, 1, 1),
    random((0, 0, 0, 7), 16, 4, 2),
)


@task_5_3.accepts
def with_an_exchange_of_counts(x, experts, num_experts, group, there):
    local = num_experts // group.size
    order = torch.argsort(experts.reshape(-1), stable=True)
    token = order.div(experts.shape[1], rounding_mode="floor")
    sends = torch.bincount(experts.reshape(-1), minlength=num_experts)
    sends = sends.reshape(group.size, local)
    comes = comm.all_to_all_counts(sends, group)
    send_counts, receive_counts = sends.sum(1).tolist(), comes.sum(1).tolist()
    came = there(x.index_select(0, token), send_counts, receive_counts)
    ids = torch.cat([torch.arange(local).repeat_interleave(row) for row in comes])
    back = ids.sort(stable=True).indices
    load = comm.all_reduce(sends.flatten(), group)
    return came[back], load, (order, back, send_counts, receive_counts)


@task_5_3.accepts
def with_loops(x, experts, num_experts, group, there):
    k, local = experts.shape[1], num_experts // group.size
    choices = [
        token * k + slot
        for expert in range(num_experts)
        for token in reversed(range(len(x)))
        for slot in range(k)
        if experts[token, slot] == expert
    ]
    counts = torch.zeros(num_experts, dtype=torch.int64)
    for row in experts:
        for expert in row:
            counts[expert] += 1
    tables = comm.all_gather(counts, group).view(group.size, num_experts).tolist()
    mine = range(group.rank * local, (group.rank + 1) * local)
    sends = [
        sum(counts[r * local : (r + 1) * local].tolist()) for r in range(group.size)
    ]
    receives = [sum(table[expert] for expert in mine) for table in tables]
    came = there(x[[c // k for c in choices]], sends, receives)
    whose = [e for table in tables for e in mine for _ in range(table[e])]
    arriving = [j for e in mine for j, of in enumerate(whose) if of == e]
    load = torch.tensor([sum(table[e] for table in tables) for e in range(num_experts)])
    way = torch.tensor(choices).long(), torch.tensor(arriving).long(), sends, receives
    return came[way[1]], load, way
