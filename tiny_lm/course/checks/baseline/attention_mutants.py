"""Answers to task 1.3 that are wrong, and some that are right in another style.

Chapter: 01_baseline/probability_machine
Source: attention
"""

import math

import torch
import torch.nn.functional as F
from einops import einsum, rearrange

from tiny_lm.course.checks.baseline.attention import task_1_3
from tiny_lm.course.checks.before.mutants import honest, wrong


def _split(x, num_heads):
    return x.unflatten(-1, (num_heads, -1)).transpose(1, 2)


def _join(x):
    return x.transpose(1, 2).flatten(2)


def _future(x, diagonal=1):
    T = x.shape[-2]
    return torch.ones(T, T, dtype=torch.bool).triu(diagonal)


def _attention(q, k, v, num_heads, scale=None, mask=None, dim=-1, value=-math.inf):
    """Right with its defaults; each argument is a place to go wrong."""
    q, k, v = (_split(x, num_heads) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2) * (scale or q.shape[-1] ** -0.5)
    scores = scores.masked_fill(_future(q) if mask is None else mask, value)
    return _join(scores.softmax(dim) @ v)


@wrong(task_1_3, "same_shape", "side by side")
def heads_apart(q, k, v, num_heads):
    return _split(_attention(q, k, v, num_heads), num_heads)


@wrong(task_1_3, "same_shape", "Two shapes do not fit")
def heads_never_split(q, k, v, num_heads):
    q, k = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k))
    return (q @ k.transpose(-1, -2)).softmax(-1) @ v


@wrong(task_1_3, "averages_the_past", "the future included")
def no_mask(q, k, v, num_heads):
    return _attention(q, k, v, num_heads, mask=torch.tensor(False))


@wrong(task_1_3, "averages_the_past", "a score of 0 is not a ban")
def masked_with_zero(q, k, v, num_heads):
    return _attention(q, k, v, num_heads, value=0.0)


@wrong(task_1_3, "averages_the_past", "the wrong way round")
def past_masked(q, k, v, num_heads):
    return _attention(q, k, v, num_heads, mask=_future(q).T)


@wrong(task_1_3, "averages_the_past", "mask before the softmax")
def mask_after_softmax(q, k, v, num_heads):
    q, k, v = (_split(x, num_heads) for x in (q, k, v))
    weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
    return _join(weights.masked_fill(_future(q), 0.0) @ v)


@wrong(task_1_3, "averages_the_past", "may look at itself")
def itself_masked(q, k, v, num_heads):
    return _attention(q, k, v, num_heads, mask=_future(q, diagonal=0))


@wrong(task_1_3, "averages_the_past", "one byte of the future")
def one_ahead(q, k, v, num_heads):
    return _attention(q, k, v, num_heads, mask=_future(q, diagonal=2))


@wrong(task_1_3, "averages_the_past", "runs over the queries")
def softmax_over_queries(q, k, v, num_heads):
    return _attention(q, k, v, num_heads, dim=-2)


@wrong(task_1_3, "scaled", "without a division")
def not_scaled(q, k, v, num_heads):
    return _attention(q, k, v, num_heads, scale=1.0)


@wrong(task_1_3, "scaled", "by the width, not by its square root")
def scaled_by_width(q, k, v, num_heads):
    return _attention(q, k, v, num_heads, scale=num_heads / q.shape[-1])


@wrong(task_1_3, "scaled", "multiplied by the square root")
def scaled_up(q, k, v, num_heads):
    return _attention(q, k, v, num_heads, scale=(q.shape[-1] / num_heads) ** 0.5)


@wrong(task_1_3, "own_columns", "Each head's dot product")
def scaled_by_model_width(q, k, v, num_heads):
    return _attention(q, k, v, num_heads, scale=q.shape[-1] ** -0.5)


@wrong(task_1_3, "own_columns", "cuts the sequence into pieces")
def split_by_view(q, k, v, num_heads):
    B, T, D = q.shape
    q, k, v = (x.reshape(B, num_heads, T, D // num_heads) for x in (q, k, v))
    return _join(F.scaled_dot_product_attention(q, k, v, is_causal=True))


@wrong(task_1_3, "own_columns", "On the way out")
def joined_by_view(q, k, v, num_heads):
    heads = (_split(x, num_heads) for x in (q, k, v))
    return F.scaled_dot_product_attention(*heads, is_causal=True).reshape(q.shape)


@wrong(task_1_3, "blind_to_the_future", "-inf is")
def weak_mask(q, k, v, num_heads):
    return _attention(q, k, v, num_heads, value=-10.0)


@wrong(task_1_3, "blind_to_the_future", "-inf is")
def mask_before_scaling(q, k, v, num_heads):
    q, k, v = (_split(x, num_heads) for x in (q, k, v))
    scores = (q @ k.transpose(-1, -2)).masked_fill(_future(q), -100.0)
    return _join((scores * q.shape[-1] ** -0.5).softmax(-1) @ v)


@wrong(task_1_3, "equals_torch", "")
def one_head_for_all(q, k, v, num_heads):
    q, k = q.clone(), k.clone()
    q, k, v = (_split(x, num_heads) for x in (q, k, v))
    scores = q @ k[:, :1].transpose(-1, -2) * q.shape[-1] ** -0.5
    return _join(scores.masked_fill(_future(q), -math.inf).softmax(-1) @ v)


@honest(task_1_3)
def torchs_own(q, k, v, num_heads):
    heads = (rearrange(x, "b t (h d) -> b h t d", h=num_heads) for x in (q, k, v))
    mixed = F.scaled_dot_product_attention(*heads, is_causal=True)
    return rearrange(mixed, "b h t d -> b t (h d)")


@honest(task_1_3)
def named_dims(queries, keys, values, num_heads):
    cut = "b t (h d) -> b t h d"
    q, k, v = (rearrange(x, cut, h=num_heads) for x in (queries, keys, values))
    scores = einsum(q, k, "b t h d, b s h d -> b h t s") / math.sqrt(q.shape[-1])
    ban = torch.full(scores.shape[-2:], -1e30, dtype=q.dtype).triu(1)
    mixed = einsum((scores + ban).softmax(-1), v, "b h t s, b s h d -> b t h d")
    return rearrange(mixed, "b t h d -> b t (h d)")


@honest(task_1_3)
def loop_over_heads_and_positions(q, k, v, num_heads):
    d = q.shape[-1] // num_heads
    result = torch.zeros_like(v)
    for head in range(num_heads):
        own = slice(head * d, (head + 1) * d)
        for t in range(q.shape[1]):
            scores = (k[:, : t + 1, own] * q[:, t : t + 1, own]).sum(-1) / d**0.5
            weights = torch.softmax(scores, -1)[..., None]
            result[:, t, own] = (weights * v[:, : t + 1, own]).sum(1)
    return result
