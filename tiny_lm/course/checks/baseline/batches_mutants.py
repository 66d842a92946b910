"""Answers to task 1.2 that are wrong, and some that are right in another style.

Chapter: 01_baseline/probability_machine
Source: course
"""

import torch

from tiny_lm.course.checks.baseline.batches import task_1_2
from tiny_lm.course.checks.before.mutants import honest, wrong


def _runs(tokens, starts, length):
    return tokens[starts[:, None] + torch.arange(length)].long()


@wrong(task_1_2, "shapes", "a window of T bytes asks T questions")
def only_the_last_target(tokens, batch_size, seq_len, generator):
    high = len(tokens) - seq_len
    starts = torch.randint(high, (batch_size,), generator=generator)
    return _runs(tokens, starts, seq_len), tokens[starts + seq_len].long()


@wrong(task_1_2, "shapes", "One byte is missing")
def one_byte_short(tokens, batch_size, seq_len, generator):
    high = len(tokens) - seq_len
    starts = torch.randint(high, (batch_size,), generator=generator)
    both = _runs(tokens, starts, seq_len)
    return both[:, :-1], both[:, 1:]


@wrong(task_1_2, "shapes", "two tensors: inputs, targets")
def one_tensor(tokens, batch_size, seq_len, generator):
    high = len(tokens) - seq_len
    starts = torch.randint(high, (batch_size,), generator=generator)
    return _runs(tokens, starts, seq_len + 1)


@wrong(task_1_2, "next_byte", "predict itself")
def same_byte(tokens, batch_size, seq_len, generator):
    high = len(tokens) - seq_len
    starts = torch.randint(high, (batch_size,), generator=generator)
    both = _runs(tokens, starts, seq_len + 1)
    return both[:, :-1], both[:, :-1]


@wrong(task_1_2, "next_byte", "Shift the other way")
def byte_before(tokens, batch_size, seq_len, generator):
    high = len(tokens) - seq_len
    starts = torch.randint(high, (batch_size,), generator=generator)
    both = _runs(tokens, starts, seq_len + 1)
    return both[:, 1:], both[:, :-1]


@wrong(task_1_2, "next_byte", "turned round")
def rolled(tokens, batch_size, seq_len, generator):
    high = len(tokens) - seq_len
    starts = torch.randint(high, (batch_size,), generator=generator)
    inputs = _runs(tokens, starts, seq_len)
    return inputs, inputs.roll(-1, dims=1)


@wrong(task_1_2, "next_byte", "its bytes are neighbours")
def shuffled_bytes(tokens, batch_size, seq_len, generator):
    size = (batch_size, seq_len)
    at = torch.randint(len(tokens) - 1, size, generator=generator)
    return tokens[at].long(), tokens[at + 1].long()


@wrong(task_1_2, "every_start", "exclusive")
def last_start_never(tokens, batch_size, seq_len, generator):
    high = len(tokens) - seq_len - 1
    starts = torch.randint(high, (batch_size,), generator=generator)
    both = _runs(tokens, starts, seq_len + 1)
    return both[:, :-1], both[:, 1:]


@wrong(task_1_2, "every_start", "ran past the end")
def one_start_too_many(tokens, batch_size, seq_len, generator):
    high = len(tokens) - seq_len + 1
    starts = torch.randint(high, (batch_size,), generator=generator)
    rows = [tokens[s : s + seq_len + 1].long() for s in starts.tolist()]
    both = torch.stack(rows)
    return both[:, :-1], both[:, 1:]


@wrong(task_1_2, "every_start", "cut at fixed places")
def fixed_cuts(tokens, batch_size, seq_len, generator):
    pieces = (len(tokens) - 1) // seq_len
    starts = seq_len * torch.randint(pieces, (batch_size,), generator=generator)
    both = _runs(tokens, starts, seq_len + 1)
    return both[:, :-1], both[:, 1:]


@wrong(task_1_2, "every_start", "Every window starts at the same byte")
def always_the_first(tokens, batch_size, seq_len, generator):
    both = _runs(tokens, torch.zeros(batch_size, dtype=torch.long), seq_len + 1)
    return both[:, :-1], both[:, 1:]


@wrong(task_1_2, "generator_decides", "generator=generator")
def global_random(tokens, batch_size, seq_len, generator):
    starts = torch.randint(len(tokens) - seq_len, (batch_size,))
    both = _runs(tokens, starts, seq_len + 1)
    return both[:, :-1], both[:, 1:]


@wrong(task_1_2, "int64", "mask")
def bytes_returned(tokens, batch_size, seq_len, generator):
    high = len(tokens) - seq_len
    starts = torch.randint(high, (batch_size,), generator=generator)
    both = tokens[starts[:, None] + torch.arange(seq_len + 1)]
    return both[:, :-1], both[:, 1:]


@wrong(task_1_2, "int64", "int64 and int64")
def int32_returned(tokens, batch_size, seq_len, generator):
    high = len(tokens) - seq_len
    starts = torch.randint(high, (batch_size,), generator=generator)
    both = _runs(tokens, starts, seq_len + 1).int()
    return both[:, :-1], both[:, 1:]


@honest(task_1_2)
def loop(text, rows, length, source):
    first, second = [], []
    for _ in range(rows):
        start = int(torch.randint(0, len(text) - length, (1,), generator=source))
        first.append(text[start : start + length])
        second.append(text[start + 1 : start + length + 1])
    return torch.stack(first).to(torch.int64), torch.stack(second).to(torch.int64)


@honest(task_1_2)
def by_real_numbers(tokens, batch_size, seq_len, generator):
    windows = tokens.to(torch.int64).unfold(0, seq_len + 1, 1)
    share = torch.rand(batch_size, generator=generator, dtype=torch.float64)
    chosen = windows[(share * len(windows)).long()]
    return [chosen[:, :seq_len], chosen[:, 1:].contiguous()]
