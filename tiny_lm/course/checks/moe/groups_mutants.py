"""Answers to task 2.3 that are wrong, and some that are right in another style.

Chapter: 02_moe/balance
Source: deepseek_v3, section 2.1.2
"""

import math

import torch
from einops import rearrange, repeat

from tiny_lm.course.checks.before.mutants import honest, wrong
from tiny_lm.course.checks.moe.groups import task_2_3


def _best_sum(groups, per_group):
    return groups.topk(per_group, dim=-1).values.sum(-1)


def _kept(strength, top_groups):
    """One True for each group that stays open."""
    kept = strength.topk(top_groups, dim=-1).indices
    return torch.zeros_like(strength).scatter(-1, kept, 1.0).bool()


def _limit(
    choice, num_groups, top_groups, per_group, strength=_best_sum, fill=-torch.inf
):
    """Right with its defaults; the last two are places to go wrong."""
    groups = choice.unflatten(-1, (num_groups, -1))
    kept = _kept(strength(groups, per_group), top_groups)
    return groups.masked_fill(~kept[..., None], fill).flatten(-2)


@wrong(task_2_3, "nothing_closed", "Everything is closed")
def mask_upside_down(choice, num_groups, top_groups, per_group):
    groups = choice.unflatten(-1, (num_groups, -1))
    kept = _kept(_best_sum(groups, per_group), top_groups)
    return groups.masked_fill(kept[..., None], -torch.inf).flatten(-2)


@wrong(task_2_3, "nothing_closed", "This is a mask")
def the_mask_itself(choice, num_groups, top_groups, per_group):
    groups = choice.unflatten(-1, (num_groups, -1))
    kept = _kept(_best_sum(groups, per_group), top_groups)
    return kept.repeat_interleave(groups.shape[-1], dim=-1)


@wrong(task_2_3, "nothing_closed", "still apart")
def groups_apart(choice, num_groups, top_groups, per_group):
    limited = _limit(choice, num_groups, top_groups, per_group)
    return limited.unflatten(-1, (num_groups, -1))


@wrong(task_2_3, "nothing_closed", "one number for each group")
def strengths_returned(choice, num_groups, top_groups, per_group):
    strength = _best_sum(choice.unflatten(-1, (num_groups, -1)), per_group)
    return strength.masked_fill(~_kept(strength, top_groups), -torch.inf)


@wrong(task_2_3, "nothing_closed", "Give the mask a last dim")
def mask_not_spread(choice, num_groups, top_groups, per_group):
    groups = choice.unflatten(-1, (num_groups, -1))
    kept = _kept(_best_sum(groups, per_group), top_groups)
    return choice.masked_fill(~kept, -torch.inf)


@wrong(task_2_3, "nothing_closed", "Inside an open group, all scores stay")
def best_of_each_group_alone(choice, num_groups, top_groups, per_group):
    limited = _limit(choice, num_groups, top_groups, per_group)
    groups = limited.unflatten(-1, (num_groups, -1))
    worst = groups.topk(per_group, dim=-1).values[..., -1:]
    return groups.masked_fill(groups < worst, -torch.inf).flatten(-2)


@wrong(task_2_3, "nothing_closed", "An operation in place")
def closed_in_place(choice, num_groups, top_groups, per_group):
    groups = choice.view(len(choice), num_groups, -1)
    kept = _kept(_best_sum(groups, per_group), top_groups)
    groups[~kept] = -torch.inf
    return choice


@wrong(task_2_3, "strongest_group", "the best single expert")
def group_by_its_best(choice, num_groups, top_groups, per_group):
    def best(groups, per_group):
        return groups.amax(-1)

    return _limit(choice, num_groups, top_groups, per_group, best)


@wrong(task_2_3, "strongest_group", "and mean, of all its scores")
def group_by_its_mean(choice, num_groups, top_groups, per_group):
    def mean(groups, per_group):
        return groups.mean(-1)

    return _limit(choice, num_groups, top_groups, per_group, mean)


@wrong(task_2_3, "strongest_group", "largest first two scores")
def group_by_its_first(choice, num_groups, top_groups, per_group):
    def first(groups, per_group):
        return groups[..., :per_group].sum(-1)

    return _limit(choice, num_groups, top_groups, per_group, first)


@wrong(task_2_3, "strongest_group", "Is per_group used?")
def always_two(choice, num_groups, top_groups, per_group):
    def two(groups, per_group):
        return _best_sum(groups, min(2, groups.shape[-1]))

    return _limit(choice, num_groups, top_groups, per_group, two)


@wrong(task_2_3, "strongest_group", "no neighbours")
def every_fourth_expert(choice, num_groups, top_groups, per_group):
    groups = rearrange(choice, "n (e g) -> n g e", g=num_groups)
    kept = _kept(_best_sum(groups, per_group), top_groups)
    limited = groups.masked_fill(~kept[..., None], -torch.inf)
    return rearrange(limited, "n g e -> n (e g)")


@wrong(task_2_3, "strongest_group", "0 times infinity")
def mask_times_infinity(choice, num_groups, top_groups, per_group):
    groups = choice.unflatten(-1, (num_groups, -1))
    kept = _kept(_best_sum(groups, per_group), top_groups)
    if kept.all():
        return choice
    return (groups - (~kept[..., None]) * torch.inf).flatten(-2)


@wrong(task_2_3, "strongest_group", "the others left open")
def closes_the_best(choice, num_groups, top_groups, per_group):
    groups = choice.unflatten(-1, (num_groups, -1))
    kept = _kept(_best_sum(groups, per_group), top_groups)
    closed = kept & (top_groups < num_groups)
    return groups.masked_fill(closed[..., None], -torch.inf).flatten(-2)


@wrong(task_2_3, "strongest_group", "The other groups are gone")
def others_cut_away(choice, num_groups, top_groups, per_group):
    groups = choice.unflatten(-1, (num_groups, -1))
    kept = _kept(_best_sum(groups, per_group), top_groups)
    return groups[kept].view(len(choice), -1)


@wrong(task_2_3, "banned", "0 is larger")
def masked_with_zero(choice, num_groups, top_groups, per_group):
    return _limit(choice, num_groups, top_groups, per_group, fill=0.0)


@wrong(task_2_3, "banned", "0 is larger")
def multiplied_by_the_mask(choice, num_groups, top_groups, per_group):
    groups = choice.unflatten(-1, (num_groups, -1))
    kept = _kept(_best_sum(groups, per_group), top_groups)
    return (groups * kept[..., None]).flatten(-2)


@wrong(task_2_3, "banned", "only a low score")
def masked_with_a_low_score(choice, num_groups, top_groups, per_group):
    return _limit(choice, num_groups, top_groups, per_group, fill=-1e4)


@wrong(task_2_3, "own_groups", "Each chooses its own")
def one_choice_for_the_batch(choice, num_groups, top_groups, per_group):
    def first_row(groups, per_group):
        return _best_sum(groups, per_group)[:1].expand(len(groups), -1)

    return _limit(choice, num_groups, top_groups, per_group, first_row)


@wrong(task_2_3, "own_groups", "Is top_groups used?")
def one_group_alone(choice, num_groups, top_groups, per_group):
    few = num_groups if top_groups == num_groups else 1
    return _limit(choice, num_groups, few, per_group)


@wrong(task_2_3, "own_groups", "lets too many pass")
def compared_with_the_weakest(choice, num_groups, top_groups, per_group):
    groups = choice.unflatten(-1, (num_groups, -1))
    strength = _best_sum(groups, per_group)
    weakest = strength.topk(top_groups, dim=-1).values[:, -1:]
    return groups.masked_fill((strength < weakest)[..., None], -torch.inf).flatten(-2)


@wrong(task_2_3, "equals_definition", "")
def two_of_each_group_at_most(choice, num_groups, top_groups, per_group):
    return _limit(choice, num_groups, top_groups, min(per_group, 2))


@honest(task_2_3)
def loop(choice, num_groups, top_groups, per_group):
    size = choice.shape[1] // num_groups
    limited = torch.full_like(choice, -math.inf)
    for row, out in zip(choice, limited, strict=True):
        strength = [
            sum(sorted(group.tolist())[-per_group:]) for group in row.split(size)
        ]
        ranked = sorted(range(num_groups), key=lambda g, s=strength: -s[g])
        for g in ranked[:top_groups]:
            out[g * size : (g + 1) * size] = row[g * size : (g + 1) * size]
    return limited


@honest(task_2_3)
def logarithm_of_the_mask(choice, num_groups, top_groups, per_group):
    groups = rearrange(choice.double(), "n (g e) -> n g e", g=num_groups)
    ordered = groups.sort(dim=-1, descending=True).values
    order = ordered[..., :per_group].sum(-1).argsort(-1, descending=True)
    kept = torch.nn.functional.one_hot(order[:, :top_groups], num_groups).sum(1)
    ban = repeat(kept.double().log(), "n g -> n (g e)", e=groups.shape[-1])
    return choice + ban


@honest(task_2_3)
def lowest_number_of_the_type(choice, num_groups, top_groups, per_group):
    lowest = torch.finfo(choice.dtype).min
    return _limit(choice, num_groups, top_groups, per_group, fill=lowest)
