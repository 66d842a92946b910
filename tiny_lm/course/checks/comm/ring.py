"""Task 5.1: an all-reduce made of messages to the neighbours in a ring.

Chapter: 05_comm/collectives
Source: collective_cost
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Generator, Tensor

from tiny_lm.course.checks.answer import Answer
from tiny_lm.course.checks.case import Probe
from tiny_lm.course.checks.comm import letters as comm
from tiny_lm.course.checks.comm.ranks import on_ranks
from tiny_lm.course.checks.comm.rehearsal import APART, AnyGroup
from tiny_lm.course.checks.task import Task


def ring_all_reduce(
    x: Shaped[Tensor, "*shape"], group: AnyGroup
) -> Shaped[Tensor, "*shape"]:
    """The sum of all ranks' `x`, on every rank, by messages round a ring."""
    p, me = group.size, group.rank
    right, left = (me + 1) % p, (me - 1) % p

    def pass_on(part, like):
        if me % 2:
            came = comm.receive(like, left, group)
            comm.send(part, right, group)
            return came
        comm.send(part, right, group)
        return comm.receive(like, left, group)

    parts = list(x.flatten().tensor_split(p))
    for step in range(p - 1):
        out, into = (me - step) % p, (me - step - 1) % p
        parts[into] = parts[into] + pass_on(parts[out], parts[into])
    for step in range(p - 1):
        out, into = (me + 1 - step) % p, (me - step) % p
        parts[into] = pass_on(parts[out], parts[into])
    return torch.cat(parts).view(x.shape)


BYTES = "bytes sent by"
SENDS_FIRST = (
    "Every rank sends before it receives. A send ends when the other side receives, "
    "and the other side is sending as well. Let some of them receive first."
)
RECEIVES_FIRST = (
    "Every rank receives before it sends, so all wait for a message that nobody has "
    "sent yet. Let some of them send first."
)

task_5_1 = Task(
    id="5.1",
    lab="05_comm",
    title="A sum that goes round",
    name="ring_all_reduce",
    piece="comm.ring_all_reduce",
    difficulty=3,
    minutes=30,
    points=4,
    reference=ring_all_reduce,
    tolerance=1e-5,
    errors={
        comm.SENDS: SENDS_FIRST,
        comm.RECEIVES: RECEIVES_FIRST,
        comm.CIRCLE: "Follow the table from rank to rank: who waits for whom? A send "
        "and its receive must be the next thing that both ranks do.",
        APART: "Every send needs a receive on the other rank, with a tensor of the "
        "same shape and dtype, and nothing else in between.",
        "is no other rank": "Neighbours are counted round the ring: after the last "
        "rank comes rank 0. `% group.size` does that.",
        "list index out of range": "Parts are counted round the ring, too, and there "
        "must be as many as ranks: `tensor_split` makes so many, `chunk` may make "
        "fewer.",
    },
    hints=(
        """
        Draw four ranks with four parts each. In which order do parts come past rank 0
        if everybody passes on, at each step, the part that came last? Then look at two
        neighbours: if both send first, who receives?
        """,
        """
        In step 0 rank r sends part r, and adds what comes to part r - 1. In step 1 it
        sends part r - 1, the one that has just grown. After p - 1 steps it has part
        r + 1 complete. The second round begins with that one, and what comes replaces
        the old part. Ranks with an odd number receive first.
        """,
        """
        parts = list(x.flatten().tensor_split(p)). First round: out = (me - step) % p,
        into = (me - step - 1) % p, parts[into] = parts[into] + what came. Second round:
        out = (me + 1 - step) % p, into = (me - step) % p, parts[into] = what came. If
        me % 2: receive, then send; else send, then receive.
        """,
    ),
)


def _measure(function: Callable, group: AnyGroup, x: Tensor) -> tuple[Tensor, int]:
    with comm.metering(group) as meter:
        total = function(x, group)
    return total, meter.num_bytes["send"]


def measured(answer: Answer, xs: Sequence[Tensor]) -> list[tuple[Tensor, int]]:
    """The result of every rank, and the bytes that it sent."""
    return on_ranks(answer, _measure, [(x,) for x in xs], play=comm.play)


def summed(note: str, make: Callable[[Generator], Sequence[Tensor]]) -> Probe:
    """What every rank returns for its own tensor."""

    def use(answer: Answer, generator: Generator) -> dict[str, Any]:
        found = measured(answer, make(generator))
        totals = {f"on rank {rank}": total for rank, (total, _) in enumerate(found)}
        return totals | {"dtype": str(getattr(found[0][0], "dtype", None))}

    return Probe(use, note)


def sent(note: str, make: Callable[[Generator], Sequence[Tensor]]) -> Probe:
    """How many bytes every rank sends."""

    def use(answer: Answer, generator: Generator) -> dict[str, Any]:
        found = measured(answer, make(generator))
        return {f"{BYTES} rank {rank}": n for rank, (_, n) in enumerate(found)}

    return Probe(use, note)


def digits(size: int, num_ranks: int = 4) -> list[Tensor]:
    """Rank r has 1, 2, 3, … times 10 to the r: a sum shows who is in it, how often."""
    numbers = 1 + torch.arange(size) % 4
    return [numbers.float() * 10**rank for rank in range(num_ranks)]


EACH = "x = [1, 2, 3, 4] on rank 0, ten times that on rank 1, and so on"

task_5_1.asks(
    "all ranks come to an end",
    summed(EACH, lambda g: digits(4)),
    mistakes={
        "if me % 2: => if False:": SENDS_FIRST,
        "if me % 2: => if True:": RECEIVES_FIRST,
    },
    only=(),
)

UNADDED = (
    "Part j is rank j's own numbers, on every rank. Two slips do this. What comes in "
    "the first round must be added. And the second round begins with part r + 1, which "
    "is complete on rank r."
)
OWN = (
    "A rank's own part went in twice. What comes is added once, to what this rank has "
    "itself; what it sends on is that sum and nothing more."
)
TOO_MANY = (
    "A round has a step too many. p - 1 steps bring a part past everybody; after that "
    "it is home."
)
FIRST = "for step in range({}):\n        out, into = (me - step) % p"
SECOND = "for step in range({}):\n        out, into = (me + 1 - step)"
ADD = "parts[into] = parts[into] + pass_on(parts[out], parts[into])"

one_sum = task_5_1.asks(
    "every rank has the sum of all, in all places",
    summed(EACH, lambda g: digits(4)),
    otherwise="One digit in a sum is how often a rank's number is in it. Which ranks "
    "are missing or in twice, and in which place?",
    mistakes={
        "out, into = (me + 1 - step) % p, (me - step) % p => "
        "out, into = (me - step) % p, (me - step - 1) % p": UNADDED,
        "parts[into] = pass_on(parts[out], parts[into]) => "
        f"{ADD}": "What comes in the second round is complete. It takes the place of "
        "the old part; it is not added to it.",
        f"{ADD} => parts[into] = pass_on(parts[out], parts[into])": UNADDED,
        f"{ADD} => parts[into] = parts[into] + {ADD[14:]}": OWN,
        f"{FIRST.format('p - 1')} => {FIRST.format('p - 2')}": "The first round ends a "
        "step early: in every sum a rank is missing. It takes p - 1 steps.",
        f"{SECOND.format('p - 1')} => {SECOND.format('p - 2')}": "The second round "
        "ends a step early: one part of each rank is not complete. It takes p - 1 "
        "steps.",
        f"{SECOND.format('p - 1')} => {SECOND.format('0')}": "There was no second "
        "round: each rank has one part of the sum, and nobody has all of it.",
        "return torch.cat(parts).view(x.shape) => "
        "return (torch.cat(parts) / p).view(x.shape)": "This is the mean. Wanted is "
        "the sum.",
    },
)


@one_sum.mistake(
    "Rank 0 alone has the sum. An all-reduce leaves it on every rank: what is complete "
    "must be passed on to all."
)
def at_one_rank(x, group):
    if group.rank:
        comm.send(x, 0, group)
        return x
    return x + sum(comm.receive(x, other, group) for other in range(1, group.size))


few_bytes = task_5_1.asks(
    "each rank sends 2 (p - 1) / p of its bytes",
    sent(f"{EACH}; a number has 4 bytes", lambda g: digits(4)),
    sent("the same with 8 numbers", lambda g: digits(8)),
    otherwise="In each of 2 (p - 1) steps one part travels, and a part is 1 / p of "
    "the tensor.",
    mistakes={
        f"{FIRST.format('p - 1')} => {FIRST.format('p')}": TOO_MANY,
        f"{SECOND.format('p - 1')} => {SECOND.format('p')}": TOO_MANY,
    },
)


@few_bytes.mistake(
    "The whole tensor goes round. Every rank then sends all of it p - 1 times; cut it "
    "into p parts, of which one travels at a time."
)
def all_of_it(x, group):
    p, me = group.size, group.rank
    total, travels = x, x
    for _ in range(p - 1):
        if me % 2:
            came = comm.receive(x, (me - 1) % p, group)
            comm.send(travels, (me + 1) % p, group)
        else:
            comm.send(travels, (me + 1) % p, group)
            came = comm.receive(x, (me - 1) % p, group)
        total, travels = total + came, came
    return total


@few_bytes.mistake(
    "Everything goes to rank 0, which adds up and sends the sum to all: its port "
    "carries p - 1 times the tensor while the others stand idle."
)
def through_rank_0(x, group):
    others = range(1, group.size)
    if group.rank:
        comm.send(x, 0, group)
        return comm.receive(x, 0, group)
    total = x + sum(comm.receive(x, other, group) for other in others)
    for other in others:
        comm.send(total, other, group)
    return total
