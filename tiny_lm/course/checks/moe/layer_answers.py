"""Answers to task 2.8 that are right in another style.

Chapter: 02_moe/balance
Source: deepseek_v3, eqs. 12-20
"""

import torch
import torch.nn.functional as F

from tiny_lm.course.checks.moe.experts import run_experts
from tiny_lm.course.checks.moe.groups import limit_groups
from tiny_lm.course.checks.moe.layer import task_2_8
from tiny_lm.course.checks.moe.sequence import sequence_loss


@task_2_8.accepts
def every_expert_reads_everything(
    x, centroids, bias, gate_up, down, top_k, num_groups, top_groups, scale
):
    scores = torch.sigmoid(x @ centroids.T)
    biased = (scores + bias).flatten(0, 1)
    ban = limit_groups(biased, num_groups, top_groups, top_k // top_groups)
    experts = (biased + ban).topk(top_k).indices.view(*x.shape[:2], -1)
    chosen = scores.gather(-1, experts)
    weights = scale * chosen / chosen.sum(-1, keepdim=True)
    gate, up = torch.einsum("btd,efd->btef", x, gate_up).chunk(2, dim=-1)
    said = torch.einsum("btef,emf->btem", F.silu(gate) * up, down)
    table = torch.zeros_like(scores).scatter(-1, experts, weights)
    y = torch.einsum("bte,btem->btm", table, said)
    return y, experts, sequence_loss(scores, experts)


@task_2_8.accepts
def forbidden_by_score(x, centroids, bias, gate_up, down, k, n, m, scale):
    """Experts listed worst first, one token after the other."""
    tokens = x.flatten(0, 1)
    scores = torch.sigmoid(tokens @ centroids.T)
    allowed = scores + limit_groups(scores + bias, n, m, k // m)
    experts = (allowed + bias).argsort(-1)[:, -k:]
    raw = scores.gather(-1, experts)
    weights = scale * raw / raw.sum(-1, keepdim=True)
    rows = [
        run_experts(*(z.unsqueeze(0) for z in one), gate_up, down)
        for one in zip(tokens, experts, weights, strict=True)
    ]
    scores, experts = (z.unflatten(0, x.shape[:2]) for z in (scores, experts))
    return torch.cat(rows).view_as(x), experts, sequence_loss(scores, experts)
