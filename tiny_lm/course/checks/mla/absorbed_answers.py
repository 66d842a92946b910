"""Answers to task 3.8 that are right in other styles.

Chapter: 03_mla/absorption
Source: deepseek_v2, section 2.1.2
"""

import torch
import torch.nn.functional as F

from tiny_lm.course.checks.mla.absorbed import task_3_8
from tiny_lm.course.checks.mla.absorbed_cost import joint, weights_of


@task_3_8.accepts
def two_products(q_nope, q_rope, memory, w_uk, w_uv, hidden):
    """Content and rotary scores apart; `@` with a dim of 1 for the heads."""
    latent = memory[:, None, :, : w_uk.shape[-1]]
    scores = joint((q_nope @ w_uk) @ latent.mT, q_nope, q_rope, memory)
    return (weights_of(scores, hidden) @ latent) @ w_uv.transpose(-1, -2)


@task_3_8.accepts
def heads_as_rows(q_nope, q_rope, memory, w_uk, w_uv, hidden):
    """The queries of all heads below each other, as rows of one product."""
    B, H, T, nope = q_nope.shape
    q = torch.cat([q_nope @ w_uk, q_rope], -1) / (nope + q_rope.shape[-1]) ** 0.5
    scores = (q.reshape(B, H * T, -1) @ memory.mT).view(B, H, T, -1)
    weights = weights_of(scores, hidden).flatten(1, 2)
    mixed = weights @ memory[..., : w_uk.shape[-1]]
    return torch.einsum("bhtc,hvc->bhtv", mixed.view(B, H, T, -1), w_uv)


@task_3_8.accepts
def torchs_own(q_nope, q_rope, memory, w_uk, w_uv, hidden):
    B, H, T, nope = q_nope.shape
    S = memory.shape[1]
    q = torch.cat([q_nope @ w_uk, q_rope], -1)
    seen = torch.ones(T, S).tril(S - T).bool() & ~hidden[:, None, None]
    keys = memory[:, None].expand(-1, H, -1, -1)
    values = keys[..., : w_uk.shape[-1]]
    root = (nope + q_rope.shape[-1]) ** -0.5
    mixed = F.scaled_dot_product_attention(q, keys, values, seen, scale=root)
    return mixed @ w_uv.mT


@task_3_8.accepts
def one_head_after_the_other(q_nope, q_rope, memory, w_uk, w_uv, hidden):
    d, S, T = w_uk.shape[-1], memory.shape[1], q_nope.shape[2]
    heads = []
    for h in range(len(w_uk)):
        q = torch.cat([q_nope[:, h] @ w_uk[h], q_rope[:, h]], dim=-1)
        scores = q @ memory.transpose(1, 2)
        scores = scores / (q_nope.shape[-1] + q_rope.shape[-1]) ** 0.5
        for t in range(T):
            scores[:, t, S - T + t + 1 :] = -1e9
        scores = torch.where(hidden[:, None], -1e9, scores)
        heads.append(scores.softmax(-1) @ memory[..., :d] @ w_uv[h].T)
    return torch.stack(heads, dim=1)
