"""Task 3.7: what a token leaves in the latent cache.

Chapter: 03_mla/latent_attention
Source: deepseek_v3, eqs. 1, 3
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Generator, Tensor

from tiny_lm.course.checks.case import case, drawn
from tiny_lm.course.checks.mla.rotary import COS, SIN
from tiny_lm.course.checks.task import Task
from tiny_lm.layers import rotary_table, rotate


def latent_memory(
    x: Float[Tensor, "B T D"],
    down: Float[Tensor, "latent_rope D"],
    gain: Float[Tensor, " latent"],
    eps: float,
    cos: Float[Tensor, "places half"],
    sin: Float[Tensor, "places half"],
    start: int,
) -> Float[Tensor, "B T latent_rope"]:
    """What T tokens from `start` on leave behind: latents beside rotated keys."""
    width, here = len(gain), slice(start, start + x.shape[1])
    both = x @ down.T
    latent, key = both[..., :width], both[..., width:]
    latent = F.rms_norm(latent, gain.shape, gain, eps)
    key = rotate(key, cos[here], sin[here])
    return torch.cat([latent, key], dim=-1)


LATENT, KEY = "latent:", "rotary key:"


def _view(result: Tensor, x: Tensor, down: Tensor, gain: Tensor, *rest: object) -> dict:
    """The two parts of a row by name."""
    return {LATENT: result[..., : len(gain)], KEY: result[..., len(gain) :]}


task_3_7 = Task(
    id="3.7",
    lab="03_mla",
    title="The latent cache",
    name="latent_memory",
    piece="mla.latent_memory",
    difficulty=2,
    minutes=18,
    points=3,
    reference=latent_memory,
    view=_view,
    errors={
        "cannot be multiplied": "Two shapes do not fit. `down` has a row for each "
        "number that it makes: x @ down.T.",
        "must match the size": "Two shapes do not fit. Only the rotary part turns, by "
        "the rows of cos and sin that belong to its T positions.",
        "Sizes of tensors must match": "Latent and key are put side by side along the "
        "last dim.",
    },
    hints=(
        """
        One product makes both parts. Which of them is normalised, and which is rotated?
        """,
        """
        The first len(gain) numbers are the latent: task 3.4 says what becomes of it.
        The others are the rotary key, which is only turned: token number t of this call
        stands at position start + t. Put the two side by side again.
        """,
        """
        both = x @ down.T, cut at len(gain). The latent goes through
        F.rms_norm(latent, gain.shape, gain, eps); the key through
        rotate(key, cos[start : start + T], sin[start : start + T]);
        torch.cat([latent, key], dim=-1) joins them.
        """,
    ),
)


def draw(generator: Generator, B: int, T: int, D: int, latent: int, rope: int):
    """Tokens behind three others, small enough for eps to matter."""
    x = 0.2 * torch.randn(B, T, D, generator=generator)
    down = torch.randn(latent + rope, D, generator=generator)
    gain = torch.rand(latent, generator=generator) + 0.5
    angles = (table.float() for table in rotary_table(rope, T + 6, 100.0))
    return x, down, gain, 0.01, *angles, 3


RETURN = "return torch.cat([latent, key], dim=-1) => return "
BY_HEADS = (
    "A row is wider than a latent and one rotary key. Nothing in it is counted by "
    "heads: keys and values are made again from the latent, by whoever needs them."
)

task_3_7.asks(
    "a token leaves one row: a latent and one rotary key, nothing by heads",
    drawn(lambda g: draw(g, 2, 4, 4, latent=2, rope=2)),
    only=(),
    otherwise="A row is a latent of len(gain) numbers, then the rotary key. Expanded "
    "keys and values would be many times as many, and are what MLA does not keep.",
    mistakes={
        f"{RETURN}torch.cat([latent, key.repeat(1, 1, 4)], dim=-1)": BY_HEADS,
        f"{RETURN}torch.cat([latent.repeat(1, 1, 4), key], dim=-1)": BY_HEADS,
        f"{RETURN}torch.cat([latent.repeat(1, 1, 4)] * 2, dim=-1)": BY_HEADS,
        f"{RETURN}latent": "The rotary key is missing: without it nobody knows where "
        "the token stood.",
        f"{RETURN}key": "The latent is missing.",
        f"{RETURN}(latent, key)": "These are two tensors. A cache with one row a token "
        "wants them side by side in one.",
        f"{RETURN}torch.cat([latent, key], dim=-1).unsqueeze(1)": "There is a dim of "
        "heads. One row serves all heads.",
    },
)

RAW = (
    "The latent went in as it left its matrix. The up-projection was trained on "
    "normalised latents, so what is kept has to be what it will see."
)
GIVES = "latent = F.rms_norm(latent, gain.shape, gain, eps) => "

task_3_7.asks(
    "the latent is normalised, token by token",
    case(
        [[[1.0, 0.0, 0.0, 0.0], [10.0, 0.0, 0.0, 0.0]]],
        [
            [1.0, 0.0, 0.0, 0.0],
            [7.0, 1.0, 0.0, 0.0],
            [3.0, 0.0, 1.0, 0.0],
            [4.0, 0.0, 0.0, 1.0],
        ],
        [1.0, 2.0],
        0.0,
        torch.ones(3, 1),
        torch.zeros(3, 1),
        0,
        note="the latents are [1, 7] and [10, 70], mean squares 25 and 2,500;\n"
        "nothing turns here",
    ),
    only=(LATENT,),
    otherwise="The latent alone is divided by the root of its mean square, and "
    "multiplied by the gain: what you wrote for task 3.4.",
    mistakes={
        f"{GIVES}pass": RAW,
        f"{GIVES}latent = latent * gain": RAW,
        f"both = x @ down.T => both = F.rms_norm(x @ down.T, down.shape[:1], None, eps)"
        f" ;; {GIVES}latent = latent * gain": "Latent and key were normalised as one "
        "row. The norm is the latent's own; the rotary key has none.",
        f"{GIVES}latent = F.layer_norm(latent, gain.shape, gain, None, eps)": "The "
        "mean was taken off first. An RMS norm only divides.",
        f"{GIVES}latent = F.normalize(latent, dim=-1) * gain": "The latent was brought "
        "to length 1. It is divided by the root of the *mean* square.",
        f"{GIVES}latent = latent / (latent.square().mean((1, 2), keepdim=True) + eps)"
        ".sqrt() * gain": "The tokens of a text share one norm. Each has its own.",
        f"both = x @ down.T => both = F.rms_norm(x, x.shape[-1:], None, eps) @ down.T"
        f" ;; {GIVES}latent = latent * gain": "The token was normalised before the "
        "product. The latent is, after it.",
        f"{GIVES}latent = F.rms_norm(F.rms_norm(latent, gain.shape, gain, eps), "
        "gain.shape, gain, eps)": "The latent was normalised twice.",
        "x @ down.T => x @ down": "`down` was used the wrong way round: it has a row "
        "for each number that it makes, x @ down.T.",
        "torch.cat([latent, key] => torch.cat([key, latent]": "The rotary key stands "
        "first. Readers of the cache look for the latent there.",
        "both[..., :width], both[..., width:] => "
        "both[..., -width:], both[..., :-width]": "The parts were taken the wrong way "
        "round: the first rows of `down` make the latent, the last the rotary key.",
    },
)

TURNED = (
    "The latent was rotated. It carries no position: a rotation in it would stand "
    "between the query and the up-projection, and forbid absorption."
)
WHOLE = "The whole row was rotated, the latent with it. Only the rotary key turns."
TURN = "key = rotate(key, cos[here], sin[here]) => "
PAIR = case(
    [[[1.0], [1.0]]],
    [[1.0], [7.0], [4.0], [8.0], [12.0], [16.0]],
    [1.0, 1.0],
    0.0,
    [[1.0, 1.0], [0.0, 1.0], [-1.0, 1.0]],
    [[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]],
    0,
    note="key [4, 8, 12, 16]; at position 1 its first pair has made a quarter turn",
)


def _quarters(num: int, start: int, note: str):
    """The same token several times: latent [1, 7], rotary key [3, 4]."""
    down = [[1.0, 0.0], [7.0, 0.0], [3.0, 0.0], [4.0, 0.0]]
    note = f"{num} equal tokens, key [3, 4], a quarter turn for each position;\n{note}"
    x = [[[1.0, 0.0]] * num]
    return case(x, down, [1.0, 2.0], 0.0, COS, SIN, start, note=note)


task_3_7.asks(
    "the key is rotated, each token's by its position; the latent is not",
    _quarters(3, 0, "the cache is empty"),
    PAIR,
    otherwise="The key turns once, by its own position, and that is all.",
    mistakes={
        f"{TURN}pass": "The key went in without its position. It would have to be "
        "turned anew for every token that is written after it.",
        f"{GIVES}latent = rotate(F.rms_norm(latent, gain.shape, gain, eps), cos[here], "
        "sin[here])": TURNED,
        f"{GIVES}latent = F.rms_norm(rotate(latent, cos[here], sin[here]), gain.shape, "
        "gain, eps)": TURNED,
        f"both = x @ down.T => both = rotate(x @ down.T, cos[here], sin[here]) ;; "
        f"{TURN}pass": WHOLE,
        f"{RETURN}rotate(torch.cat([latent, key], dim=-1), cos[here], sin[here]) ;; "
        f"{TURN}pass": WHOLE,
        f"{TURN}latent = rotate(latent, cos[here], sin[here])": "The latent was "
        "rotated and the key was not: it is the other way round.",
        f"{TURN}key = rotate(F.rms_norm(key, key.shape[-1:], None, eps), cos[here], "
        "sin[here])": "The rotary key was normalised. Only the latent is.",
        f"{TURN}key = rotate(rotate(key, cos[here], sin[here]), "
        "cos[here], sin[here])": ("The key was turned twice, by double its angle."),
        f"{TURN}key = rotate(latent[..., : key.shape[-1]], cos[here], sin[here])": (
            "The rotary key was made of the latent. It has rows of `down` of its own."
        ),
        f"{TURN}key = rotate(key, cos[here], -sin[here])": "The key was turned the "
        "other way round: a pair (x, y) becomes (x cos - y sin, x sin + y cos).",
        f"{TURN}key = halves(key, cos[here], sin[here])": "The pairs are (0, 2), "
        "(1, 3), as in Llama's code. Here neighbours are a pair.",
        "slice(start, start + x.shape[1]) => "
        "slice(start + 1, start + x.shape[1] + 1)": (
            "The keys stand one position too far. `start` tokens are in the cache, "
            "numbered from 0, so the next one is number `start`."
        ),
        "slice(start, start + x.shape[1]) => slice(-x.shape[1], None)": "The last rows "
        "of cos and sin were used. The tables reach further than the text.",
        "slice(start, start + x.shape[1]) => [start] * x.shape[1]": "All tokens got "
        "the position of the first. They stand behind each other.",
    },
)

task_3_7.asks(
    "behind a cached prefix, positions go on from where it ends",
    _quarters(2, 2, "positions 0 and 1 are in the cache already"),
    _quarters(1, 5, "positions 0 to 4 are in the cache already"),
    otherwise="The first of these tokens stands at position `start`.",
    mistakes={
        "slice(start, start + x.shape[1]) => slice(0, x.shape[1])": "The positions "
        "began at 0 again. These tokens stand behind what is cached, from `start` on.",
        "slice(start, start + x.shape[1]) => "
        "slice(max(start - 1, 0), max(start - 1, 0) + x.shape[1])": "The keys stand "
        "one position too low: the last one in the cache is number start - 1.",
    },
)
