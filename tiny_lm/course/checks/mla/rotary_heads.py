"""Task 3.6, continued: pairs, heads, gradients, and right answers in other styles.

Chapter: 03_mla/latent_attention
Source: deepseek_v3, eqs. 3, 4, 8-10; roformer
"""

import torch
from einops import einsum

from tiny_lm.course.checks.case import Case, case, drawn, family
from tiny_lm.course.checks.mla.rotary import COS, SIN, draw, places, task_3_6
from tiny_lm.layers import rotate

TURNED_CONTENT = (
    "The content part was turned as well. It comes from the latent, and a rotation "
    "between query and latent would forbid the shortcut of task 3.8."
)

task_3_6.asks(
    "the content part never turns",
    case(
        [[[[2.0, 0.0]]]],
        torch.zeros(1, 1, 1, 2),
        [[[[1.0, 0.0]] * 4]],
        torch.zeros(1, 4, 2),
        COS,
        SIN,
        note="the same content at four positions, and no rotary part",
    ),
    mistakes={
        "content = q_nope @ k_nope => content = rotate(q_nope, cos[asking], "
        "sin[asking]) @ rotate(k_nope, cos[:S], sin[:S])": TURNED_CONTENT,
        "content = q_nope @ k_nope => content = q_nope @ rotate(k_nope, cos[:S], "
        "sin[:S])": TURNED_CONTENT,
    },
)

task_3_6.asks(
    "pairs are neighbours: (0, 1), (2, 3), …",
    case(
        torch.zeros(1, 1, 1, 12),
        [[[[4.0, 8.0, 12.0, 16.0]]]],
        torch.zeros(1, 1, 2, 12),
        [[[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 1.0, 0.0]]],
        [[1.0, 1.0], [0.0, -1.0]],
        [[0.0, 0.0], [1.0, 0.0]],
        note="at position 1 the first pair has made a quarter turn, the second a half",
    ),
    otherwise="Each pair of neighbours turns by the angle in its own column of cos and "
    "sin.",
    mistakes={
        "rotate(q_rope, => halves(q_rope, ;; rotate(k_rope, => halves(k_rope,": "The "
        "pairs are (0, 2), (1, 3), as in Llama's code. Here neighbours are a pair, as "
        "tiny_lm's rotate has them.",
        "cos[asking], sin[asking] => cos[asking, :1], sin[asking, :1] ;; "
        "cos[:S], sin[:S] => cos[:S, :1], sin[:S, :1]": "All pairs turned at the speed "
        "of the first. cos and sin have a column for each pair.",
    },
)

SHARED_OUT = (
    "Each head read a part of the rotary key. It is shared, not shared out: every head "
    "reads all of it, with a rotary query of its own."
)

heads = task_3_6.asks(
    "every head has its own queries, and all share one rotary key",
    drawn(lambda g: draw(g, B=2, H=2, T=3, P=2, nope=6, rope=4)),
    otherwise="Each head has its own content query and key and its own rotary query, "
    "and meets the one rotary key of its own text.",
    mistakes={
        "turned_k.unsqueeze(1) => turned_k.repeat(q_nope.shape[1], 1, 1)"
        ".view(*k_nope.shape[:3], -1)": "Texts and heads were mixed up: repeat lays "
        "all texts end to end, once more for each head. unsqueeze(1) puts the heads' "
        "dim behind that of the texts.",
        "turned_q @ => turned_q[:, :1] @": "All heads asked with the rotary query of "
        "the first. The key is shared, the queries are not.",
        "turned_q @ => turned_q.mean(1, keepdim=True) @": "The rotary queries of the "
        "heads were averaged. The key is shared, the queries are not.",
        "turned_k.unsqueeze(1) => turned_k[:1].unsqueeze(1)": "Every text got the "
        "rotary keys of the first. They are shared by heads, not by texts.",
        "k_nope.transpose => k_nope[:, :1].transpose": "All heads read the content "
        "keys of the first. Only the rotary key is shared.",
        "width = q_nope.shape[-1] + => width = q_nope.shape[1] * q_nope.shape[-1] +": (
            "The root is of the width of all heads together. One head's query and key "
            "are multiplied, so it is one head's width."
        ),
    },
)


@places.mistake(
    "The wrong numbers turned: content stands first in a query and a key, the rotary "
    "part behind it. Only the rotary part turns."
)
def first_numbers_turned(q_nope, q_rope, k_nope, k_rope, cos, sin):
    T, S, r = q_nope.shape[-2], k_nope.shape[-2], q_rope.shape[-1]
    q = torch.cat([q_nope, q_rope], dim=-1)
    shared = k_rope.unsqueeze(1).expand(*k_nope.shape[:3], -1)
    k = torch.cat([k_nope, shared], dim=-1)
    turned_q = rotate(q[..., :r], cos[S - T : S], sin[S - T : S])
    turned_k = rotate(k[..., :r], cos[:S], sin[:S])
    scores = turned_q @ turned_k.mT + q[..., r:] @ k[..., r:].mT
    return scores * q.shape[-1] ** -0.5


@heads.mistake(SHARED_OUT)
def a_slice_for_each_head(q_nope, q_rope, k_nope, k_rope, cos, sin):
    T, S, H = q_nope.shape[-2], k_nope.shape[-2], q_nope.shape[1]
    q = rotate(q_rope, cos[S - T : S], sin[S - T : S]).unflatten(-1, (H, -1))
    k = rotate(k_rope, cos[:S], sin[:S]).unflatten(-1, (H, -1))
    own = einsum(q, torch.eye(H), "b h t n r, h n -> b h t r")
    scores = q_nope @ k_nope.mT + einsum(own, k, "b h t r, b s h r -> b h t s")
    return scores * (q_nope.shape[-1] + q_rope.shape[-1]) ** -0.5


task_3_6.asks(
    "a gradient reaches all four parts",
    Case(
        lambda g: draw(g, B=1, H=2, T=3, P=0, nope=4, rope=2),
        slopes=("q_nope", "q_rope", "k_nope", "k_rope"),
    ),
    mistakes={
        "rotate(k_rope, => rotate(k_rope.detach(),": "The rotary key was cut off: the "
        "matrix that makes it would never learn.",
        "rotate(q_rope, => rotate(q_rope.detach(),": "The rotary query was cut off: "
        "the matrix that makes it would never learn.",
    },
)

SIZES = {"B": 2, "H": 3, "T": 5, "P": 4, "nope": 6, "rope": 4}

task_3_6.asks(
    "equals the definition on random parts, in float32 and float64",
    family(draw, SIZES, ["B", "H", "T"], double=True, exact=True),
    family(draw, SIZES | {"P": 0, "nope": 1}, ["T"]),
)


@task_3_6.accepts
def one_long_query_and_key(q_nope, q_rope, k_nope, k_rope, cos, sin):
    T, S = q_nope.shape[2], k_nope.shape[2]
    q = torch.cat([q_nope, rotate(q_rope, cos[S - T : S], sin[S - T : S])], dim=-1)
    shared = rotate(k_rope, cos[:S], sin[:S])[:, None].expand(*k_nope.shape[:3], -1)
    k = torch.cat([k_nope, shared], dim=-1)
    return einsum(q / q.shape[-1] ** 0.5, k, "b h t d, b h s d -> b h t s")


@task_3_6.accepts
def turned_by_hand(q_nope, q_rope, k_nope, k_rope, cos, sin):
    def turn(x, c, s):
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.stack([even * c - odd * s, even * s + odd * c], -1).flatten(-2)

    T, S = q_nope.shape[2], k_nope.shape[2]
    q, k = turn(q_rope, cos[:S][-T:], sin[:S][-T:]), turn(k_rope, cos[:S], sin[:S])
    near = torch.einsum("bhtr,bsr->bhts", q, k)
    return (q_nope @ k_nope.mT + near) / (q_nope.shape[-1] + q.shape[-1]) ** 0.5


@task_3_6.accepts
def turned_by_distance(q_nope, q_rope, k_nope, k_rope, cos, sin):
    """Only the key turns, by how far it lies behind the query."""
    T, S = q_nope.shape[2], k_nope.shape[2]
    columns = []
    for t in range(T):
        at = S - T + t
        c = cos[:S] * cos[at] + sin[:S] * sin[at]
        s = sin[:S] * cos[at] - cos[:S] * sin[at]
        columns.append(
            torch.einsum("bhr,bsr->bhs", q_rope[:, :, t], rotate(k_rope, c, s))
        )
    scores = torch.einsum("bhtd,bhsd->bhts", q_nope, k_nope) + torch.stack(columns, 2)
    return scores * (q_nope.shape[3] + q_rope.shape[3]) ** -0.5
