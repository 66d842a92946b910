"""What else task 3.3 asks: groups, padding, no key at all; and its right answers.

Chapter: 03_mla/memory_of_the_context
Source: gqa; attention, eq. 1
"""

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Generator

from tiny_lm.course.checks.case import Case, case, drawn, family
from tiny_lm.course.checks.mla.grouped import (
    SIZES,
    Y,
    column,
    draw,
    task_3_3,
    unhidden,
)

__all__ = ["task_3_3"]

GROUPS = case(
    torch.zeros(1, 4, 1, 1),
    torch.zeros(1, 2, 1, 1),
    [[[[5.0]], [[7.0]]]],
    unhidden(1),
    note="four query heads, two key-value heads, one position",
)
EVERY_SECOND = (
    "The heads of a group stand apart: heads 0, 2, 4 … read the first. The first H / G "
    "query heads share key-value head 0, the next H / G share head 1."
)

task_3_3.asks(
    "neighbouring query heads share a key-value head",
    GROUPS,
    drawn(lambda g: draw(g, **SIZES | {"B": 1, "T": 1, "before": 3})),
    only=(Y,),
    otherwise="Query head h reads keys and values of head h // (H // G), and of no "
    "other.",
    mistakes={
        "k.repeat_interleave(sharers, dim=1) => k.repeat(1, sharers, 1, 1) ;; "
        "v.repeat_interleave(sharers, dim=1) => v.repeat(1, sharers, 1, 1)": (
            EVERY_SECOND
        ),
        "k.repeat_interleave(sharers, dim=1) => k.repeat(1, sharers, 1, 1)": "The keys "
        "are in another order than the values: each key-value head stands beside all "
        "of its query heads, then comes the next.",
        "v.repeat_interleave(sharers, dim=1) => v.repeat(1, sharers, 1, 1)": "The "
        "values are in another order than the keys: each key-value head stands beside "
        "all of its query heads, then comes the next.",
        "k.repeat_interleave(sharers, dim=1) => k[:, :1] ;; "
        "v.repeat_interleave(sharers, dim=1) => v[:, :1]": "All query heads read the "
        "first key-value head.",
        "v.repeat_interleave(sharers, dim=1) => v.mean(1, keepdim=True)": "The values "
        "of the groups were averaged. Each query head reads those of its own.",
        "k.repeat_interleave(sharers, dim=1) => k.mean(1, keepdim=True)": "The keys of "
        "the groups were averaged. Each query head reads those of its own.",
        "k.repeat_interleave(sharers, dim=1) => "
        "k.repeat_interleave(sharers, dim=1).flip(1) ;; "
        "v.repeat_interleave(sharers, dim=1) => "
        "v.repeat_interleave(sharers, dim=1).flip(1)": "The groups stand in reverse: "
        "the first query heads read the last key-value head.",
    },
)

SECOND_ALONE = case(
    torch.zeros(2, 1, 1, 1),
    torch.zeros(2, 1, 4, 1),
    [[[[8.0], [2.0], [4.0], [6.0]]]] * 2,
    [[True, True, False, False], [False, False, False, False]],
    note="two texts with the same values; the first is padded with two positions",
)
WEAK = (
    "Some of what is banned gets through where scores are large: the number that "
    "stands for a ban must be lower than any score, the lowest that the dtype has."
)


def _large(generator: Generator) -> tuple:
    q, k, v, hidden = draw(generator, **SIZES)
    v = v.clone()
    v[1::2, :, :3] += 1e4
    return q, 10 * k, v, hidden


task_3_3.asks(
    "nobody sees padding",
    SECOND_ALONE,
    drawn(lambda g: draw(g, **SIZES | {"T": 4, "before": 2})),
    drawn(_large, note="large scores, and values of 10,000 in the padding"),
    case(column(-1e6), column(1.0, 2.0), column(5.0, 3.0), [[True, False]]),
    only=(Y,),
    otherwise="Where `hidden` is True, no query of that text may see the key, and all "
    "others as before.",
    mistakes={
        "future | hidden[:, None, None, :] => future": "Padding was attended to: what "
        "stands there is no part of the text. Is `hidden` used?",
        "hidden[:, None, None, :] => hidden[:1, None, None, :]": "All texts got the "
        "padding of the first. Each has a row of `hidden`.",
        "hidden[:, None, None, :] => hidden.any(0)": "What is padding in one text was "
        "hidden in all. Each has a row of `hidden`.",
        "future | hidden[:, None, None, :] => future ;; return weights @ v => "
        "return weights @ v.masked_fill(hidden[:, None, :, None], 0.0)": "The values "
        "of padding, or their weights after the softmax, were set to 0: what is seen "
        "then has weights that add up to less than 1. Mask the scores.",
        "future | hidden[:, None, None, :] => future ;; "
        "k.repeat_interleave(sharers, dim=1) => k.masked_fill("
        "hidden[:, None, :, None], 0.0).repeat_interleave(sharers, dim=1)": "The keys "
        "of padding were set to 0. That makes a score of 0, which is no ban: the "
        "softmax gives it a weight like any other.",
        "torch.finfo(scores.dtype).min => -1e3": WEAK,
        "torch.finfo(scores.dtype).min => -1e4": WEAK,
        "torch.finfo(scores.dtype).min => -100.0": WEAK,
    },
)

task_3_3.asks(
    "a query that sees nothing still gets finite numbers",
    case(
        *[column(0.0, 0.0, 0.0)] * 2,
        column(1.0, 5.0, 3.0),
        [[True, False, False]],
        note="query 0 stands at padding, and sees only that",
    ),
    mistakes={
        "torch.finfo(scores.dtype).min => -torch.inf": "A row without any open key is "
        "NaN: a softmax of nothing but -inf is 0 / 0. Nobody reads this row, but the "
        "next layer multiplies it by a weight of 0, and 0 · NaN is NaN. Use the lowest "
        "finite number.",
    },
)


def _unpadded(generator: Generator) -> tuple:
    q, k, v, hidden = draw(generator, **SIZES)
    return q, k, v, torch.zeros_like(hidden)


task_3_3.asks(
    "equals scaled_dot_product_attention, in float32 and float64",
    family(draw, SIZES, ["B", "G", "share", "T", "qk", "v"], True, True),
    family(draw, SIZES | {"B": 1, "before": 0}),
    Case(_unpadded, slopes=("q", "k", "v")),
    mistakes={
        "return weights @ v => return (weights @ v).detach()": "The result has lost "
        "its way back to q, k and v, through .detach(), numpy or torch.no_grad(): what "
        "lies before it would not learn.",
        "return weights @ v => return through_numpy(weights) @ v": "The weights went "
        "through numpy or .detach(): queries and keys would not learn.",
    },
)


@task_3_3.accepts
def torchs_own(q, k, v, hidden):
    sharers, (T, S) = q.shape[1] // k.shape[1], (q.shape[2], k.shape[2])
    places = torch.arange(S - T, S)[:, None] >= torch.arange(S)
    open_to = places & ~hidden[:, None, None]
    bias = torch.zeros(open_to.shape, dtype=q.dtype).masked_fill(~open_to, -1e30)
    k, v = (x.repeat_interleave(sharers, 1) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)


@task_3_3.accepts
def queries_grouped_and_nothing_copied(q, k, v, hidden):
    q = rearrange(q, "B (G n) T d -> B G n T d", G=k.shape[1])
    scores = einsum(q, k, "B G n T d, B G S d -> B G n T S") * q.shape[-1] ** -0.5
    T, S = scores.shape[-2:]
    ahead = torch.full((T, S), -torch.inf).triu(S - T + 1)
    scores = scores.masked_fill(hidden[:, None, None, None], -1e30) + ahead
    y = einsum(scores.softmax(-1), v, "B G n T S, B G S v -> B G n T v")
    return rearrange(y, "B G n T v -> B (G n) T v")


@task_3_3.accepts
def loop_over_texts_heads_and_queries(q, k, v, hidden):
    (B, H, T, d), (G, S) = q.shape, k.shape[1:3]
    y = torch.zeros(B, H, T, v.shape[-1], dtype=q.dtype)
    for b in range(B):
        for h in range(H):
            for t in range(T):
                seen = [s for s in range(S - T + t + 1) if not hidden[b, s]]
                if seen:
                    keys, values = k[b, h * G // H, seen], v[b, h * G // H, seen]
                    y[b, h, t] = (keys @ q[b, h, t] / d**0.5).softmax(0) @ values
    return y


@task_3_3.accepts
def nan_replaced(q, k, v, hidden):
    sharers, (T, S) = q.shape[1] // k.shape[1], (q.shape[2], k.shape[2])
    k, v = (
        torch.cat(
            [x[:, g : g + 1] for g in range(x.shape[1]) for _ in range(sharers)], 1
        )
        for x in (k, v)
    )
    closed = torch.ones(T, S).triu(S - T + 1).bool() | hidden[:, None, None]
    scores = torch.where(closed, -torch.inf, q @ k.mT / q.shape[-1] ** 0.5)
    return scores.softmax(-1).nan_to_num(0.0) @ v
