"""Answers to task 1.1 that are wrong, and some that are right in another style.

Chapter: 01_baseline/probability_machine
Source: course
"""

import math

import torch
import torch.nn.functional as F

from tiny_lm.course.checks.baseline.bits import task_1_1
from tiny_lm.course.checks.mutants import honest, wrong


@wrong(task_1_1, "one_number", "Take the mean over positions")
def no_mean(logits, targets):
    return F.cross_entropy(logits, targets, reduction="none") / math.log(2)


@wrong(task_1_1, "one_number", "every byte that could have come")
def all_bytes(logits, targets):
    return -logits.log_softmax(-1) / math.log(2)


@wrong(task_1_1, "one_number", "A function without `return` gives None.")
def no_return(logits, targets):
    F.cross_entropy(logits, targets)


@wrong(task_1_1, "equally_likely", "nats")
def in_nats(logits, targets):
    return F.cross_entropy(logits, targets)


@wrong(task_1_1, "equally_likely", "a cost is not")
def no_minus(logits, targets):
    rows = torch.arange(len(targets))
    return logits.log_softmax(-1)[rows, targets].mean() / math.log(2)


@wrong(task_1_1, "equally_likely", "the smaller unit")
def times_log_two(logits, targets):
    return F.cross_entropy(logits, targets) * math.log(2)


@wrong(task_1_1, "equally_likely", "sum over the three positions. Take the mean")
def summed(logits, targets):
    return F.cross_entropy(logits, targets, reduction="sum") / math.log(2)


@wrong(task_1_1, "equally_likely", "logarithms of logits")
def log_of_logits(logits, targets):
    return -logits[torch.arange(len(targets)), targets].log2().mean()


@wrong(task_1_1, "equally_likely", "perplexity")
def perplexity(logits, targets):
    return F.cross_entropy(logits, targets).exp()


@wrong(task_1_1, "only_the_target", "likeliest byte of each row")
def of_the_likeliest(logits, targets):
    return F.cross_entropy(logits, logits.argmax(-1)) / math.log(2)


@wrong(task_1_1, "only_the_target", "first the logarithms")
def mean_before_log(logits, targets):
    p = logits.softmax(-1)[torch.arange(len(targets)), targets]
    return -p.mean().log2()


@wrong(task_1_1, "only_the_target", "every byte is paid for")
def mean_of_all(logits, targets):
    return -logits.log_softmax(-1).mean() / math.log(2)


@wrong(task_1_1, "only_the_target", "entropy")
def entropy(logits, targets):
    p = logits.softmax(-1)
    return -(p * p.log2()).sum(-1).mean()


@wrong(task_1_1, "only_the_target", "Row i pays for targets[i] alone")
def targets_of_all_rows(logits, targets):
    return -logits.log_softmax(-1)[:, targets].mean() / math.log(2)


@wrong(task_1_1, "finite_when_wrong", "became 0")
def softmax_then_log(logits, targets):
    p = logits.softmax(-1)[torch.arange(len(targets)), targets]
    return -p.log2().mean()


@wrong(task_1_1, "finite_when_wrong", "caps the cost")
def small_number_inside(logits, targets):
    p = logits.softmax(-1)[torch.arange(len(targets)), targets]
    return -(p + 1e-9).log2().mean()


@wrong(task_1_1, "finite_when_wrong", "became 0")
def exp_by_hand(logits, targets):
    p = logits.exp() / logits.exp().sum(-1, keepdim=True)
    return -p.gather(-1, targets[:, None]).log2().mean()


@honest(task_1_1)
def loop(scores, came):
    total = 0.0
    for row, byte in zip(scores, came, strict=True):
        total += float(torch.logsumexp(row, 0) - row[byte]) / math.log(2)
    return total / len(came)


@honest(task_1_1)
def gathered_in_float64(logits, targets):
    log_p = logits.double().log_softmax(-1).gather(-1, targets.unsqueeze(-1))
    return log_p.div(-math.log(2)).mean()


@honest(task_1_1)
def negative_likelihood(logits, targets):
    return F.nll_loss(F.log_softmax(logits, dim=1), targets) * math.log2(math.e)
