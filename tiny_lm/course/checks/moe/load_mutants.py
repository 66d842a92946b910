"""Answers to task 2.5 that are wrong, and some that are right in another style.

Chapter: 02_moe/balance
Source: aux_free_balancing, MaxVio
"""

import torch
import torch.nn.functional as F

from tiny_lm.course.checks.moe.load import task_2_5
from tiny_lm.course.checks.mutants import honest, wrong


def _load(experts, num_experts):
    return experts.flatten().bincount(minlength=num_experts)


def _violation(load):
    mean = load.double().mean()
    return float((load.max() - mean) / mean) if mean else 0.0


@wrong(task_2_5, "counts_choices", "Only the best choice")
def best_choice_alone(experts, num_experts):
    load = experts[:, 0].bincount(minlength=num_experts)
    return load, _violation(load)


@wrong(task_2_5, "counts_choices", "flatten the choices")
def not_flattened(experts, num_experts):
    load = torch.bincount(experts, minlength=num_experts)
    return load, _violation(load)


@wrong(task_2_5, "counts_choices", "These are shares")
def shares(experts, num_experts):
    load = _load(experts, num_experts)
    return load / load.sum(), _violation(load)


@wrong(task_2_5, "counts_choices", "These are choices per token")
def per_token(experts, num_experts):
    load = _load(experts, num_experts)
    return load / len(experts), _violation(load)


@wrong(task_2_5, "counts_choices", "Counts are integers")
def counts_as_floats(experts, num_experts):
    load = F.one_hot(experts, num_experts).float().sum((0, 1))
    return load, _violation(load)


@wrong(task_2_5, "counts_choices", "torch refuses it for an integer tensor")
def mean_of_integers(experts, num_experts):
    load = _load(experts, num_experts)
    return load, (load.max() - load.mean()) / load.mean()


@wrong(task_2_5, "counts_choices", "two results")
def load_alone(experts, num_experts):
    return _load(experts, num_experts)


@wrong(task_2_5, "counts_nobody", "`minlength`")
def without_minlength(experts, num_experts):
    load = experts.flatten().bincount()
    return load, _violation(load)


@wrong(task_2_5, "counts_nobody", "the ones to find")
def unique_ids(experts, num_experts):
    load = experts.unique(return_counts=True)[1]
    return load, _violation(load)


@wrong(task_2_5, "violation", "This is largest / mean")
def largest_over_mean(experts, num_experts):
    load = _load(experts, num_experts)
    return load, float(load.max() / load.double().mean())


@wrong(task_2_5, "violation", "Measure it in means")
def largest_minus_mean(experts, num_experts):
    load = _load(experts, num_experts)
    return load, float(load.max() - load.double().mean())


@wrong(task_2_5, "violation", "The least busy expert")
def range_over_mean(experts, num_experts):
    load = _load(experts, num_experts)
    return load, float((load.max() - load.min()) / load.double().mean())


@wrong(task_2_5, "violation", "not by the largest")
def relative_to_the_largest(experts, num_experts):
    load = _load(experts, num_experts).double()
    return load.long(), float((load.max() - load.mean()) / load.max())


@wrong(task_2_5, "violation", "standard deviation")
def coefficient_of_variation(experts, num_experts):
    load = _load(experts, num_experts)
    return load, float(load.double().std() / load.double().mean())


@wrong(task_2_5, "over_all_experts", "the three experts with work")
def mean_of_those_with_work(experts, num_experts):
    load = _load(experts, num_experts)
    return load, _violation(load[load > 0])


@wrong(task_2_5, "over_all_experts", "without an absolute value")
def largest_distance(experts, num_experts):
    load = _load(experts, num_experts)
    mean = load.double().mean()
    return load, float((load - mean).abs().max() / mean)


@wrong(task_2_5, "over_all_experts", "lost its fraction")
def whole_mean(experts, num_experts):
    load = _load(experts, num_experts)
    mean = load.sum() // num_experts
    return load, float((load.max() - mean) / mean)


@wrong(task_2_5, "no_tokens", "0 / 0 is NaN")
def nan_without_tokens(experts, num_experts):
    load = _load(experts, num_experts)
    mean = load.double().mean()
    return load, float((load.max() - mean) / mean)


@wrong(task_2_5, "no_tokens", "the mean is 0")
def zero_division_without_tokens(experts, num_experts):
    load = _load(experts, num_experts)
    mean = experts.numel() / num_experts
    return load, load.max().item() / mean - 1


@honest(task_2_5)
def one_hot_sum(experts, num_experts):
    load = F.one_hot(experts, num_experts).sum((0, 1))
    if len(experts) == 0:
        return load, 0.0
    return load, load.max().item() * num_experts / experts.numel() - 1


@honest(task_2_5)
def plain_loop(experts, num_experts):
    counts = [0] * num_experts
    for row in experts.tolist():
        for expert in row:
            counts[expert] += 1
    mean = sum(counts) / num_experts
    return torch.tensor(counts), (max(counts) - mean) / mean if mean else 0


@honest(task_2_5)
def scatter_and_a_tensor(experts, num_experts):
    ids = experts.reshape(-1)
    load = torch.zeros(num_experts, dtype=torch.int32)
    load = load.scatter_add(0, ids, torch.ones_like(ids, dtype=torch.int32))
    mean = load.float().mean()
    return load, ((load.max() - mean) / mean).nan_to_num()
