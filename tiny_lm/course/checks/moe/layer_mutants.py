"""Answers to task 2.8 that are wrong, and some that are right in another style.

Chapter: 02_moe/balance
Source: deepseek_v3, eqs. 12-20
"""

import math

import torch
import torch.nn.functional as F

from tiny_lm.course.checks.before.mutants import honest, wrong
from tiny_lm.course.checks.moe.layer import moe_layer, task_2_8
from tiny_lm.course.checks.moe.sequence_mutants import (
    one_sequence_after_the_other as learners_loss,
)
from tiny_lm.router import limit_groups, sequence_loss


def _scores(x, centroids):
    return torch.sigmoid(x.flatten(0, 1) @ centroids.T)


def _limited(scores, bias, top_k, num_groups, top_groups, per_group=None):
    per_group = per_group or top_k // top_groups
    return limit_groups(scores + bias, num_groups, top_groups, per_group)


def _gate(choice, scores, top_k, route_scale):
    experts = choice.topk(top_k).indices
    chosen = scores.gather(-1, experts)
    return route_scale * chosen / chosen.sum(-1, keepdim=True), experts


def _run(tokens, experts, weights, gate_up, down):
    """Every expert reads everything; the weights of the unchosen are 0."""
    gate, up = torch.einsum("nd,efd->nef", tokens, gate_up).chunk(2, dim=-1)
    said = torch.einsum("nef,emf->nem", F.silu(gate) * up, down)
    table = torch.zeros(len(tokens), len(down)).scatter(-1, experts, weights)
    return torch.einsum("ne,nem->nm", table, said)


def _finish(x, scores, weights, experts, gate_up, down):
    y = _run(x.flatten(0, 1), experts, weights, gate_up, down).view_as(x)
    scores, experts = (z.unflatten(0, x.shape[:2]) for z in (scores, experts))
    return y, experts, sequence_loss(scores, experts)


def _layer(x, centroids, bias, gate_up, down, top_k, num_groups, top_groups, scale):
    scores = _scores(x, centroids)
    choice = _limited(scores, bias, top_k, num_groups, top_groups)
    weights, experts = _gate(choice, scores, top_k, scale)
    return _finish(x, scores, weights, experts, gate_up, down)


def _chosen_by(choose):
    """A layer that chooses by `choose(scores, bias, top_k, num_groups, top_groups)`."""

    def layer(x, centroids, bias, gate_up, down, top_k, num_groups, top_groups, scale):
        scores = _scores(x, centroids)
        choice = choose(scores, bias, top_k, num_groups, top_groups)
        weights, experts = _gate(choice, scores, top_k, scale)
        return _finish(x, scores, weights, experts, gate_up, down)

    return layer


@wrong(task_2_8, "shapes", "cut them into B sequences")
def y_end_to_end(*arguments):
    y, experts, balance = _layer(*arguments)
    return y.flatten(0, 1), experts, balance


@wrong(task_2_8, "shapes", "cut them into B sequences")
def experts_end_to_end(*arguments):
    y, experts, balance = _layer(*arguments)
    return y, experts.flatten(0, 1), balance


@wrong(task_2_8, "shapes", "three results")
def y_alone(*arguments):
    return _layer(*arguments)[0]


@wrong(task_2_8, "shapes", "sequence_loss wants (B, T, E)")
def loss_of_flat_scores(x, centroids, bias, gate_up, down, top_k, *rest):
    y, experts, _ = _layer(x, centroids, bias, gate_up, down, top_k, *rest)
    return y, experts, learners_loss(_scores(x, centroids), experts.flatten(0, 1))


@wrong(task_2_8, "weighed_sum", "`route_scale` is missing")
def without_scale(*arguments):
    return _layer(*arguments[:-1], 1.0)


@wrong(task_2_8, "weighed_sum", "`route_scale` came in twice")
def scaled_twice(*arguments):
    y, experts, balance = _layer(*arguments)
    return arguments[-1] * y, experts, balance


@wrong(task_2_8, "weighed_sum", "The block adds x")
def adds_x(x, *rest):
    y, experts, balance = _layer(x, *rest)
    return x + y, experts, balance


@wrong(task_2_8, "weighed_sum", "divides them by their sum")
def raw_scores_as_weights(x, centroids, bias, gate_up, down, k, n, m, scale):
    scores = _scores(x, centroids)
    experts = _limited(scores, bias, k, n, m).topk(k).indices
    weights = scale * scores.gather(-1, experts)
    return _finish(x, scores, weights, experts, gate_up, down)


@wrong(task_2_8, "weighed_sum", "over all four scores")
def divided_by_all_scores(x, centroids, bias, gate_up, down, k, n, m, scale):
    scores = _scores(x, centroids)
    experts = _limited(scores, bias, k, n, m).topk(k).indices
    weights = scale * (scores / scores.sum(-1, keepdim=True)).gather(-1, experts)
    return _finish(x, scores, weights, experts, gate_up, down)


@wrong(task_2_8, "weighed_sum", "Here a softmax")
def softmax_of_the_chosen(x, centroids, bias, gate_up, down, k, n, m, scale):
    logits = x.flatten(0, 1) @ centroids.T
    scores = logits.sigmoid()
    experts = _limited(scores, bias, k, n, m).topk(k).indices
    weights = scale * logits.gather(-1, experts).softmax(-1)
    return _finish(x, scores, weights, experts, gate_up, down)


@wrong(task_2_8, "bias_only_chooses", "the bias had no say")
def bias_forgotten(x, centroids, bias, *rest):
    return _layer(x, centroids, torch.zeros_like(bias), *rest)


@wrong(task_2_8, "bias_only_chooses", "shout louder")
def bias_weighs(x, centroids, bias, gate_up, down, k, n, m, scale):
    scores = _scores(x, centroids)
    choice = _limited(scores, bias, k, n, m)
    weights, experts = _gate(choice, choice, k, scale)
    return _finish(x, scores, weights, experts, gate_up, down)


@wrong(task_2_8, "groups_limit", "Experts of both groups")
def groups_forgotten(x, centroids, bias, gate_up, down, top_k, n, m, scale):
    return _layer(x, centroids, bias, gate_up, down, top_k, 1, 1, scale)


@wrong(task_2_8, "groups_limit", "the best single score")
def group_by_its_best(*arguments):
    return _chosen_by(lambda *given: _limited(*given, per_group=1))(*arguments)


@wrong(task_2_8, "groups_limit", "compared by the raw scores")
def groups_by_raw_scores(*arguments):
    def choose(scores, bias, top_k, num_groups, top_groups):
        return _limited(scores, 0 * bias, top_k, num_groups, top_groups) + bias

    return _chosen_by(choose)(*arguments)


@wrong(task_2_8, "groups_limit", "needs -inf")
def forbidden_by_zero(*arguments):
    def choose(*given):
        return _limited(*given).nan_to_num(neginf=0.0)

    return _chosen_by(choose)(*arguments)


@wrong(task_2_8, "groups_limit", "needs -inf")
def scores_of_the_forbidden_are_zero(*arguments):
    def choose(scores, bias, *numbers):
        closed = _limited(scores, bias, *numbers).isinf()
        return scores.masked_fill(closed, 0.0) + bias

    return _chosen_by(choose)(*arguments)


@wrong(task_2_8, "groups_limit", "inf - inf are NaN")
def bias_taken_off_again(x, centroids, bias, gate_up, down, k, n, m, scale):
    scores = _scores(x, centroids)
    limited = _limited(scores, bias, k, n, m)
    experts = limited.topk(k).indices
    weights = F.one_hot(experts, len(bias)).sum(1) * (limited - bias)
    chosen = weights.gather(-1, experts)
    chosen = scale * chosen / weights.sum(-1, keepdim=True)
    return _finish(x, scores, chosen, experts, gate_up, down)


@wrong(task_2_8, "balance_of_the_choice", "It wants the scores as they are")
def loss_of_masked_scores(x, centroids, bias, gate_up, down, k, n, m, scale):
    y, experts, _ = _layer(x, centroids, bias, gate_up, down, k, n, m, scale)
    scores = _scores(x, centroids)
    closed = _limited(scores, bias, k, n, m).isinf()
    allowed = scores.masked_fill(closed, -math.inf).unflatten(0, x.shape[:2])
    return y, experts, sequence_loss(allowed, experts)


@wrong(task_2_8, "balance_of_the_choice", "All sequences were counted as one")
def loss_of_the_batch(x, centroids, *rest):
    y, experts, _ = _layer(x, centroids, *rest)
    flat = experts.flatten(0, 1)[None]
    return y, experts, sequence_loss(_scores(x, centroids)[None], flat)


@wrong(task_2_8, "balance_of_the_choice", "Hand it those that the gate chose")
def loss_of_the_best_scores(x, centroids, bias, gate_up, down, top_k, *rest):
    y, experts, _ = _layer(x, centroids, bias, gate_up, down, top_k, *rest)
    scores = _scores(x, centroids).unflatten(0, x.shape[:2])
    return y, experts, sequence_loss(scores, scores.topk(top_k).indices)


@wrong(task_2_8, "balance_of_the_choice", "Its shares are of the raw ones")
def loss_of_biased_scores(x, centroids, bias, *rest):
    y, experts, _ = _layer(x, centroids, bias, *rest)
    scores = _scores(x, centroids).unflatten(0, x.shape[:2])
    return y, experts, sequence_loss(scores + bias, experts)


@wrong(task_2_8, "gradients", "Nothing comes through")
def router_cut_off(x, centroids, bias, gate_up, down, k, n, m, scale):
    scores = _scores(x, centroids)
    choice = _limited(scores, bias, k, n, m)
    weights, experts = _gate(choice, scores.detach(), k, scale)
    return _finish(x, scores, weights, experts, gate_up, down)


@wrong(task_2_8, "gradients", "Nothing comes through")
def loss_cut_off(*arguments):
    y, experts, balance = _layer(*arguments)
    return y, experts, balance.item()


@wrong(task_2_8, "gradients", "update_bias alone")
def bias_learns(x, centroids, bias, *rest):
    """A straight-through bias: worth nothing in value, but not in gradient."""
    y, experts, balance = _layer(x, centroids, bias, *rest)
    return y * (1 + (bias - bias.detach()).sum()), experts, balance


@wrong(task_2_8, "equals_definition", "the share of the choices")
def group_by_top_k(*arguments):
    by_k = _chosen_by(lambda s, b, k, *groups: _limited(s, b, k, *groups, per_group=k))
    return by_k(*arguments)


@wrong(task_2_8, "equals_definition", "the share of the choices")
def group_by_two(*arguments):
    return _chosen_by(lambda *given: _limited(*given, per_group=2))(*arguments)


@wrong(task_2_8, "equals_definition", "")
def sequences_mixed_up(x, *rest):
    y, experts, balance = _layer(x, *rest)
    mixed = y.flatten(0, 1).view(x.shape[1], len(x), -1).transpose(0, 1)
    return mixed, experts, balance


@honest(task_2_8)
def every_expert_reads_everything(*arguments):
    return _layer(*arguments)


@honest(task_2_8)
def forbidden_by_score(x, centroids, bias, gate_up, down, k, n, m, scale):
    """The gate is told by a score of -inf, as the hints have it."""
    scores = _scores(x, centroids)
    closed = _limited(scores, bias, k, n, m) == -math.inf
    allowed = scores.masked_fill(closed, -math.inf)
    weights, experts = _gate(allowed + bias, allowed, k, scale)
    return _finish(x, scores, weights, experts, gate_up, down)


@honest(task_2_8)
def one_token_after_the_other(x, centroids, bias, gate_up, down, k, n, m, scale):
    scores = torch.sigmoid(torch.einsum("btd,ed->bte", x, centroids))
    rows, ids = [], []
    for token, s in zip(x.flatten(0, 1), scores.flatten(0, 1), strict=True):
        groups = (s + bias).unflatten(0, (n, -1))
        good = groups.topk(min(k // m, groups.shape[1])).values.sum(-1).topk(m).indices
        closed = torch.ones_like(groups).index_fill(0, good, 0.0).flatten().bool()
        best = (s + bias).masked_fill(closed, -math.inf).topk(k).indices
        said = 0.0
        for e in best:
            g, u = (gate_up[e] @ token).chunk(2)
            said = said + scale * s[e] / s[best].sum() * (down[e] @ (F.silu(g) * u))
        rows.append(said)
        ids.append(best)
    experts = torch.stack(ids).unflatten(0, x.shape[:2])
    return torch.stack(rows).view_as(x), experts, sequence_loss(scores, experts)


@honest(task_2_8)
def in_double_precision(*arguments):
    y, experts, balance = moe_layer(
        *(a.double() if isinstance(a, torch.Tensor) else a for a in arguments)
    )
    return y.to(arguments[0]), experts.int(), balance.float()
