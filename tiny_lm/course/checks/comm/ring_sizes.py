"""Task 5.1 on sizes that do not divide, and right answers in other styles.

Chapter: 05_comm/collectives
Source: course
"""

from collections.abc import Callable, Sequence

import torch
from torch import Generator, Tensor

from tiny_lm.course.checks.comm import letters as comm
from tiny_lm.course.checks.comm.ring import (
    digits,
    few_bytes,
    ring_all_reduce,
    summed,
    task_5_1,
)


@few_bytes.mistake(
    "No message was sent: `comm.all_reduce` has it all ready-made. Make it out of "
    "comm.send and comm.receive."
)
def ready_made(x, group):
    meters, group.meters = group.meters, []
    total = ring_all_reduce(x, group)
    group.meters = meters
    return total


CHUNK = (
    "`chunk` makes parts of equal size until nothing is left, so that of 5 numbers "
    "there are only three parts. `tensor_split` always makes as many as it is asked."
)

task_5_1.asks(
    "sizes that do not divide, and any shape",
    summed("5 numbers on each of 4 ranks", lambda g: digits(5)),
    summed("2 numbers: some parts are empty", lambda g: digits(2)),
    summed("2 rows of 3", lambda g: [x.view(2, 3) for x in digits(6)]),
    mistakes={
        "tensor_split(p) => chunk(p)": CHUNK,
        "tensor_split(p) => split(max(1, x.numel() // p))": "With this size of a part "
        "there may be more parts than ranks, or fewer, and the last ones never travel. "
        "`tensor_split` makes as many as it is asked.",
        ".view(x.shape) => ": "The shape got lost. The result has that of `x`.",
    },
)

task_5_1.asks(
    "two ranks are a ring as well",
    summed("[1, 2, 3, 4] and ten times that, on 2 ranks", lambda g: digits(4, 2)),
    mistakes={
        "p, me = group.size, group.rank => p, me = 4, group.rank": "The number of "
        "ranks is written down as 4. It is group.size.",
    },
)


def drawn(dtype: torch.dtype) -> Callable[[Generator], Sequence[Tensor]]:
    """Other numbers on each rank."""
    return lambda g: [
        torch.randn(1003, generator=g).mul(50).to(dtype) for _ in range(4)
    ]


task_5_1.asks(
    "equals the definition on random numbers, whole ones too",
    summed("1,003 numbers", drawn(torch.float64)),
    summed("1,003 whole numbers", drawn(torch.int64)),
    mistakes={
        "torch.cat(parts) => torch.cat(parts).float()": "The result has another dtype "
        "than `x`. A buffer made with torch.zeros is float32: use zeros_like, or "
        "torch.empty_like.",
    },
)


@task_5_1.accepts
def to_the_left(x, group):
    """The other way round the ring, with parts padded to equal size."""
    p, me = group.size, group.rank
    size = -(-x.numel() // p)
    padded = torch.zeros(p * size, dtype=x.dtype)
    padded[: x.numel()] = x.reshape(-1)
    parts = padded.view(p, size)
    for step in range(2 * (p - 1)):
        out, into = parts[(me + step) % p].clone(), (me + step + 1) % p
        if me == 0:
            comm.send(out, (me - 1) % p, group)
            came = comm.receive(out, (me + 1) % p, group)
        else:
            came = comm.receive(out, (me + 1) % p, group)
            comm.send(out, (me - 1) % p, group)
        parts[into] = parts[into] + came if step < p - 1 else came
    return padded[: x.numel()].view(x.shape)


@task_5_1.accepts
def straight(x, group):
    """No ring: part r goes straight to rank r, and back from there. As many bytes."""
    p, me = group.size, group.rank
    parts = [part.clone() for part in x.flatten().tensor_split(p)]

    def swap(other, mine, like):
        if me < other:
            comm.send(mine, other, group)
            return comm.receive(like, other, group)
        came = comm.receive(like, other, group)
        comm.send(mine, other, group)
        return came

    pairs = [(a, b) for a in range(p) for b in range(a + 1, p) if me in (a, b)]
    others = [a + b - me for a, b in pairs]
    total = parts[me] + sum(swap(o, parts[o], parts[me]) for o in others)
    for other in others:
        parts[other] = swap(other, total, parts[other])
    parts[me] = total
    return torch.cat(parts).reshape(x.shape)
