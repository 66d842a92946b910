"""Answers to task 2.4 that are right in another style.

Chapter: 02_moe/conditional_computation
Source: deepseek_v3, eq. 12; swiglu
"""

import torch
import torch.nn.functional as F

from tiny_lm.course.checks.before.mutants import honest
from tiny_lm.course.checks.moe.experts import task_2_4
from tiny_lm.course.checks.moe.experts_mutants import one_expert, sorted_results
from tiny_lm.layers import grouped_linear


@honest(task_2_4)
def loop_over_choices_and_experts(x, experts, weights, gate_up, down):
    y = torch.zeros_like(x)
    for j in range(experts.shape[1]):
        for e in range(gate_up.shape[0]):
            mine = experts[:, j] == e
            if mine.any():
                y[mine] += weights[mine, j].unsqueeze(1) * one_expert(
                    x[mine], gate_up[e], down[e]
                )
    return y


@honest(task_2_4)
def sorted_and_split(x, experts, weights, gate_up, down):
    out, order = sorted_results(x, experts, weights, gate_up, down)
    back = out[order.argsort()].view(*experts.shape, -1)
    return torch.einsum("nkd,nk->nd", back, weights)


@honest(task_2_4)
def grouped_products(x, experts, weights, gate_up, down):
    flat = experts.flatten()
    order = flat.argsort()
    ends = flat.bincount(minlength=len(gate_up)).cumsum(0).to(torch.int32)
    gate, up = grouped_linear(x[order // experts.shape[1]], gate_up, ends).chunk(2, -1)
    out = grouped_linear(F.silu(gate) * up, down, ends)
    out = out * weights.reshape(-1)[order].unsqueeze(-1)
    return torch.zeros_like(x).index_add_(0, order // experts.shape[1], out)


@honest(task_2_4)
def padded_to_the_busiest(x, experts, weights, gate_up, down):
    """Every expert gets as many rows, and the empty ones are zero."""
    flat = experts.flatten()
    order = flat.argsort(stable=True)
    counts = flat.bincount(minlength=len(gate_up))
    place = torch.arange(len(flat)) - (counts.cumsum(0) - counts)[flat[order]]
    token = order // experts.shape[1]
    rows = x.new_zeros(len(gate_up), int(counts.max()), x.shape[1])
    rows = rows.index_put((flat[order], place), x[token])
    gate, up = torch.einsum("erd,efd->erf", rows, gate_up).chunk(2, dim=-1)
    out = torch.einsum("erf,edf->erd", F.silu(gate) * up, down)[flat[order], place]
    return torch.zeros_like(x).index_add(0, token, out * weights.flatten()[order, None])


@honest(task_2_4)
def in_float64_weighed_in_the_middle(x, experts, weights, gate_up, down):
    x, weights, gate_up, down = (a.double() for a in (x, weights, gate_up, down))
    mask = F.one_hot(experts, len(gate_up)).permute(2, 0, 1)  # expert, token, choice
    total = x * 0
    for one, wide, narrow in zip(mask, gate_up, down, strict=True):
        token, choice = one.nonzero().T
        hidden = x[token] @ wide.T
        half = hidden.shape[1] // 2
        hidden = (
            F.silu(hidden[:, :half])
            * hidden[:, half:]
            * weights[token, choice][:, None]
        )
        total = total.index_put((token,), hidden @ narrow.T, accumulate=True)
    return total
