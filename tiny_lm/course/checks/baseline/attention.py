"""Task 1.3: causal attention over several heads.

Chapter: 01_baseline/probability_machine
Source: attention
"""

import math

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Generator, Tensor

from tiny_lm.course.checks.case import Case, case, drawn, family
from tiny_lm.course.checks.task import Task


def attention(
    q: Float[Tensor, "B T D"],
    k: Float[Tensor, "B T D"],
    v: Float[Tensor, "B T D"],
    num_heads: int,
) -> Float[Tensor, "B T D"]:
    """Each position mixes the values of the positions up to its own, head by head."""
    q, k, v = (x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k, v))
    scores = q @ k.transpose(-1, -2)
    scores = scores / q.shape[-1] ** 0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    weights = scores.masked_fill(future, -torch.inf).softmax(dim=-1)
    mixed = weights @ v
    return mixed.transpose(1, 2).flatten(2)


UNFIT = (
    "Two shapes do not fit. All three of q, k and v are split into heads, and a heads "
    "dim stands in front of T: look at their shapes just before this line."
)

task_1_3 = Task(
    id="1.3",
    lab="01_baseline",
    title="Causal attention",
    name="attention",
    piece="baseline.attention",
    difficulty=3,
    minutes=35,
    points=4,
    reference=attention,
    errors={
        "must match the size": UNFIT,
        "Expected size for first two": UNFIT,
        "cannot be multiplied": UNFIT,
    },
    hints=(
        """
        Solve it for one head first: scores of every query with every key, a mask, a
        softmax, a weighted sum. Then make the heads one more batch dimension.
        """,
        """
        Split D into (H, d) and bring H in front of T: "B T (H d) -> B H T d".
        scores = q @ k.transpose(-1, -2) / sqrt(d) has the shape "B H T S", a row for
        each query. Where a key lies in the future, set the score to -inf before the
        softmax over the keys, the last dim. At the end put the heads back in order.
        """,
        """
        future = torch.ones(T, T, dtype=torch.bool).triu(1) is True above the diagonal.
        scores.masked_fill(future, float("-inf")).softmax(dim=-1) @ v is "B H T d";
        .transpose(1, 2) makes it "B T H d", and .flatten(2) joins the heads.
        Splitting is that backwards: .unflatten(-1, (num_heads, -1)).transpose(1, 2).
        """,
    ),
)


def _draw(generator: Generator, B: int, T: int, H: int, d: int) -> tuple:
    return *torch.randn(3, B, T, H * d, generator=generator), H


def _column(*numbers: float) -> list[list[list[float]]]:
    """One sequence, one number a position: shape (1, T, 1)."""
    return [[[number] for number in numbers]]


def _row(*numbers: float) -> list[list[list[float]]]:
    """Positions whose first of 4 columns holds these numbers."""
    return [[[number, 0.0, 0.0, 0.0] for number in numbers]]


task_1_3.asks(
    "the result has the shape of the values, (B, T, D)",
    drawn(lambda generator: _draw(generator, B=2, T=5, H=3, d=4)),
    only=(),
    mistakes={
        "mixed.transpose(1, 2).flatten(2) => mixed": "The heads are still apart: put "
        "them side by side again.",
        ".flatten(2) => ": "The heads are still apart: flatten the last two dims.",
        "return mixed.transpose(1, 2).flatten(2) => return mixed.sum(1)": "The heads "
        "were added up. They stand side by side, each in its own columns.",
        "return mixed.transpose(1, 2).flatten(2) => return weights": "These are the "
        "weights. The values are still to be mixed with them.",
        "in (q, k, v)) => in (q, k, v))\n    v = v.transpose(1, 2).flatten(2)": UNFIT,
        "k.transpose(-1, -2) => k": "Each query meets each key: the keys have to be "
        "turned, k.transpose(-1, -2), so that a product sums over the width.",
    },
)

AHEAD = "A position sees one byte of the future, the very byte that it has to predict."
BEFORE = (
    "The weights of what is left do not add up to 1: mask before the softmax, not "
    "after it."
)

task_1_3.asks(
    "with equal scores, a position averages the values up to its own",
    case(*[_column(0.0, 0.0, 0.0)] * 2, _column(3.0, 9.0, 0.0), 1),
    otherwise="The weights of a position are one softmax over the keys up to its own. "
    "Does anything else change them, before or after?",
    mistakes={
        "scores.masked_fill(future, -torch.inf) => scores": "Every position sees all "
        "values, the future included. Where is the mask?",
        "-torch.inf => 0.0": "Every position sees all values, the future included: a "
        "score of 0 is not a ban, only a score that the softmax turns into 0 is.",
        "weights @ v => weights @ k": "The keys were mixed. The values are.",
        "triu(1) => tril(-1)": "The mask is the wrong way round: position 0 sees the "
        "future and not the past. triu or tril?",
        "masked_fill(future, => masked_fill(~future,": "The mask is upside down: it "
        "bans what may be seen. True marks what is filled.",
        "masked_fill(future, -torch.inf).softmax(dim=-1) => "
        "softmax(dim=-1).masked_fill(future, 0.0)": BEFORE,
        "triu(1) => triu(0)": "A position may look at itself: here the mask is one "
        "step too strict. The first one then sees nothing at all, and 0 / 0 is NaN.",
        "triu(1) => triu(2)": AHEAD,
        "softmax(dim=-1) => softmax(dim=-2)": "The softmax runs over the queries. For "
        "each query, the weights of its keys add up to 1: which dim is theirs?",
        "masked_fill(future, -torch.inf).softmax(dim=-1) => "
        "masked_fill(future, -torch.inf).sigmoid()": "A sigmoid looks at each score by "
        "itself, so the weights do not add up to 1. A softmax over the keys does it.",
        "weights = scores.masked_fill(future, -torch.inf).softmax(dim=-1) => "
        "weights = scores.masked_fill(future, 0.0)": "There is no softmax: the scores "
        "themselves were used as weights.",
    },
)


@task_1_3.properties[-1].mistake(
    "A position may look at itself: here it only sees what lies before it."
)
def itself_left_out(q, k, v, num_heads):
    mixed = attention(q[:, 1:], k[:, :-1], v[:, :-1], num_heads)
    return torch.cat([torch.zeros_like(v[:, :1]), mixed], dim=1)


task_1_3.asks(
    "scores are divided by the square root of the head's width",
    case(
        _row(0.0, 2.0),
        _row(math.log(3), 0.0),
        _row(1.0, 5.0),
        1,
        note="one head of width 4. The second query is [2, 0, 0, 0], the keys are\n"
        "[log 3, 0, 0, 0] and zeros, the values 1 and 5: the weights are 3 : 1",
    ),
    otherwise="Only the scores are scaled, once, before the softmax. Is anything else?",
    mistakes={
        " / q.shape[-1] ** 0.5 => ": "This is what comes out without a division by "
        "the square root of the width.",
        "q.shape[-1] ** 0.5 => q.shape[-1]": "This was divided by the width, not by "
        "its square root.",
        "scores / q => scores * q": "This was multiplied by the square root. Divide.",
        "q.shape[-1] ** 0.5 => 1\n    scores = scores.softmax(dim=-1)": "The softmax "
        "came twice, before the mask and after it. Once, after it.",
        "q @ k => k @ q": "Keys and queries have changed places: row i belongs to "
        "query i.",
        "q.shape[-1] ** 0.5 => q.shape[-2] ** 0.5": "This was divided by the square "
        "root of the length. The width of a head counts.",
        "q.shape[-1] ** 0.5 => 8": "The width stands there as a number. Take it from "
        "the shape.",
        "q @ k.transpose(-1, -2) => "
        "F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-1, -2)": "Queries "
        "and keys were brought to length 1 first. Attention takes them as they are.",
    },
)

WEAK = (
    "Some future keys get through where scores are large: the number that masks a "
    "score must be lower than any score. -inf is."
)

RESHAPED = (
    "The numbers were regrouped where the dims should have been swapped: "
    "view(B, H, T, d) cuts the sequence into pieces. First (B, T, H, d), then a "
    "transpose."
)

task_1_3.asks(
    "each head takes its own columns, and scales by its own width",
    case(
        torch.zeros(1, 2, 4),
        torch.zeros(1, 2, 4),
        [[[2.0, 4.0, 6.0, 8.0], [4.0, 8.0, 0.0, 2.0]]],
        2,
    ),
    drawn(lambda generator: _draw(generator, B=1, T=6, H=4, d=2)),
    otherwise="A head reads its own columns of q, k and v and writes to the same, from "
    "all positions up to its own. What else comes in, or is left out?",
    mistakes={
        "-torch.inf => -10.0": WEAK,
        "x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for => "
        "x.reshape(len(x), num_heads, x.shape[1], -1) for": RESHAPED,
        "mixed.transpose(1, 2).flatten(2) => "
        "mixed.reshape(len(v), v.shape[2], -1)": "On the way out the numbers were "
        "regrouped: swap H and T back before the heads are joined.",
        "unflatten(-1, (num_heads, -1)).transpose(1, 2) for => "
        "unflatten(-1, (-1, num_heads)).permute(0, 3, 1, 2) for": "The heads take "
        "every num_heads-th column. Each has its own neighbouring columns: D is "
        "(H, d), H first.",
        ".transpose(1, 2).flatten(2) => .permute(0, 2, 3, 1).flatten(2)": "On the way "
        "out the columns of the heads were shuffled: all of head 0 comes first, then "
        "all of head 1.",
        "q.shape[-1] ** 0.5 => (q.shape[-1] * num_heads) ** 0.5": "The scores were "
        "divided by the square root of D. Each head's dot product adds up D / H "
        "numbers.",
        "(num_heads, -1) => (1, -1)": "All columns went through one head. Each of "
        "num_heads has its own columns, and its own weights.",
        "q @ k.transpose => q @ k[:, :1].transpose": "All heads use the keys of the "
        "first one. Each has its own columns of k.",
        "weights @ v => weights.mean(1, keepdim=True) @ v": "The weights of the heads "
        "were averaged. Each head mixes by its own.",
    },
)


def _large(generator: Generator) -> tuple:
    q, k, v, num_heads = _draw(generator, B=2, T=8, H=3, d=4)
    k, v = 300 * k, v.clone()
    v[:, 5:] += 1e4
    return q, k, v, num_heads


task_1_3.asks(
    "a change in the future changes nothing before it",
    drawn(_large, note="large scores, and values of 10,000 from position 5 on"),
    case(_column(-1e6, -1e6), _column(2.0, 1.0), _column(1.0, 5.0), 1),
    otherwise=WEAK,
    mistakes={
        "-torch.inf => -1e3": WEAK,
        "-torch.inf => -1e4": WEAK,
        "scores = scores / q.shape[-1] ** 0.5 => pass ;; -torch.inf).softmax(dim=-1) "
        "=> -100.0).div(q.shape[-1] ** 0.5).softmax(dim=-1)": WEAK,
        "masked_fill(future, -torch.inf).softmax(dim=-1) => "
        "exp().masked_fill(future, 0.0) ;; weights @ v => "
        "(weights / weights.sum(-1, keepdim=True)) @ v": "exp of a score beyond 88 is "
        "infinite, and inf / inf is NaN. softmax takes the largest score off first.",
    },
)


task_1_3.asks(
    "equals scaled_dot_product_attention, in float32 and float64",
    family(_draw, {"B": 2, "T": 9, "H": 4, "d": 6}, ["B", "T", "H", "d"], True, True),
    Case(lambda generator: _draw(generator, 2, 5, 2, 3), slopes=("q", "k", "v")),
    mistakes={
        "mixed = weights @ v => mixed = (weights @ v).detach()": "The result has lost "
        "its way back to q, k and v, through .detach(), numpy or torch.no_grad(): what "
        "lies before it would not learn.",
        "mixed = weights @ v => mixed = through_numpy(weights) @ v": "The weights went "
        "through numpy or .detach(): queries and keys would not learn.",
    },
)


@task_1_3.accepts
def torchs_own(q, k, v, num_heads):
    heads = (rearrange(x, "b t (h d) -> b h t d", h=num_heads) for x in (q, k, v))
    mixed = F.scaled_dot_product_attention(*heads, is_causal=True)
    return rearrange(mixed, "b h t d -> b t (h d)")


@task_1_3.accepts
def named_dims(queries, keys, values, num_heads):
    cut = "b t (h d) -> b t h d"
    q, k, v = (rearrange(x, cut, h=num_heads) for x in (queries, keys, values))
    scores = einsum(q, k, "b t h d, b s h d -> b h t s") / math.sqrt(q.shape[-1])
    ban = torch.full(scores.shape[-2:], -1e30, dtype=q.dtype).triu(1)
    mixed = einsum((scores + ban).softmax(-1), v, "b h t s, b s h d -> b t h d")
    return rearrange(mixed, "b t h d -> b t (h d)")


@task_1_3.accepts
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
