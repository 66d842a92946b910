"""Task 3.4: from a state down to the latent, brought to one size.

Chapter: 03_mla/latent_attention
Source: deepseek_v3, eq. 1; deepseek_v3_code
"""

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Float
from torch import Generator, Tensor

from tiny_lm.course.checks.case import Case, case, family
from tiny_lm.course.checks.task import Task


def compress(
    x: Float[Tensor, "B T D"],
    down: Float[Tensor, "latent D"],
    gain: Float[Tensor, " latent"],
    eps: float,
) -> Float[Tensor, "B T latent"]:
    """What the cache keeps of each token: few numbers, of mean square 1 times gain."""
    latent = x @ down.mT
    mean_square = latent.square().mean(dim=-1, keepdim=True)
    latent = latent / (mean_square + eps).sqrt()
    return gain * latent


task_3_4 = Task(
    id="3.4",
    lab="03_mla",
    title="Down to the latent",
    name="compress",
    piece="mla.compress",
    difficulty=1,
    minutes=12,
    points=2,
    reference=compress,
    returns=("latent",),
    errors={
        "cannot be multiplied": "`down` has a row for each number of the latent, and "
        "torch multiplies from the right: x @ down.T.",
        "must match the size": "Two shapes do not fit. With keepdim=True a mean over "
        "the latent's numbers has the shape (B, T, 1), and divides each token's own.",
    },
    hints=(
        """
        Two steps. A product takes D numbers to a few. Then each token's few numbers are
        divided by one number, so that their mean square becomes 1.
        """,
        """
        x @ down.T is the latent before its norm. Square it, take the mean over its own
        numbers (dim -1, keepdim=True), add eps, take the root, divide. The gain comes
        last and multiplies each number by its own.
        """,
        """
        latent = x @ down.T
        root = (latent.square().mean(-1, keepdim=True) + eps).sqrt()
        The result is latent / root, times gain.
        """,
    ),
)

EVEN = torch.eye(2)
MEAN = (
    "The mean was taken off first, as a layer norm does. This norm only divides: by "
    "the root of the mean square."
)

task_3_4.asks(
    "a latent's numbers have a mean square of 1",
    case([[[7.0, 1.0]]], EVEN, [1.0, 1.0], 0.0, note="the mean square is 25"),
    case([[[3.0, 9.0, 9.0]]], torch.tensor([[1.0, 0, 0], [0, 1, 0]]), [1.0, 1.0], 0.0),
    otherwise="The latent is x @ down.T, each token's divided by the root of the mean "
    "of its squares. What else is done to it?",
    mistakes={
        "latent / (mean_square + eps).sqrt() => latent": "This latent is as large as "
        "it came out of the product. Its norm is missing: what the cache keeps is the "
        "latent after it.",
        "mean_square = latent.square() => latent = latent - latent.mean(-1, "
        "keepdim=True)\n    mean_square = latent.square()": MEAN,
        "latent.square().mean(dim=-1, => latent.var(dim=-1, unbiased=False,": "The "
        "latent was divided by its standard deviation, which leaves the mean out. "
        "Wanted is the root of the mean square.",
        "latent.square().mean( => latent.square().sum(": "The squares were added up, "
        "which gives length 1. Wanted is a mean square of 1: divide by the root of "
        "their mean.",
        "(mean_square + eps).sqrt() => (mean_square + eps)": "This was divided by the "
        "mean square, and its root is wanted.",
        "latent.square().mean(dim=-1, keepdim=True) => "
        "latent.abs().mean(dim=-1, keepdim=True).square()": "The mean of the absolute "
        "values was taken. Square first, then the mean, then the root.",
        "latent.square().mean(dim=-1, keepdim=True) => "
        "latent.mean(dim=-1, keepdim=True).square()": "The mean was taken before the "
        "squares. Square first.",
        "latent.square().mean(dim=-1, keepdim=True) => "
        "latent.abs().amax(dim=-1, keepdim=True).square()": "This was divided by the "
        "largest number. Wanted is the root of the mean square.",
        "= latent.square().mean( => = x.square().mean(": "The mean square is "
        "that of the state. The norm is the latent's own: first the product, then "
        "its mean square.",
        "mean(dim=-1, keepdim=True) => mean(dim=-2, keepdim=True)": "The mean went "
        "along the positions, so a token's latent depends on its neighbours, and on "
        "what is still to be written. It goes along the latent's numbers, dim -1.",
        "mean(dim=-1, keepdim=True) => mean(dim=0, keepdim=True)": "The mean went "
        "along the texts of the batch. It goes along the latent's numbers, dim -1.",
        "return gain * latent => return (1 + gain) * latent": "1 was added to the "
        "gain. Some models do; this one takes it as it is.",
        "return gain * latent => return gain + latent": "The gain was added. It "
        "multiplies.",
    },
)

TWO = case([[[7.0, 1.0], [0.0, 4.0]], [[1.0, 1.0], [30.0, 0.0]]], EVEN, [1.0, 1.0], 0.0)

task_3_4.asks(
    "each token has a norm of its own",
    TWO,
    mistakes={
        "mean(dim=-1, keepdim=True) => mean()": "All tokens share one mean square. "
        "Each has its own.",
        "mean(dim=-1, keepdim=True) => mean(dim=(1, 2), keepdim=True)": "All tokens of "
        "a text share one mean square. Each has its own.",
        "mean(dim=-1, keepdim=True) => mean(-1)": "The mean squares have lost their "
        "last dim and stand beside the wrong numbers: keepdim=True.",
    },
)

task_3_4.asks(
    "after the norm, each number is multiplied by its gain",
    case([[[7.0, 1.0]]], EVEN, [2.0, 0.5], 0.0),
    case([[[3.0, 4.0]]], EVEN, [0.0, 1.0], 0.0),
    mistakes={
        "return gain * latent => return latent": "Is `gain` used? It has been 1 so "
        "far.",
        "latent = x @ down.mT => latent = gain * (x @ down.mT) ;; "
        "return gain * latent => return latent": "The gain came before the norm, which "
        "takes part of it away again.",
        "return gain * latent => return gain.mean() * latent": "All numbers got the "
        "same gain. Each has its own.",
    },
)

task_3_4.asks(
    "eps is added to the mean square, so a state of zeros stays zero",
    case([[[0.0, 0.0], [1.0, 1.0]]], EVEN, [1.0, 1.0], 3.0, note="eps is 3 here"),
    case([[[0.0, 0.0]]], EVEN, [1.0, 1.0], 1e-6),
    mistakes={
        "(mean_square + eps) => (mean_square)": "0 / 0 is NaN: add eps to the mean "
        "square, below the root.",
        "(mean_square + eps).sqrt() => (mean_square.sqrt() + eps)": "eps was added "
        "after the root. It belongs below it.",
        "(mean_square + eps) => (mean_square + 1e-6)": "An eps of its own was used. It "
        "is handed over.",
        "(mean_square + eps) => (mean_square + eps**2)": "eps was squared.",
        "(mean_square + eps) => mean_square.clamp(min=eps)": "eps was taken as the "
        "least. It is added.",
    },
)


def _draw(generator: Generator, B: int, T: int, D: int, latent: int) -> tuple:
    x = 5 * torch.randn(B, T, D, generator=generator)
    down = torch.randn(latent, D, generator=generator)
    return x, down, torch.rand(latent, generator=generator) + 0.5, 1e-5


task_3_4.asks(
    "equals the definition on random states, slopes included",
    family(
        _draw,
        {"B": 3, "T": 5, "D": 8, "latent": 4},
        ["B", "T", "D", "latent"],
        True,
        True,
    ),
    Case(lambda g: _draw(g, 2, 3, 6, 4), slopes=("x", "down", "gain")),
    mistakes={
        "latent / (mean_square => latent / (mean_square.detach()": "The mean square "
        "was detached. A change of one number changes it, and with it all others.",
        "latent = x @ down.mT => latent = (x @ down.mT).detach()": "The latent has "
        "lost its way back to the state, through .detach(), numpy or torch.no_grad().",
    },
)


@task_3_4.accepts
def torchs_own(x, down, gain, eps):
    return F.rms_norm(F.linear(x, down), gain.shape, gain, eps)


@task_3_4.accepts
def with_named_dims(state, w, weight, eps):
    c = einsum(state, w, "b t d, c d -> b t c")
    size = einsum(c, c, "b t c, b t c -> b t") / c.shape[-1]
    return einsum(c, weight, torch.rsqrt(size + eps), "b t c, c, b t -> b t c")


@task_3_4.accepts
def token_by_token(x, down, gain, eps):
    rows = []
    for token in x.flatten(0, 1):
        c = down @ token
        rows.append(c * gain * (c.dot(c) / len(c) + eps) ** -0.5)
    return torch.stack(rows).view(*x.shape[:2], -1)
