"""Task 5.3: rows to the ranks of their experts.

Chapter: 05_comm/emulated_gpus
Source: deepseek_v3, section 3.2.2; gshard
"""

from functools import partial

import torch
import torch.nn.functional as F

from tiny_lm.course.checks.comm import journeys
from tiny_lm.course.checks.comm import rehearsal as comm
from tiny_lm.course.checks.task import Task


def dispatch(x, experts, num_experts, group, there):
    k = experts.shape[1]
    leaving = experts.flatten().argsort(stable=True)
    counts = experts.flatten().bincount(minlength=num_experts)
    table = comm.all_gather(counts[None], group)
    by_rank = table.view(group.size, group.size, -1)
    sends = by_rank[group.rank].sum(1).tolist()
    coming = by_rank[:, group.rank]
    receives = coming.sum(1).tolist()
    came = there(x[leaving // k], sends, receives)
    numbers = torch.arange(coming.shape[1]).repeat(group.size)
    arriving = numbers.repeat_interleave(coming.flatten()).argsort(stable=True)
    return came[arriving], table.sum(0), (leaving, arriving, sends, receives)


task_5_3 = Task(
    id="5.3",
    lab="05_comm",
    title="Dispatch",
    name="dispatch",
    piece="comm.dispatch",
    difficulty=3,
    minutes=30,
    points=4,
    reference=dispatch,
    returns=("rows", "load", "way"),
    errors={
        "calls of the ranks do not fit": "What one rank sends is what the other must "
        "expect: receive_counts[s] here is send_counts of rank s for this rank. And "
        "every rank makes every call, also one that has no tokens.",
        "add up to": "send_counts say how many rows go to each rank, and together "
        "they are all rows that are handed to `there`.",
        "sends itself": "What a rank sends to itself is what it gets from itself. Are "
        "the counts those of this rank, and the right way round?",
    },
    hints=(
        "Three things in a row: sort the choices by expert, tell each other the "
        "counts, send. What arrives is sorted once more.",
        "experts.flatten() has a number for each choice, token after token. argsort "
        "of it says which choice leaves first; choice i belongs to token i // k. "
        "bincount gives the counts for each expert, and comm.all_gather(counts[None], "
        "group) a table with a row for each rank.",
        "With table.view(size, size, -1), [from, to, expert]: send_counts are "
        "[rank].sum(1), receive_counts [:, rank].sum(1). Which expert each row that "
        "came is for: torch.arange(local).repeat(size).repeat_interleave("
        "by_rank[:, rank].flatten()); its argsort is `arriving`.",
    ),
)

small, random = (partial(f, dispatch) for f in (journeys.small, journeys.random))
ARRIVED = tuple(f"rows on rank {rank}:" for rank in range(4))
EACH_EXPERT = tuple(f"rows of expert {expert}:" for expert in range(8))
COUNTED = tuple(f"load on rank {rank}:" for rank in range(4))
HOME = tuple(f"home to rank {rank}, row and expert:" for rank in range(4))
ONE_EACH = small([[[1], [0]], [[3], [1]], [[2], [3]], [[3], [0]]], 4)
TWO_EACH = small([[[1, 2], [3, 0]], [[3, 1]], [[0, 2], [1, 3]], [[3, 2]]], 4)
TWO_LOCAL = small([[[1, 2], [6, 3]], [[3, 7], [0, 6]], [[2, 5]], [[0, 5], [4, 1]]], 8)
UNEVEN = small([[[2, 3], [2, 5]], [], [[3, 2], [2, 3], [5, 3]], [[2, 5]]], 8)
UNSORTED = (
    "Rows left in the order of the tokens. The first rows go to rank 0, the next ones "
    "to rank 1: sort them by expert first."
)
EACH_TOKEN = (
    "The number of a choice was taken for that of a token. Choices are counted token "
    "after token: number i belongs to token i // k."
)
SWAPPED = (
    "send_counts and receive_counts have changed places: first how many rows this rank "
    "sends to each, then how many it gets."
)
COLUMN = (
    "A rank expects as many rows from another as it sends there. What comes is for the "
    "others to say: in a table with a row for each sender, it is a column."
)
arrive = task_5_3.asks(
    "each row comes to the rank of its expert, once for each expert",
    ONE_EACH,
    TWO_EACH,
    only=ARRIVED,
    otherwise="Row i that leaves is x[leaving[i] // k], the choices sorted by expert; "
    "send_counts add up this rank's counts, receive_counts those of the others for it.",
    mistakes={
        "leaving = experts.flatten().argsort(stable=True) => "
        "leaving = torch.arange(experts.numel())": UNSORTED,
        "x[leaving // k] => x[leaving % len(x)]": EACH_TOKEN,
        "x[leaving // k] => x.repeat_interleave(k, 0)": UNSORTED,
        "experts.flatten().argsort => experts.T.flatten().argsort": (
            "The choices were counted column after column, all first choices before "
            "all second ones, and read as if they were counted token after token."
        ),
        "argsort(stable=True)\n    counts => argsort(descending=True)\n    counts": (
            "The rows for the last rank left first. An all-to-all sends the first rows "
            "to rank 0."
        ),
        "k], sends, receives) => k], receives, sends)": SWAPPED,
        "receives = coming.sum(1).tolist() => receives = sends": COLUMN,
        "coming = by_rank[:, group.rank] => coming = by_rank[group.rank]": COLUMN,
        ".bincount(minlength=num_experts) => .bincount()": "bincount counts up to the "
        "largest number that occurs. minlength=num_experts counts experts that nobody "
        "chose, too.",
    },
)


@arrive.mistake("Only the first choice of each token was sent. All k have a row.")
def first_choices(x, experts, num_experts, group, there):
    return dispatch(x, experts[:, :1], num_experts, group, there)


@arrive.mistake(
    "Nothing travelled: these are this rank's own tokens, sorted. `there` moves them."
)
def stays_here(x, experts, num_experts, group, there):
    order = experts.flatten().argsort(stable=True)
    rows = x[order // experts.shape[1]]
    counts = experts.flatten().bincount(minlength=num_experts)
    own = [len(rows) * (rank == group.rank) for rank in range(group.size)]
    return rows, counts, (order, torch.arange(len(rows)), own, own)


@arrive.mistake(
    "Each rank sent the same number of rows to every rank. Whom tokens choose is not "
    "balanced: the counts come from the choices."
)
def as_if_balanced(x, experts, num_experts, group, there):
    k = experts.shape[1]
    leaving = experts.flatten().argsort(stable=True)
    counts = experts.flatten().bincount(minlength=num_experts)
    table = comm.all_gather(counts[None], group)
    many, rest = divmod(len(leaving), group.size)
    even = [many + (rank < rest) for rank in range(group.size)]
    padded = comm.all_gather(torch.tensor([even]), group)
    receives = padded[:, group.rank].tolist()
    came = there(x[leaving // k], even, receives)
    arriving = torch.arange(len(came))
    return came, table.sum(0), (leaving, arriving, even, receives)


grouped = task_5_3.asks(
    "rows of an expert stand together, those of the rank's first expert first",
    TWO_LOCAL,
    only=EACH_EXPERT,
    otherwise="rows is came[arriving]: the rows as they came, sorted by the expert "
    "that each is for, and nothing else done to them.",
    mistakes={
        "leaving = experts.flatten().argsort => leaving = (experts.flatten() // "
        "(num_experts // group.size)).argsort": "Rows left sorted by rank, but not by "
        "expert, and the counts say how many there are for one expert after another. "
        "Sort by expert: that sorts by rank as well.",
        "return came[arriving] => return came": "The rows stand as they came, sender "
        "after sender. Sort them once more, by expert.",
        "arange(coming.shape[1]).repeat(group.size) => "
        "arange(coming.shape[1]).repeat_interleave(group.size)": "Which expert a row "
        "that came is for was read in the wrong order: the rows come rank after rank, "
        "and from each rank they come expert after expert.",
        "came[arriving], => came[arriving.argsort()],": "The inverse of the order was "
        "applied. rows[order] puts row order[j] at place j; argsort says just that.",
        "coming.flatten() => coming.T.flatten()": "The counts of what came were read "
        "expert after expert. Rows come rank after rank.",
    },
)


@grouped.mistake(
    "Experts were dealt round like cards, expert e to rank e % size. Rank r has "
    "neighbours: num_experts / size of them, from r * num_experts / size on."
)
def dealt_round(x, experts, num_experts, group, there):
    local = num_experts // group.size
    moved = experts % group.size * local + experts // group.size
    rows, load, way = dispatch(x, moved, num_experts, group, there)
    return rows, load.view(group.size, local).T.flatten(), way


@grouped.mistake(
    "Rows were filled up with zeros, so that all experts have as many. Here each has "
    "as many as it gets."
)
def filled_up(x, experts, num_experts, group, there):
    rows, load, way = dispatch(x, experts, num_experts, group, there)
    mine = load.view(group.size, -1)[group.rank].tolist()
    parts = [F.pad(p, (0, 0, 0, max(mine) - len(p))) for p in rows.split(mine)]
    return torch.cat(parts), load, way
