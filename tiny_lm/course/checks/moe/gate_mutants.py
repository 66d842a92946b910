"""Answers to task 2.2 that are wrong, and some that are right in another style.

Chapter: 02_moe/balance
Source: deepseek_v3, eqs. 13, 15, 16
"""

import torch

from tiny_lm.course.checks.moe.gate import task_2_2
from tiny_lm.course.checks.mutants import honest, wrong


def _choose(choice, top_k):
    return choice.topk(top_k, dim=-1).indices


def _share(chosen):
    return chosen / chosen.sum(-1, keepdim=True)


@wrong(task_2_2, "normalised", "These are the raw scores")
def not_normalised(scores, bias, top_k, route_scale):
    experts = _choose(scores + bias, top_k)
    return route_scale * scores.gather(-1, experts), experts


@wrong(task_2_2, "normalised", "over all experts")
def normalised_over_all(scores, bias, top_k, route_scale):
    experts = _choose(scores + bias, top_k)
    return route_scale * _share(scores).gather(-1, experts), experts


@wrong(task_2_2, "normalised", "over both tokens")
def normalised_over_the_batch(scores, bias, top_k, route_scale):
    experts = _choose(scores + bias, top_k)
    chosen = scores.gather(-1, experts)
    return route_scale * chosen / chosen.sum(), experts


@wrong(task_2_2, "normalised", "keepdim=True makes it")
def keepdim_forgotten(scores, bias, top_k, route_scale):
    experts = _choose(scores + bias, top_k)
    chosen = scores.gather(-1, experts)
    return route_scale * chosen / chosen.sum(-1), experts


@wrong(task_2_2, "normalised", "there is gather")
def rows_for_entries(scores, bias, top_k, route_scale):
    experts = _choose(scores + bias, top_k)
    return route_scale * _share(scores[experts]), experts


@wrong(task_2_2, "normalised", "one row of ids for each token")
def everybodys_ids(scores, bias, top_k, route_scale):
    experts = _choose(scores + bias, top_k)
    return route_scale * _share(scores[:, experts]), experts


@wrong(task_2_2, "normalised", "A softmax was used")
def softmax_of_the_chosen(scores, bias, top_k, route_scale):
    experts = _choose(scores + bias, top_k)
    return route_scale * scores.gather(-1, experts).softmax(-1), experts


@wrong(task_2_2, "normalised", "A softmax was used")
def softmax_of_all(scores, bias, top_k, route_scale):
    experts = _choose(scores + bias, top_k)
    return route_scale * scores.softmax(-1).gather(-1, experts), experts


@wrong(task_2_2, "normalised", "Each expert got the other's weight")
def weights_sorted_apart(scores, bias, top_k, route_scale):
    experts = _choose(scores + bias, top_k)
    weights = _share(scores.gather(-1, experts)).sort(-1).values
    return route_scale * weights, experts


@wrong(task_2_2, "normalised", "All weigh the same")
def all_alike(scores, bias, top_k, route_scale):
    experts = _choose(scores + bias, top_k)
    return torch.full(experts.shape, route_scale / top_k), experts


@wrong(task_2_2, "normalised", "A weight for each expert there is")
def a_weight_for_every_expert(scores, bias, top_k, route_scale):
    experts = _choose(scores + bias, top_k)
    weights = _share(scores.gather(-1, experts))
    return route_scale * torch.zeros_like(scores).scatter(-1, experts, weights), experts


@wrong(task_2_2, "normalised", "the values and the places")
def values_for_ids(scores, bias, top_k, route_scale):
    best = scores.topk(top_k, dim=-1).values
    return route_scale * _share(best), best


@wrong(task_2_2, "normalised", "An operation in place")
def bias_added_in_place(scores, bias, top_k, route_scale):
    raw = scores.clone()
    scores += bias
    experts = _choose(scores, top_k)
    return route_scale * _share(raw.gather(-1, experts)), experts


@wrong(task_2_2, "bias_chooses", "The bias was not asked")
def bias_ignored(scores, bias, top_k, route_scale):
    experts = _choose(scores, top_k)
    return route_scale * _share(scores.gather(-1, experts)), experts


@wrong(task_2_2, "bias_chooses", "was subtracted")
def bias_subtracted(scores, bias, top_k, route_scale):
    experts = _choose(scores - bias, top_k)
    return route_scale * _share(scores.gather(-1, experts)), experts


@wrong(task_2_2, "bias_chooses", "cut off at it")
def negative_choice_cut_off(scores, bias, top_k, route_scale):
    experts = _choose((scores + bias).clamp(min=0), top_k)
    return route_scale * _share(scores.gather(-1, experts)), experts


@wrong(task_2_2, "bias_weighs_nothing", "The bias got into the weights")
def bias_in_the_gate(scores, bias, top_k, route_scale):
    weights, experts = (scores + bias).topk(top_k, dim=-1)
    return route_scale * _share(weights), experts


@wrong(task_2_2, "bias_weighs_nothing", "The sum that divides still")
def bias_in_the_sum(scores, bias, top_k, route_scale):
    biased, experts = (scores + bias).topk(top_k, dim=-1)
    weights = scores.gather(-1, experts) / biased.sum(-1, keepdim=True)
    return route_scale * weights, experts


@wrong(task_2_2, "bias_weighs_nothing", "These belong to experts 0 and 2")
def weights_of_the_unbiased_choice(scores, bias, top_k, route_scale):
    weights = scores.topk(top_k, dim=-1).values
    return route_scale * _share(weights), _choose(scores + bias, top_k)


@wrong(task_2_2, "scaled", "Was route_scale forgotten")
def scale_forgotten(scores, bias, top_k, route_scale):
    experts = _choose(scores + bias, top_k)
    return _share(scores.gather(-1, experts)), experts


@wrong(task_2_2, "scaled", "where it cancels")
def scale_before_the_division(scores, bias, top_k, route_scale):
    experts = _choose(scores + bias, top_k)
    return _share(route_scale * scores.gather(-1, experts)), experts


@wrong(task_2_2, "scaled", "divided by route_scale")
def scale_divides(scores, bias, top_k, route_scale):
    experts = _choose(scores + bias, top_k)
    return _share(scores.gather(-1, experts)) / route_scale, experts


@wrong(task_2_2, "learns", "cut them from the scores")
def detached(scores, bias, top_k, route_scale):
    experts = _choose(scores + bias, top_k)
    return route_scale * _share(scores.detach().gather(-1, experts)), experts


@wrong(task_2_2, "learns", "The sum that divides was detached")
def sum_detached(scores, bias, top_k, route_scale):
    experts = _choose(scores + bias, top_k)
    chosen = scores.gather(-1, experts)
    return route_scale * chosen / chosen.detach().sum(-1, keepdim=True), experts


@wrong(task_2_2, "learns", "set by a rule")
def bias_learns(scores, bias, top_k, route_scale):
    """The value of the raw score, the gradient of the biased one."""
    biased, experts = (scores + bias).topk(top_k, dim=-1)
    return route_scale * _share(biased - bias.detach()[experts]), experts


@wrong(task_2_2, "equals_definition", "all the equals at once")
def equals_struck_out(scores, bias, top_k, route_scale):
    left, experts = scores + bias, []
    for _ in range(top_k):
        best = left.max(dim=-1, keepdim=True)
        experts.append(best.indices)
        left = left.masked_fill(left == best.values, -torch.inf)
    experts = torch.cat(experts, dim=-1)
    return route_scale * _share(scores.gather(-1, experts)), experts


@honest(task_2_2)
def loop_over_tokens(affinities, correction, k, scale):
    weights, experts = [], []
    for row in affinities:
        ranked = (row + correction).sort(descending=True).indices[:k]
        experts.append(ranked)
        weights.append(row[ranked] * scale / row[ranked].sum())
    return torch.stack(weights), torch.stack(experts)


@honest(task_2_2)
def one_hot_mask(scores, bias, top_k, route_scale):
    chosen = (scores + bias).argsort(dim=-1, descending=True)[:, :top_k]
    mask = torch.nn.functional.one_hot(chosen, scores.shape[-1]).sum(1)
    gates = scores * mask / (scores * mask).sum(-1, keepdim=True)
    experts = mask.nonzero()[:, 1].view(-1, top_k)  # by number, not best first
    return gates.gather(-1, experts) * route_scale, experts


@honest(task_2_2)
def ordered_by_weight_in_float64(scores, bias, top_k, route_scale):
    experts = (scores.detach() + bias).topk(top_k, sorted=False).indices
    raw, order = scores.double().gather(-1, experts).sort(-1, descending=True)
    weights = raw / (raw.sum(-1, keepdim=True) + 1e-20)
    return weights.mul(route_scale), experts.gather(-1, order)
