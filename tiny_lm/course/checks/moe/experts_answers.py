"""Answers to task 2.4 that are more than one edit of the reference, wrong and right.

Chapter: 02_moe/conditional_computation
Source: deepseek_v3, eq. 12; swiglu
"""

import torch
import torch.nn.functional as F

from tiny_lm.course.checks.moe.experts import (
    OVERWRITTEN,
    grouped,
    own,
    run_experts,
    task_2_4,
    uneven,
)
from tiny_lm.layers import grouped_linear


def sorted_results(x, experts, gate_up, down, counts=None):
    """Results in the order of experts, and the pairs they belong to."""
    flat = experts.flatten()
    order = flat.argsort(stable=True)
    if counts is None:
        counts = flat.bincount(minlength=len(gate_up))
    rows = x[order // experts.shape[1]].split(counts.tolist())
    out = []
    for part, wide, narrow in zip(rows, gate_up, down, strict=False):
        gate, up = (part @ wide.T).chunk(2, dim=-1)
        out.append((F.silu(gate) * up) @ narrow.T)
    return torch.cat(out), order


OTHER_WEIGHT = (
    "The results were weighed with weights of other choices. Whatever sorts or selects "
    "the tokens has to do the same to their weights."
)


@own.mistake(OTHER_WEIGHT)
def weights_left_unsorted(x, experts, weights, gate_up, down):
    out, order = sorted_results(x, experts, gate_up, down)
    out = out * weights.flatten().unsqueeze(-1)
    return torch.zeros_like(x).index_add(0, order // experts.shape[1], out)


@own.mistake("The results are still sorted by expert. Whose are they?")
def left_sorted(x, experts, weights, gate_up, down):
    out, order = sorted_results(x, experts, gate_up, down)
    out = out * weights.flatten()[order].unsqueeze(-1)
    return out.view(*experts.shape, -1).sum(1)


@own.mistake(
    "repeat lays the tokens end to end, once more for each choice: 0, 1, 2, 0, 1, 2. "
    "Choices of one token are neighbours: 0, 0, 1, 1, 2, 2, as repeat_interleave makes."
)
def repeat_for_repeat_interleave(x, experts, weights, gate_up, down):
    flat, rows = experts.flatten(), x.repeat(experts.shape[1], 1)
    y = torch.zeros_like(rows)
    for e in range(len(gate_up)):
        mine = flat == e
        gate, up = (rows[mine] @ gate_up[e].T).chunk(2, dim=-1)
        y[mine] = (F.silu(gate) * up) @ down[e].T
    return (y.view(*experts.shape, -1) * weights.unsqueeze(-1)).sum(1)


@own.mistake(OVERWRITTEN)
def lost_among_repeats(x, experts, weights, gate_up, down):
    out, order = sorted_results(x, experts, gate_up, down)
    out = out * weights.flatten()[order].unsqueeze(-1)
    y = torch.zeros_like(x)
    for token, row in zip((order // experts.shape[1]).tolist(), out, strict=True):
        y[token] = row  # as `y[tokens] += out` does, where threads do not race
    return y


@uneven.mistake(
    "Is each slice of tokens still multiplied with the matrices of its own expert? One "
    "that got none is skipped by everything that lists what occurs."
)
def empty_experts_skipped(x, experts, weights, gate_up, down):
    counts = experts.unique(return_counts=True)[1]
    out, order = sorted_results(x, experts, gate_up, down, counts)
    out = out * weights.flatten()[order].unsqueeze(-1)
    return torch.zeros_like(x).index_add(0, order // experts.shape[1], out)


@grouped.mistake(
    "This is a loop over tokens: right, and slow, because each call takes its time "
    "however little it does. Let each expert read all its tokens at once."
)
def loop_over_tokens(x, experts, weights, gate_up, down):
    rows = [
        run_experts(*one, gate_up, down)
        for one in zip(x.split(1), experts.split(1), weights.split(1), strict=True)
    ]
    return torch.cat(rows)


@grouped.mistake(
    "Tokens were sent through experts that they did not choose, only to be weighed "
    "with 0. What makes a mixture cheap is not to compute those at all."
)
def every_expert_on_every_token(x, experts, weights, gate_up, down):
    y = torch.zeros_like(x)
    for e in range(len(gate_up)):
        gate, up = (x @ gate_up[e].T).chunk(2, dim=-1)
        weight = (weights * (experts == e)).sum(-1, keepdim=True)
        y = y + weight * ((F.silu(gate) * up) @ down[e].T)
    return y


@grouped.mistake(
    "There are more products than the experts' own. To bring tokens to their experts "
    "and back takes no product: indices do it. (The task says what may be spent.)"
)
def moved_by_products(x, experts, weights, gate_up, down):
    y = torch.zeros_like(x)
    for e in range(len(gate_up)):
        token, choice = (experts == e).nonzero(as_tuple=True)
        pick = F.one_hot(token, len(x)).to(x.dtype)
        gate, up = (pick @ x @ gate_up[e].T).chunk(2, dim=-1)
        out = (F.silu(gate) * up) @ down[e].T
        y = y + pick.T @ (out * weights[token, choice].unsqueeze(-1))
    return y


@grouped.mistake(
    "Matrices were copied for each token, as gate_up[experts] does. An expert's matrix "
    "is large and its tokens are many: bring the tokens to the matrix."
)
def matrices_for_each_token(x, experts, weights, gate_up, down):
    both = torch.einsum("nd,nkfd->nkf", x, gate_up[experts])
    gate, up = both.chunk(2, dim=-1)
    out = torch.einsum("nkf,nkdf->nkd", F.silu(gate) * up, down[experts])
    return (out * weights[..., None]).sum(1)


@task_2_4.accepts
def loop_over_choices_and_experts(x, experts, weights, gate_up, down):
    y = torch.zeros_like(x)
    for j in range(experts.shape[1]):
        for e in range(gate_up.shape[0]):
            mine = experts[:, j] == e
            if mine.any():
                gate, up = (x[mine] @ gate_up[e].T).chunk(2, dim=-1)
                out = (F.silu(gate) * up) @ down[e].T
                y[mine] += weights[mine, j].unsqueeze(1) * out
    return y


@task_2_4.accepts
def sorted_and_split(x, experts, weights, gate_up, down):
    out, order = sorted_results(x, experts, gate_up, down)
    back = out[order.argsort()].view(*experts.shape, -1)
    return torch.einsum("nkd,nk->nd", back, weights)


@task_2_4.accepts
def grouped_products(x, experts, weights, gate_up, down):
    flat = experts.flatten()
    order = flat.argsort()
    ends = flat.bincount(minlength=len(gate_up)).cumsum(0).to(torch.int32)
    gate, up = grouped_linear(x[order // experts.shape[1]], gate_up, ends).chunk(2, -1)
    out = grouped_linear(F.silu(gate) * up, down, ends)
    out = out * weights.reshape(-1)[order].unsqueeze(-1)
    return torch.zeros_like(x).index_add_(0, order // experts.shape[1], out)
