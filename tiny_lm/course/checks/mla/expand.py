"""Task 3.5: from a latent up to the keys and values of every head.

Chapter: 03_mla/latent_attention
Source: deepseek_v3, eqs. 2, 5; deepseek_v3_code
"""

import torch
from einops import einsum, rearrange
from jaxtyping import Float
from torch import Generator, Tensor

from tiny_lm.course.checks.case import Case, case, drawn, family
from tiny_lm.course.checks.task import Task


def expand(
    latent: Float[Tensor, "B S latent"],
    up: Float[Tensor, "M latent"],
    num_heads: int,
    d_nope: int,
) -> tuple[Float[Tensor, "B H S nope"], Float[Tensor, "B H S v"]]:
    """Each head's keys and values, all made from the one latent of a token."""
    numbers = latent @ up.mT
    per_head = numbers.unflatten(-1, (num_heads, -1)).transpose(1, 2)
    keys = per_head[..., :d_nope]
    values = per_head[..., d_nope:]
    return keys, values


UNFIT = (
    "Two shapes do not fit. `up` has a row for each number that is made, so the "
    "product is latent @ up.T."
)

task_3_5 = Task(
    id="3.5",
    lab="03_mla",
    title="Up to every head",
    name="expand",
    piece="mla.expand",
    difficulty=2,
    minutes=15,
    points=3,
    reference=expand,
    returns=("keys", "values"),
    errors={
        "cannot be multiplied": UNFIT,
        "don't multiply up": "The rows of `up` are those of num_heads heads, as many "
        "for each.",
        "is invalid for input of size": "The rows of `up` are those of num_heads "
        "heads, d_nope and more for each: how many more is left to say to -1.",
    },
    hints=(
        """
        One product makes all numbers of all heads. What is left is to know whose they
        are: look at the picture from left to right.
        """,
        """
        latent @ up.T is (B, S, rows of up). Cut its last dim into num_heads pieces, one
        for each head, and bring the heads in front of the positions. Within a head the
        first d_nope numbers are the key, what follows is the value.
        """,
        """
        per_head = (latent @ up.T).unflatten(-1, (num_heads, -1)).transpose(1, 2)
        The keys are per_head[..., :d_nope], the values what is left of the last dim.
        """,
    ),
)


def _draw(generator: Generator, **n: int) -> tuple:
    latent = torch.randn(n["B"], n["S"], n["latent"], generator=generator)
    rows = n["H"] * (n["nope"] + n["v"])
    up = torch.randn(rows, n["latent"], generator=generator)
    return latent, up, n["H"], n["nope"]


SIZES = {"B": 2, "S": 5, "H": 3, "latent": 4, "nope": 6, "v": 2}
JOINED = "The heads were laid side by side. They stay apart, in a dim before S."

task_3_5.asks(
    "keys are (B, H, S, nope), values (B, H, S, v)",
    drawn(lambda generator: _draw(generator, **SIZES)),
    only=(),
    otherwise="Of a head's rows the first d_nope make its key, all others its value.",
    mistakes={
        "(num_heads, -1)).transpose(1, 2) => (num_heads, -1))": "Heads and positions "
        "have changed places: heads come first, as in q of the task before.",
        "return keys, values => return values, keys": "The values came first. Keys, "
        "then values.",
        "return keys, values => "
        "return keys.transpose(1, 2).flatten(2), values.transpose(1, 2).flatten(2)": (
            JOINED
        ),
        "per_head[..., :d_nope] => per_head[..., ::2] ;; "
        "per_head[..., d_nope:] => per_head[..., 1::2]": "Keys took every second row "
        "of a head, values the others. The first d_nope rows of a head are its key, "
        "and what follows is its value.",
        "per_head[..., :d_nope] => per_head.chunk(2, -1)[0] ;; "
        "per_head[..., d_nope:] => per_head.chunk(2, -1)[1]": "A head's rows were cut "
        "in the middle. The first d_nope are its key, however many follow.",
        "return keys, values => return per_head": "Keys and values are still in one "
        "tensor: two are wanted.",
        "keys = per_head[..., :d_nope] => keys = per_head": "The keys still hold the "
        "values behind them.",
        "values = per_head[..., d_nope:] => values = per_head": "The values still hold "
        "the keys before them.",
        "numbers = latent @ up.mT => numbers = latent @ up": UNFIT,
        "(num_heads, -1)).transpose(1, 2) => (num_heads, -1))\n"
        "    per_head = per_head.permute(2, 0, 1, 3)": "The heads stand in front of "
        "the batch. They stand behind it, as in q.",
    },
)

BY_HAND = case(
    [[[1.0]]],
    torch.arange(10.0)[:, None],
    2,
    3,
    note="row i of `up` holds i: five rows a head, three for its key",
)
KEYS_FIRST = (
    "The rows were read as the keys of all heads, then the values of all heads. They "
    "stand head by head: a head's key rows, its value rows, then the next head."
)
VALUES_FIRST = (
    "Within a head, the value was read before the key. The first d_nope rows of a "
    "head are its key."
)
SHUFFLED = (
    "Each head took every num_heads-th row. A head's rows are neighbours: the last dim "
    "is (heads, rows of a head), heads first."
)
HEADS_FIRST = "numbers.unflatten(-1, (num_heads, -1)).transpose(1, 2)"

task_3_5.asks(
    "the rows stand head by head, each head's key before its value",
    BY_HAND,
    case([[[1.0]]], torch.arange(8.0)[:, None], 2, 2, note="two rows for each"),
    otherwise="Rows 0 to d_nope - 1 make the key of head 0, the next ones its value; "
    "then comes head 1.",
    mistakes={
        "keys = per_head[..., :d_nope] => keys = numbers[..., : num_heads * d_nope]"
        ".unflatten(-1, (num_heads, -1)).transpose(1, 2) ;; "
        "values = per_head[..., d_nope:] => values = numbers[..., num_heads * d_nope :]"
        ".unflatten(-1, (num_heads, -1)).transpose(1, 2)": KEYS_FIRST,
        "keys = per_head[..., :d_nope] => "
        "keys = per_head[..., per_head.shape[-1] - d_nope :] ;; "
        "values = per_head[..., d_nope:] => "
        "values = per_head[..., : per_head.shape[-1] - d_nope]": VALUES_FIRST,
        f"{HEADS_FIRST} => "
        "numbers.unflatten(-1, (-1, num_heads)).permute(0, 3, 1, 2)": SHUFFLED,
        "transpose(1, 2)\n => transpose(1, 2).flip(1)\n": "The heads stand in reverse.",
        "values = per_head[..., d_nope:] => "
        "values = per_head[..., : per_head.shape[-1] - d_nope]": "The values were cut "
        "from the front, where the keys are. They follow them.",
        "keys = per_head[..., :d_nope] => keys = per_head[:, :1, :, :d_nope].expand("
        "-1, num_heads, -1, -1)": "All heads got the key of the first. Each has rows "
        "of its own.",
        "values = per_head[..., d_nope:] => values = per_head[:, :1, :, d_nope:]"
        ".expand(-1, num_heads, -1, -1)": "All heads got the value of the first. Each "
        "has rows of its own.",
    },
)

task_3_5.asks(
    "each position keeps its own numbers",
    case([[[1.0], [10.0], [100.0]]], torch.arange(1.0, 5.0)[:, None], 2, 1),
    mistakes={
        f"{HEADS_FIRST} => "
        "numbers.reshape(len(latent), num_heads, latent.shape[1], -1)": "The numbers "
        "were regrouped where dims should have been swapped: a view as (B, H, S, …) "
        "cuts the row of positions into pieces. First (B, S, H, …), then a transpose.",
        "transpose(1, 2)\n => transpose(1, 2).flip(2)\n": "The positions stand in "
        "reverse.",
        "latent @ up.mT => latent.mean(1, keepdim=True).expand_as(latent) @ up.mT": (
            "All positions got the same: the mean of the latents."
        ),
    },
)

task_3_5.asks(
    "equals the definition on random latents, slopes included",
    family(_draw, SIZES, [*SIZES], True, True),
    Case(lambda g: _draw(g, **SIZES), slopes=("latent", "up")),
    mistakes={
        "return keys, values => return keys.detach(), values": "The keys have lost "
        "their way back to the latent, through .detach(), numpy or torch.no_grad().",
        "return keys, values => return keys, values.detach()": "The values have lost "
        "their way back to the latent, through .detach(), numpy or torch.no_grad().",
        "latent @ up.mT => latent.detach() @ up.mT": "The latent was detached: what "
        "made it would not learn.",
    },
)


@task_3_5.accepts
def split_into_two(latent, up, num_heads, d_nope):
    d_value = len(up) // num_heads - d_nope
    kv = torch.nn.functional.linear(latent, up)
    kv = rearrange(kv, "b s (h d) -> b h s d", h=num_heads)
    return kv.split([d_nope, d_value], dim=-1)


@task_3_5.accepts
def two_matrices_a_head(latent, up, num_heads, d_nope):
    w = up.reshape(num_heads, -1, up.shape[-1])
    keys = einsum(latent, w[:, :d_nope], "b s c, h n c -> b h s n")
    return keys, einsum(latent, w[:, d_nope:], "b s c, h n c -> b h s n")


@task_3_5.accepts
def loop_over_heads(c, up, heads, width):
    blocks = up.chunk(heads)
    keys = [c @ block[:width].T for block in blocks]
    return torch.stack(keys, 1), torch.stack([c @ b[width:].T for b in blocks], 1)
