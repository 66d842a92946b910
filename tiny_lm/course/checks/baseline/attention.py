"""Task 1.3: causal attention over several heads.

Chapter: 01_baseline/probability_machine
Source: attention
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from tiny_lm.attention import attend
from tiny_lm.course.checks.before.answer import Answer
from tiny_lm.course.checks.before.expect import Mismatch, close, expect, shape, show
from tiny_lm.course.checks.before.task import Task


def attention(
    q: Float[Tensor, "B T D"],
    k: Float[Tensor, "B T D"],
    v: Float[Tensor, "B T D"],
    num_heads: int,
) -> Float[Tensor, "B T D"]:
    """Each position mixes the values of the positions up to its own, head by head."""
    q, k, v = (rearrange(x, "B T (H d) -> B H T d", H=num_heads) for x in (q, k, v))
    mixed = attend(q, k, v, scale=q.shape[-1] ** -0.5)
    return rearrange(mixed, "B H T d -> B T (H d)")


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
    errors=(("must match the size", UNFIT), ("Expected size for first two", UNFIT)),
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


def _column(*numbers: float) -> Tensor:
    """One sequence, one number a position: shape (1, T, 1)."""
    return torch.tensor(numbers).view(1, -1, 1)


@task_1_3.property("the result has the shape of the values, (B, T, D)")
def same_shape(answer: Answer) -> None:
    q, k, v = torch.randn(3, 2, 5, 12, generator=answer.generator)
    got = shape(answer(q, k, v, 3))
    known = {
        (2, 3, 5, 4): "The heads are still apart: put them side by side again.",
        (2, 5, 3, 4): "The heads are still apart: flatten the last two dims.",
    }
    if got != (2, 5, 12):
        raise Mismatch(
            on="q, k, v of shape (2, 5, 12), num_heads 3",
            wanted="shape (2, 5, 12)",
            got=f"shape {got}",
            because=known.get(got, ""),
        )


@task_1_3.property("with equal scores, a position averages the values up to its own")
def averages_the_past(answer: Answer) -> None:
    zero = _column(0.0, 0.0, 0.0)
    got = answer(zero, zero, _column(3.0, 9.0, 0.0), 1)
    expect(
        got.flatten(),
        torch.tensor([3.0, 6.0, 4.0]),
        on="q = k = [0, 0, 0], v = [3, 9, 0], one head of width 1",
        known=[
            (
                torch.full((3,), 4.0),
                "Every position sees all three values, the future "
                "included. If you have a mask: a score of 0 is not a ban, only a score "
                "that the softmax turns into 0 is.",
            ),
            (
                torch.tensor([4.0, 4.5, 0.0]),
                "The mask is the wrong way round: position "
                "0 sees the future and not the past. triu or tril?",
            ),
            (
                torch.tensor([1.0, 4.0, 4.0]),
                "The weights of what is left do not add up "
                "to 1: mask before the softmax, not after it.",
            ),
            (
                torch.tensor([math.nan, 3.0, 6.0]),
                "A position may look at itself. Here "
                "the first one sees nothing at all, and 0 / 0 is NaN.",
            ),
            (
                torch.tensor([0.0, 3.0, 6.0]),
                "A position may look at itself: the mask is one step too strict.",
            ),
            (
                torch.tensor([1.0, 5.5, 5.5]),
                "The softmax runs over the queries. For "
                "each query, the weights of its keys add up to 1: which dim is theirs?",
            ),
            (
                torch.tensor([6.0, 4.0, 4.0]),
                "A position sees one byte of the future, "
                "the very byte that it has to predict.",
            ),
        ],
    )


@task_1_3.property("scores are divided by the square root of the head's width")
def scaled(answer: Answer) -> None:
    # q . k is 2 log 3 for the first key, 0 for the second, and the width is 4.
    q, k, v = torch.zeros(3, 1, 2, 4)
    q[0, 1, 0], k[0, 0, 0] = 2.0, math.log(3)
    v[0, :, 0] = torch.tensor([1.0, 5.0])
    got = answer(q, k, v, 1)[0, 1, 0]
    expect(
        got,
        2.0,
        on="the query q = [2, 0, 0, 0] on the keys [log 3, 0, 0, 0] and [0, 0, 0, 0],\n"
        "values 1 and 5; width 4, so the weights are 3 : 1",
        known=[
            (1.4, "This is what comes out without a division: weights 9 : 1."),
            (_mix(3**0.5), "This was divided by the width, not by its square root."),
            (_mix(81.0), "This was multiplied by the square root."),
        ],
    )


def _mix(ratio: float) -> float:
    """Values 1 and 5 with weights ratio : 1."""
    return (ratio + 5) / (ratio + 1)


@task_1_3.property("each head takes its own columns, and scales by its own width")
def own_columns(answer: Answer) -> None:
    # Scores are zero, so every head averages; column 3 of the result comes from 3.
    q = torch.zeros(1, 2, 4)
    v = torch.tensor([[[2.0, 4.0, 6.0, 8.0], [4.0, 8.0, 0.0, 2.0]]])
    got = answer(q, q, v, 2)
    wanted = torch.tensor([[[2.0, 4.0, 6.0, 8.0], [3.0, 6.0, 3.0, 5.0]]])
    split = v.view(1, 2, 2, 2)  # the heads cut from the wrong dim
    view_in = torch.stack([split[:, :, 0], split.mean(2)], dim=2)
    view_out = wanted.view(1, 2, 2, 2).transpose(1, 2).reshape(1, 2, 4)
    expect(
        got,
        wanted,
        on="q = k = zeros(1, 2, 4), v = [[2, 4, 6, 8], [4, 8, 0, 2]], 2 heads",
        known=[
            (view_in.reshape(1, 2, 4), RESHAPED_IN),
            (view_in.transpose(1, 2).reshape(1, 2, 4), RESHAPED_IN),
            (view_out, RESHAPED_OUT),
        ],
    )
    _scales_by_head(answer)


RESHAPED_IN = (
    "The numbers were regrouped where the dims should have been swapped: "
    "view(B, H, T, d) cuts the sequence into pieces. First (B, T, H, d), then a "
    "transpose."
)
RESHAPED_OUT = (
    "On the way out the numbers were regrouped: swap H and T back before the heads are "
    "joined."
)


def _scales_by_head(answer: Answer) -> None:
    q, k, v = torch.randn(3, 1, 6, 8, generator=answer.generator)
    wanted = attention(q, k, v, 4)
    if close(answer(q * 2, k, v, 4), wanted):
        raise Mismatch(
            on="random q, k, v of width 8, 4 heads",
            wanted="scores divided by the square root of 8 / 4",
            got="scores divided by the square root of 8",
            because="Each head's dot product adds up 2 numbers, not 8.",
        )


@task_1_3.property("a change in the future changes nothing before it")
def blind_to_the_future(answer: Answer) -> None:
    q, k, v = torch.randn(3, 2, 8, 12, generator=answer.generator)
    before = answer(q, 100 * k, v, 3)[:, :5]
    k, v = k.clone(), v.clone()
    k[:, 5:] = 3 * k[:, 5:] + 30
    v[:, 5:] += 1e4
    after = answer(q, 100 * k, v, 3)[:, :5]
    if before.isnan().any() or not close(before, after):
        raise Mismatch(
            on="random q, k, v with large scores; k and v changed from position 5 on",
            wanted="results up to position 4 as before",
            got=f"results that moved by up to {show((before - after).abs().max())}",
            because="Some future keys get through. The number that masks a score must "
            "be lower than any score: -inf is.",
        )


@task_1_3.property("equals scaled_dot_product_attention, in float32 and float64")
def equals_torch(answer: Answer) -> None:
    for dtype in (torch.float32, torch.float64):
        q, k, v = torch.randn(3, 2, 9, 24, generator=answer.generator).to(dtype)
        heads = (x.unflatten(-1, (4, 6)).transpose(1, 2) for x in (q, k, v))
        wanted = F.scaled_dot_product_attention(*heads, is_causal=True)
        expect(
            answer(q, k, v, 4),
            wanted.transpose(1, 2).flatten(2),
            on=f"random q, k, v of shape (2, 9, 24), 4 heads, {dtype}",
            tolerance=1e-4 if dtype == torch.float32 else 1e-9,
        )
