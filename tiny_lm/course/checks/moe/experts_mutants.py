"""Answers to task 2.4 that are wrong.

Chapter: 02_moe/conditional_computation
Source: deepseek_v3, eq. 12; swiglu
"""

from functools import partial

import torch
import torch.nn.functional as F

from tiny_lm.course.checks.before.mutants import wrong
from tiny_lm.course.checks.moe.experts import task_2_4


def one_expert(rows, gate_up, down, act=F.silu):
    gate, up = (rows @ gate_up.T).chunk(2, dim=-1)
    return (act(gate) * up) @ down.T


def _loop(x, experts, weights, gate_up, down, expert=one_expert):
    """Right with its default; `expert` is a place to go wrong."""
    y = torch.zeros_like(x)
    for e in range(len(gate_up)):
        token, choice = (experts == e).nonzero(as_tuple=True)
        out = expert(x[token], gate_up[e], down[e])
        y = y.index_add(0, token, out * weights[token, choice, None])
    return y


def sorted_results(x, experts, weights, gate_up, down, counts=None, strict=False):
    """Results in the order of experts, and the pairs they belong to."""
    flat = experts.flatten()
    order = flat.argsort(stable=True)
    if counts is None:
        counts = flat.bincount(minlength=len(gate_up))
    rows = x[order // experts.shape[1]].split(counts.tolist())
    parts = zip(rows, gate_up, down, strict=strict)
    return torch.cat([one_expert(*part) for part in parts]), order


@wrong(task_2_4, "one_expert", "The weight is missing")
def not_weighed(x, experts, weights, gate_up, down):
    return _loop(x, experts, torch.ones_like(weights), gate_up, down)


@wrong(task_2_4, "one_expert", "The weight came twice")
def weighed_twice(x, experts, weights, gate_up, down):
    return _loop(x, experts, weights * weights, gate_up, down)


@wrong(task_2_4, "one_expert", "went in with the token")
def token_weighed(x, experts, weights, gate_up, down):
    y = torch.zeros_like(x)
    for e in range(len(gate_up)):
        token, choice = (experts == e).nonzero(as_tuple=True)
        rows = x[token] * weights[token, choice, None]
        y = y.index_add(0, token, one_expert(rows, gate_up[e], down[e]))
    return y


@wrong(task_2_4, "one_expert", "Gate and up are swapped")
def halves_swapped(x, experts, weights, gate_up, down):
    def expert(rows, gate_up, down):
        up, gate = (rows @ gate_up.T).chunk(2, dim=-1)
        return (F.silu(gate) * up) @ down.T

    return _loop(x, experts, weights, gate_up, down, expert)


@wrong(task_2_4, "one_expert", "in turns")
def halves_interleaved(x, experts, weights, gate_up, down):
    def expert(rows, gate_up, down):
        both = rows @ gate_up.T
        return (F.silu(both[:, ::2]) * both[:, 1::2]) @ down.T

    return _loop(x, experts, weights, gate_up, down, expert)


@wrong(task_2_4, "one_expert", "This is gate · up.")
def bilinear(x, experts, weights, gate_up, down):
    expert = partial(one_expert, act=lambda gate: gate)
    return _loop(x, experts, weights, gate_up, down, expert)


@wrong(task_2_4, "one_expert", "silu(gate) is gate")
def sigmoid_for_silu(x, experts, weights, gate_up, down):
    expert = partial(one_expert, act=torch.sigmoid)
    return _loop(x, experts, weights, gate_up, down, expert)


@wrong(task_2_4, "one_expert", "multiplied with the transposed matrix")
def not_transposed(x, experts, weights, gate_up, down):
    def expert(rows, gate_up, down):
        gate, up = (rows @ gate_up).chunk(2, dim=-1)
        return (F.silu(gate) * up) @ down

    return _loop(x, experts, weights, gate_up, down, expert)


@wrong(task_2_4, "own_experts", "wipes out the first")
def overwritten(x, experts, weights, gate_up, down):
    y = torch.zeros_like(x)
    for e in range(len(gate_up)):
        token, choice = (experts == e).nonzero(as_tuple=True)
        out = one_expert(x[token], gate_up[e], down[e])
        y[token] = out * weights[token, choice, None]
    return y


@wrong(task_2_4, "own_experts", "the weight of another choice")
def first_column_of_weights(x, experts, weights, gate_up, down):
    return _loop(x, experts, weights[:, :1].expand_as(weights), gate_up, down)


@wrong(task_2_4, "own_experts", "the weight of another choice")
def last_column_of_weights(x, experts, weights, gate_up, down):
    return _loop(x, experts, weights[:, -1:].expand_as(weights), gate_up, down)


@wrong(task_2_4, "own_experts", "a column for each choice")
def weights_by_expert(x, experts, weights, gate_up, down):
    y = torch.zeros_like(x)
    for e in range(len(gate_up)):
        token, _ = (experts == e).nonzero(as_tuple=True)
        out = one_expert(x[token], gate_up[e], down[e])
        y = y.index_add(0, token, out * weights[token, e, None])
    return y


@wrong(task_2_4, "own_experts", "within one call")
def lost_among_repeats(x, experts, weights, gate_up, down):
    out, order = sorted_results(x, experts, weights, gate_up, down)
    y = torch.zeros_like(x)
    y[order // experts.shape[1]] += out * weights.flatten()[order, None]
    return y


@wrong(task_2_4, "own_experts", "weights of other choices")
def weights_notsorted_results(x, experts, weights, gate_up, down):
    out, order = sorted_results(x, experts, weights, gate_up, down)
    out = out * weights.flatten()[:, None]
    return torch.zeros_like(x).index_add(0, order // experts.shape[1], out)


@wrong(task_2_4, "own_experts", "still sorted by expert")
def results_leftsorted_results(x, experts, weights, gate_up, down):
    out, order = sorted_results(x, experts, weights, gate_up, down)
    out = out * weights.flatten()[order, None]
    return out.unflatten(0, experts.shape).sum(1)


@wrong(task_2_4, "own_experts", "Only the first choice")
def first_choice_alone(x, experts, weights, gate_up, down):
    return _loop(x, experts[:, :1], weights, gate_up, down)


@wrong(task_2_4, "own_experts", "They come ready")
def weights_normalised_again(x, experts, weights, gate_up, down):
    if weights.shape[1] > 1:
        weights = weights / weights.sum(-1, keepdim=True)
    return _loop(x, experts, weights, gate_up, down)


@wrong(task_2_4, "uneven", "skipped by everything that lists")
def empty_experts_skipped(x, experts, weights, gate_up, down):
    counts = experts.unique(return_counts=True)[1]
    out, order = sorted_results(x, experts, weights, gate_up, down, counts)
    out = out * weights.flatten()[order, None]
    return torch.zeros_like(x).index_add(0, order // experts.shape[1], out)


@wrong(task_2_4, "uneven", "bincount has a minlength")
def last_experts_forgotten(x, experts, weights, gate_up, down):
    counts = experts.flatten().bincount()
    out, order = sorted_results(x, experts, weights, gate_up, down, counts, strict=True)
    out = out * weights.flatten()[order, None]
    return torch.zeros_like(x).index_add(0, order // experts.shape[1], out)


@wrong(task_2_4, "uneven", "view wants groups of equal size")
def as_many_for_each(x, experts, weights, gate_up, down):
    order = experts.flatten().argsort(stable=True)
    token = order // experts.shape[1]
    rows = x[token].view(len(gate_up), -1, x.shape[1])
    gate, up = (rows @ gate_up.mT).chunk(2, dim=-1)
    out = ((F.silu(gate) * up) @ down.mT).flatten(0, 1)
    return torch.zeros_like(x).index_add(0, token, out * weights.flatten()[order, None])


@wrong(task_2_4, "grouped", "a loop over tokens")
def loop_over_tokens(x, experts, weights, gate_up, down):
    rows = []
    for n in range(len(x)):
        pairs = zip(weights[n], experts[n], strict=True)
        rows.append(sum(w * one_expert(x[n], gate_up[e], down[e]) for w, e in pairs))
    return torch.stack(rows)


@wrong(task_2_4, "grouped", "a loop over tokens")
def loop_over_tokens_of_an_expert(x, experts, weights, gate_up, down):
    y = [torch.zeros_like(row) for row in x]
    for e in range(len(gate_up)):
        for n, j in (experts == e).nonzero().tolist():
            y[n] = y[n] + weights[n, j] * one_expert(x[n], gate_up[e], down[e])
    return torch.stack(y)


@wrong(task_2_4, "grouped", "only to be weighed with 0")
def every_expert_on_every_token(x, experts, weights, gate_up, down):
    y = torch.zeros_like(x)
    for e in range(len(gate_up)):
        weight = (weights * (experts == e)).sum(-1, keepdim=True)
        y = y + weight * one_expert(x, gate_up[e], down[e])
    return y


@wrong(task_2_4, "grouped", "only to be weighed with 0")
def one_einsum_for_all(x, experts, weights, gate_up, down):
    gate, up = torch.einsum("td,efd->tef", x, gate_up).chunk(2, dim=-1)
    out = torch.einsum("tef,edf->ted", F.silu(gate) * up, down)
    share = torch.zeros(out.shape[:2]).scatter_add(1, experts, weights)
    return torch.einsum("ted,te->td", out, share)


@wrong(task_2_4, "grouped", "Matrices were copied for each token")
def matrices_for_each_token(x, experts, weights, gate_up, down):
    both = torch.einsum("nd,nkfd->nkf", x, gate_up[experts])
    gate, up = both.chunk(2, dim=-1)
    out = torch.einsum("nkf,nkdf->nkd", F.silu(gate) * up, down[experts])
    return (out * weights[..., None]).sum(1)


@wrong(task_2_4, "learns", "cut it off")
def weights_detached(x, experts, weights, gate_up, down):
    return _loop(x, experts, weights.detach(), gate_up, down)


@wrong(task_2_4, "learns", "cut it off")
def without_gradients(x, experts, weights, gate_up, down):
    with torch.no_grad():
        return _loop(x, experts, weights, gate_up, down)


@wrong(task_2_4, "learns", "cut it off")
def stack_by_its_data(x, experts, weights, gate_up, down):
    return _loop(x, experts, weights, gate_up, down.data)


@wrong(task_2_4, "one_expert", "This is gelu")
def gelu_for_silu(x, experts, weights, gate_up, down):
    expert = partial(one_expert, act=F.gelu)
    return _loop(x, experts, weights, gate_up, down, expert)
