"""Answers to task 2.1 that are wrong, and some that are right in another style.

Chapter: 02_moe/conditional_computation
Source: deepseek_v3, eqs. 14, 15
"""

import torch
import torch.nn.functional as F
from einops import einsum

from tiny_lm.course.checks.before.mutants import honest, wrong
from tiny_lm.course.checks.moe.score import task_2_1


def _scores(x, centroids):
    return torch.sigmoid(x @ centroids.T)


def _best(scores, top_k):
    return scores.topk(top_k, dim=-1).indices


@wrong(task_2_1, "shapes", "rows are tokens, columns experts")
def on_its_side(x, centroids, top_k):
    scores = torch.sigmoid(centroids @ x.T)
    return scores, scores.topk(top_k, dim=0).indices


@wrong(task_2_1, "shapes", "both of width D")
def not_transposed(x, centroids, top_k):
    scores = torch.sigmoid(x @ centroids)
    return scores, _best(scores, top_k)


@wrong(task_2_1, "shapes", "which dim is theirs?")
def best_tokens(x, centroids, top_k):
    scores = _scores(x, centroids)
    return scores, scores.topk(top_k, dim=0).indices


@wrong(task_2_1, "shapes", "the scores of the chosen")
def chosen_scores_alone(x, centroids, top_k):
    return _scores(x, centroids).topk(top_k, dim=-1)


@wrong(task_2_1, "shapes", "the values and the places where they stood")
def values_for_ids(x, centroids, top_k):
    scores = _scores(x, centroids)
    return scores, scores.topk(top_k, dim=-1).values


@wrong(task_2_1, "shapes", "only the indices are asked for")
def values_and_indices(x, centroids, top_k):
    scores = _scores(x, centroids)
    return scores, scores.topk(top_k, dim=-1)


@wrong(task_2_1, "shapes", "in the other order")
def other_order(x, centroids, top_k):
    scores = _scores(x, centroids)
    return _best(scores, top_k), scores


@wrong(task_2_1, "shapes", "with a comma between them")
def experts_alone(x, centroids, top_k):
    return _best(_scores(x, centroids), top_k)


@wrong(task_2_1, "shapes", "Only the first k")
def never_cut(x, centroids, top_k):
    scores = _scores(x, centroids)
    return scores, scores.argsort(dim=-1, descending=True)


@wrong(task_2_1, "shapes", "Wanted are the k best")
def the_best_alone(x, centroids, top_k):
    scores = _scores(x, centroids)
    return scores, scores.argmax(dim=-1)


@wrong(task_2_1, "sigmoid", "This is a softmax")
def softmax(x, centroids, top_k):
    scores = (x @ centroids.T).softmax(dim=-1)
    return scores, _best(scores, top_k)


@wrong(task_2_1, "sigmoid", "softmax over the tokens")
def softmax_over_tokens(x, centroids, top_k):
    scores = (x @ centroids.T).softmax(dim=0)
    return scores, _best(scores, top_k)


@wrong(task_2_1, "sigmoid", "The sigmoid of each is missing")
def dot_products(x, centroids, top_k):
    scores = x @ centroids.T
    return scores, _best(scores, top_k)


@wrong(task_2_1, "sigmoid", "of the chosen only")
def normalised_over_all(x, centroids, top_k):
    scores = _scores(x, centroids)
    return scores / scores.sum(-1, keepdim=True), _best(scores, top_k)


@wrong(task_2_1, "sigmoid", "as attention does")
def scaled(x, centroids, top_k):
    scores = torch.sigmoid(x @ centroids.T * x.shape[-1] ** -0.5)
    return scores, _best(scores, top_k)


@wrong(task_2_1, "sigmoid", "Which sign")
def sigmoid_upside_down(x, centroids, top_k):
    scores = 1 / (1 + torch.exp(x @ centroids.T))
    return scores, _best(scores, top_k)


@wrong(task_2_1, "sigmoid", "length 1")
def cosine(x, centroids, top_k):
    scores = _scores(F.normalize(x, dim=-1), F.normalize(centroids, dim=-1))
    return scores, _best(scores, top_k)


@wrong(task_2_1, "best_first", "the best of them last")
def worst_first(x, centroids, top_k):
    scores = _scores(x, centroids)
    return scores, scores.argsort(dim=-1)[:, -top_k:]


@wrong(task_2_1, "best_first", "ordered by number")
def by_number(x, centroids, top_k):
    scores = _scores(x, centroids)
    return scores, _best(scores, top_k).sort(dim=-1).values


@wrong(task_2_1, "best_first", "lowest scores")
def sorted_upwards(x, centroids, top_k):
    scores = _scores(x, centroids)
    return scores, scores.argsort(dim=-1)[:, :top_k]


@wrong(task_2_1, "shapes", "counted from 0")
def counted_from_one(x, centroids, top_k):
    scores = _scores(x, centroids)
    return scores, _best(scores, top_k) + 1


@wrong(task_2_1, "different", "more than once")
def equals_struck_out(x, centroids, top_k):
    scores = _scores(x, centroids)
    left, experts = scores.clone(), []
    for _ in range(top_k):
        best = left.max(dim=-1, keepdim=True)
        experts.append(best.indices)
        left = left.masked_fill(left == best.values, -1.0)
    return scores, torch.cat(experts, dim=-1)


@wrong(task_2_1, "learns", "cut the way")
def detached(x, centroids, top_k):
    scores = _scores(x, centroids).detach()
    return scores, _best(scores, top_k)


@wrong(task_2_1, "learns", "cut the way")
def centroids_cut_off(x, centroids, top_k):
    scores = _scores(x, centroids.data)
    return scores, _best(scores, top_k)


@wrong(task_2_1, "equals_definition", "computed in bfloat16")
def in_bfloat16(x, centroids, top_k):
    scores = _scores(x.bfloat16(), centroids.bfloat16()).to(x.dtype)
    return scores, _best(scores, top_k)


@honest(task_2_1)
def named_dims_and_a_sort(tokens, directions, k):
    affinity = einsum(tokens, directions, "token width, expert width -> token expert")
    scores = 1 / (1 + (-affinity).exp())
    order = affinity.sort(dim=-1, descending=True).indices
    return scores, order[..., :k]


@honest(task_2_1)
def loop_over_tokens(x, centroids, top_k):
    rows = [(centroids.double() @ token.double()).sigmoid() for token in x]
    scores = torch.stack(rows)
    best = [
        sorted(range(len(row)), key=lambda e, row=row: -row[e].item())[:top_k]
        for row in rows
    ]
    return scores, torch.tensor(best)


@honest(task_2_1)
def struck_out_one_by_one(x, centroids, top_k):
    scores = F.linear(x, centroids).sigmoid()
    left, experts = scores.detach().clone(), []
    for _ in range(top_k):
        best = left.argmax(dim=-1, keepdim=True)
        experts.append(best)
        left = left.scatter(-1, best, -1.0)
    return scores, torch.cat(experts, dim=-1).int()
