"""Answers to task 2.6 that are wrong, and some that are right in another style.

Chapter: 02_moe/balance
Source: deepseek_v3, section 2.1.2
"""

import torch
from torch import nn

from tiny_lm.course.checks.before.mutants import honest, wrong
from tiny_lm.course.checks.moe.bias import task_2_6


def _step(load, mean=None):
    load = load.double()
    return torch.sign((load.mean() if mean is None else mean) - load).float()


@wrong(task_2_6, "up_and_down", "Turn the sign")
def sign_turned(bias, load, rate):
    return bias - rate * _step(load)


@wrong(task_2_6, "up_and_down", "The old bias is gone")
def old_bias_dropped(bias, load, rate):
    return rate * _step(load)


@wrong(task_2_6, "up_and_down", "Only its sign counts")
def proportional(bias, load, rate):
    load = load.float()
    return bias + rate * (load.mean() - load)


@wrong(task_2_6, "up_and_down", "Only its sign counts")
def relative(bias, load, rate):
    load = load.float()
    return bias + rate * (load.mean() - load) / load.mean()


@wrong(task_2_6, "up_and_down", "Is `rate` used?")
def without_rate(bias, load, rate):
    return bias + _step(load)


@wrong(task_2_6, "up_and_down", "the median")
def median(bias, load, rate):
    return bias + rate * _step(load, load.double().median())


@wrong(task_2_6, "up_and_down", "it has to come down")
def idle_alone(bias, load, rate):
    return bias + rate * _step(load).clamp(min=0)


@wrong(task_2_6, "up_and_down", "they have to go up")
def busy_alone(bias, load, rate):
    return bias + rate * _step(load).clamp(max=0)


@wrong(task_2_6, "up_and_down", "torch takes no mean of those")
def mean_of_integers(bias, load, rate):
    return bias + rate * torch.sign(load.mean() - load)


@wrong(task_2_6, "up_and_down", "one comparison per expert")
def plain_if(bias, load, rate):
    if load < load.float().mean():
        return bias + rate
    return bias - rate


@wrong(task_2_6, "up_and_down", "Work on a new tensor")
def in_place(bias, load, rate):
    bias += rate * _step(load)
    return bias


@wrong(task_2_6, "mean_stays", "a perfect balance drifts off")
def else_goes_down(bias, load, rate):
    idle = load < load.float().mean()
    return bias + rate * torch.where(idle, 1.0, -1.0)


@wrong(task_2_6, "mean_stays", "a perfect balance drifts off")
def else_goes_up(bias, load, rate):
    busy = load > load.float().mean()
    return bias + rate * torch.where(busy, -1.0, 1.0)


@wrong(task_2_6, "mean_has_a_fraction", "drop the fraction")
def whole_mean(bias, load, rate):
    return bias + rate * torch.sign(load.sum() // len(load) - load)


@wrong(task_2_6, "mean_has_a_fraction", "The mean was rounded")
def rounded_mean(bias, load, rate):
    return bias + rate * _step(load, load.double().mean().round())


@wrong(task_2_6, "leaves_the_old", "`.data` goes behind")
def through_data(bias, load, rate):
    bias.data += rate * _step(load)
    return bias.clone()


@wrong(task_2_6, "leaves_the_old", "handed to the optimizer")
def as_a_parameter(bias, load, rate):
    return nn.Parameter(bias + rate * _step(load))


@wrong(task_2_6, "mean_has_a_fraction", "")
def step_shrinks_near_the_mean(bias, load, rate):
    load = load.double()
    return bias + rate * (load.mean() - load).clamp(-1, 1)


@wrong(task_2_6, "equals_definition", "")
def steps_of_a_hundredth_at_least(bias, load, rate):
    return bias + max(rate, 0.01) * _step(load)


@honest(task_2_6)
def two_comparisons(bias, load, rate):
    mean = load.sum() / len(load)
    return bias + rate * (load < mean).float() - rate * (load > mean).float()


@honest(task_2_6)
def without_division(bias, load, rate):
    return bias + rate * torch.sign(load.sum() - load * len(load))


@honest(task_2_6)
def loop_over_experts(bias, load, rate):
    counts = load.tolist()
    mean = sum(counts) / len(counts)
    moved = [
        b + rate if n < mean else b - rate if n > mean else b
        for b, n in zip(bias.tolist(), counts, strict=True)
    ]
    return torch.tensor(moved)
