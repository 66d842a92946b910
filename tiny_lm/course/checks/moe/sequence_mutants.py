"""Answers to task 2.7 that are wrong, and some that are right in another style.

Chapter: 02_moe/balance
Source: deepseek_v3, eqs. 17-20
"""

import torch
import torch.nn.functional as F
from einops import einsum, reduce

from tiny_lm.course.checks.before.mutants import honest, wrong
from tiny_lm.course.checks.moe.sequence import task_2_7


def _f(scores, experts):
    E = scores.shape[-1]
    counts = F.one_hot(experts, E).sum((1, 2))
    return counts * E / (experts.shape[-1] * experts.shape[1])


def _p(scores):
    return (scores / scores.sum(-1, keepdim=True)).mean(1)


def _loss(f, p):
    return (f * p).sum(-1).mean()


@wrong(task_2_7, "by_hand", "The factor in front")
def f_without_experts(scores, experts):
    return _loss(_f(scores, experts) / scores.shape[-1], _p(scores))


@wrong(task_2_7, "by_hand", "Each token makes k choices")
def f_without_k(scores, experts):
    return _loss(_f(scores, experts) * experts.shape[-1], _p(scores))


@wrong(task_2_7, "by_hand", "were not divided by T")
def f_without_tokens(scores, experts):
    return _loss(_f(scores, experts) * experts.shape[1], _p(scores))


@wrong(task_2_7, "by_hand", "is off")
def f_is_a_count(scores, experts):
    return _loss(F.one_hot(experts, scores.shape[-1]).sum((1, 2)), _p(scores))


@wrong(task_2_7, "by_hand", "averaged, not added")
def mean_over_experts(scores, experts):
    return (_f(scores, experts) * _p(scores)).mean()


@wrong(task_2_7, "by_hand", "Sigmoid scores do not add up to 1")
def p_not_normalised(scores, experts):
    return _loss(_f(scores, experts), scores.mean(1))


@wrong(task_2_7, "by_hand", "Each token's own sum comes first")
def normalised_after_the_mean(scores, experts):
    p = scores.mean(1)
    return _loss(_f(scores, experts), p / p.sum(-1, keepdim=True))


@wrong(task_2_7, "by_hand", "keepdim=True")
def another_tokens_sum(scores, experts):
    return _loss(_f(scores, experts), (scores / scores.sum(-1)).mean(1))


@wrong(task_2_7, "by_hand", "bias and groups had a say")
def counts_the_best_scores(scores, experts):
    best = scores.topk(experts.shape[-1]).indices
    return _loss(_f(scores, best), _p(scores))


@wrong(task_2_7, "by_hand", "They are sigmoids already")
def softmax(scores, experts):
    return _loss(_f(scores, experts), scores.softmax(-1).mean(1))


@wrong(task_2_7, "by_hand", "a count has no gradient")
def f_squared(scores, experts):
    f = _f(scores, experts)
    return _loss(f, f / f.sum(-1, keepdim=True))


@wrong(task_2_7, "by_hand", "torch takes no mean of whole numbers")
def mean_of_counts(scores, experts):
    E = scores.shape[-1]
    return _loss(F.one_hot(experts, E).mean((1, 2)) * E, _p(scores))


@wrong(task_2_7, "by_hand", "one row of ids")
def bincount_of_all(scores, experts):
    T, E = scores.shape[1:]
    f = torch.bincount(experts, minlength=E) * E / (experts.shape[-1] * T)
    return _loss(f, _p(scores))


@wrong(task_2_7, "by_hand", "add them up")
def not_summed(scores, experts):
    return (_f(scores, experts) * _p(scores)).mean(0)


@wrong(task_2_7, "one_when_even", "f has to be 1 then")
def sizes_as_numbers(scores, experts):
    counts = F.one_hot(experts, scores.shape[-1]).sum((1, 2))
    return _loss(counts * 4 / (2 * 4), _p(scores))


@wrong(task_2_7, "per_sequence", "thrown together")
def whole_batch(scores, experts):
    return _loss(*(g.mean(0) for g in (_f(scores, experts), _p(scores))))


@wrong(task_2_7, "per_sequence", "thrown together")
def f_of_the_batch(scores, experts):
    return _loss(_f(scores, experts).mean(0), _p(scores))


@wrong(task_2_7, "per_sequence", "a larger batch is a larger loss")
def summed_over_sequences(scores, experts):
    return (_f(scores, experts) * _p(scores)).sum()


@wrong(task_2_7, "per_sequence", "tokens of the whole batch")
def divided_by_the_batch(scores, experts):
    return _loss(_f(scores, experts) / len(scores), _p(scores))


@wrong(task_2_7, "per_sequence", "take the mean")
def loss_of_each(scores, experts):
    return (_f(scores, experts) * _p(scores)).sum(-1).squeeze(0)


@wrong(task_2_7, "nobody", "`num_classes`")
def without_num_classes(scores, experts):
    T, E = scores.shape[1:]
    counts = F.one_hot(experts).sum((1, 2))
    return _loss(counts * E / (experts.shape[-1] * T), _p(scores))


@wrong(task_2_7, "nobody", "the experts that exist")
def experts_in_use(scores, experts):
    f = _f(scores, experts) / scores.shape[-1]
    return _loss(f * (int(experts.max()) + 1), _p(scores))


@wrong(task_2_7, "gradient", "lost its way back")
def detached(scores, experts):
    return _loss(_f(scores, experts), _p(scores)).detach()


@wrong(task_2_7, "gradient", "lost its way back")
def number(scores, experts):
    return _loss(_f(scores, experts), _p(scores)).item()


@wrong(task_2_7, "gradient", "Shares have to stay shares")
def detached_sum(scores, experts):
    p = (scores / scores.sum(-1, keepdim=True).detach()).mean(1)
    return _loss(_f(scores, experts), p)


@honest(task_2_7)
def one_sequence_after_the_other(scores, experts):
    T, E = scores.shape[1:]
    losses = []
    for s, chosen in zip(scores, experts, strict=True):
        f = torch.bincount(chosen.flatten(), minlength=E) * E / (chosen.shape[-1] * T)
        losses.append(f.to(s) @ (s / s.sum(-1, keepdim=True)).mean(0))
    return torch.stack(losses).mean()


@honest(task_2_7)
def einsum_and_scatter(scores, experts):
    B, T, E = scores.shape
    chosen = torch.zeros_like(scores).scatter(-1, experts, 1.0).mean(1)
    shares = F.normalize(scores, p=1, dim=-1)
    f = chosen * E / experts.shape[-1]
    return einsum(f, reduce(shares, "b t e -> b e", "mean"), "b e, b e ->") / B


@honest(task_2_7)
def looks_up_what_was_chosen(scores, experts):
    """P is read at each choice, so no counting is needed."""
    p = (scores / scores.sum(-1, keepdim=True)).mean(1)
    return p.gather(1, experts.flatten(1)).mean() * scores.shape[-1]
