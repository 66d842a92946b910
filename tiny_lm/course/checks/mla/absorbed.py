"""Task 3.8: attend to the latents themselves.

Chapter: 03_mla/absorption
Source: deepseek_v2, section 2.1.2; deepseek_v3, eqs. 1-11
"""

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from tiny_lm.course.checks.case import case, drawn
from tiny_lm.course.checks.task import Task


def absorbed_attention(
    q_nope: Float[Tensor, "B H T nope"],
    q_rope: Float[Tensor, "B H T rope"],
    memory: Float[Tensor, "B S latent_rope"],
    w_uk: Float[Tensor, "H nope latent"],
    w_uv: Float[Tensor, "H v latent"],
    hidden: Bool[Tensor, "B S"],
) -> Float[Tensor, "B H T v"]:
    """Attention of the newest T positions to all S, without a head's keys or values."""
    T, S, latent = q_nope.shape[-2], memory.shape[-2], w_uk.shape[-1]
    down = torch.einsum("bhtn,hnc->bhtc", q_nope, w_uk)
    query = torch.cat([down, q_rope], dim=-1)
    scores = torch.einsum("bhtd,bsd->bhts", query, memory)
    scores = scores * (q_nope.shape[-1] + q_rope.shape[-1]) ** -0.5
    future = torch.ones(T, S, dtype=torch.bool).triu(S - T + 1)
    banned = future | hidden[:, None, None, :]
    weights = scores.masked_fill(banned, -torch.inf).softmax(dim=-1)
    mixed = torch.einsum("bhts,bsc->bhtc", weights, memory[..., :latent])
    return torch.einsum("bhtc,hvc->bhtv", mixed, w_uv)


UNFIT = (
    "Two shapes do not fit. A query is as wide as a latent once w_uk has carried it "
    "down; w_uk and w_uv have a matrix for each head, and the memory has no heads. A "
    "mask has T rows and S columns."
)

task_3_8 = Task(
    id="3.8",
    lab="03_mla",
    title="Absorption",
    name="absorbed_attention",
    piece="mla.absorbed_attention",
    difficulty=3,
    minutes=40,
    points=5,
    reference=absorbed_attention,
    errors={
        "must match the size": UNFIT,
        "cannot be multiplied": UNFIT,
        "Expected size for first two": UNFIT,
        "does not broadcast": UNFIT,
        "non-negative dim sizes": UNFIT,
    },
    hints=(
        """
        q · (W c) = (Wᵀ q) · c. The expanded form multiplies every latent by W. Who is
        multiplied here, and how many of them are there?
        """,
        """
        Carry each head's content query down: over its nope numbers, with w_uk. Put the
        rotary query beside it, and it fits a row of the memory: one product gives the
        joint score. Scale, mask and softmax are those of the expanded form. The weights
        then mix the latents alone, and w_uv brings each head's mixture up.
        """,
        """
        einsum(q_nope, w_uk, "b h t n, h n c -> b h t c"), joined to q_rope, meets the
        memory: "b h t d, b s d -> b h t s". Times (nope + rope) ** -0.5; -inf where
        torch.ones(T, S).triu(S - T + 1) is 1 or hidden[:, None, None] is True; softmax
        over the last dim. Mix memory[..., :latent], then
        einsum(mixed, w_uv, "b h t c, h v c -> b h t v").
        """,
    ),
)


def draw(
    generator: Generator, B: int, H: int, T: int, P: int, nope: int, latent: int
) -> tuple:
    """T new positions behind P others, values 5 wide, a rotary part of 4."""

    def of(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator)

    parts = of(B, H, T, nope), of(B, H, T, 4), of(B, P + T, latent + 4)
    return *parts, of(H, nope, latent), of(H, 5, latent), torch.zeros(B, P + T).bool()


SIZES = {"B": 2, "H": 3, "T": 2, "P": 5, "nope": 6, "latent": 7}
NO_UP = (
    "The mixtures of latents came back as they are. They are still to be brought up, "
    "each head's by its own w_uv."
)

task_3_8.asks(
    "every head gives each new position v numbers: (B, H, T, v)",
    drawn(lambda g: draw(g, **SIZES | {"nope": 5, "latent": 5})),
    only=(),
    mistakes={
        "bhtc,hvc->bhtv => bhtc,hvc->btv": "The heads were "
        "added up. Each has its own result; joining them is the output's business.",
        "bhtc,hvc->bhtv => bhtc,hvc->bthv": "Heads and positions have changed places.",
        "mixed, w_uv) => mixed[:, :, -1:], w_uv)": "Only the last "
        "position came back. Each of the T asks.",
    },
)

UP = [[[0.0, 1.0], [2.0, 0.0]]]  # swaps a latent's numbers and doubles one of them
DOWN = [[[1.0, 0.0], [1.0, 1.0]]]

task_3_8.asks(
    "a single latent is brought up by w_uv",
    case(
        torch.zeros(1, 1, 1, 2),
        torch.zeros(1, 1, 1, 2),
        [[[3.0, 1.0, 9.0, 8.0]]],
        DOWN,
        UP,
        [[False]],
        note="its weight is 1, so this is its value: w_uv times [3, 1]",
    ),
    otherwise="With one latent its weight is 1, and the result its value.",
    mistakes={
        'return torch.einsum("bhtc,hvc->bhtv", mixed, w_uv) => return mixed': (
            "The mixtures of latents came back as they are. They are still to be "
            "brought up, each head's by its own w_uv."
        ),
        "bhtc,hvc->bhtv => bhtv,hvc->bhtc": "w_uv was used "
        "the wrong way round: it has a row for each number of a value.",
        "[down, q_rope] => [q_rope, down] ;; "
        "memory[..., :latent] => memory[..., -latent:]": "The memory was read as if "
        "the rotary key came first. The latent does.",
        "memory[..., :latent] => memory[..., -latent:]": "The last numbers of a row "
        "were mixed, the rotary key among them. The latent comes first, and it alone "
        "holds values.",
        "mixed, w_uv) => mixed, w_uk)": "w_uk brought the mixture up. "
        "That is the keys' matrix: values have w_uv.",
        ".softmax(dim=-1) => .sigmoid()": "A sigmoid looks at each score by itself, so "
        "the weights do not add up to 1.",
        "future | hidden[:, None, None, :] => future | ~hidden[:, None, None, :]": (
            "`hidden` was read the wrong way round: True marks what nobody may see."
        ),
    },
)

PREFIX = (
    "The mask counts from the first key. Behind a prefix the T queries are the newest "
    "of S positions, so query number 0 sees S - T + 1 keys."
)
AFTERWARDS = (
    "Keys were struck out after the softmax, so that the weights of the others no "
    "longer add up to 1. Mask the scores, before it."
)
AXIS = (
    "The softmax runs over {}. The weights with which one query reads the cache add up "
    "to 1: it runs over the S positions."
)

task_3_8.asks(
    "each query weighs the cache up to its own position",
    case(
        torch.zeros(1, 1, 3, 2),
        torch.zeros(1, 1, 3, 2),
        [[[3.0, 0.0, 9, 9], [5.0, 2.0, 9, 9], [1.0, 4.0, 9, 9], [7.0, 2.0, 9, 9]]],
        DOWN,
        UP,
        [[False] * 4],
        note="three queries of zeros, so weights are equal. The first sees\n"
        "[3, 0] and [5, 2], whose mean is [4, 1]; the last sees all four",
    ),
    otherwise="The T queries are the newest of S positions; each sees all keys up to "
    "its own place, and its weights add up to 1.",
    mistakes={
        "softmax(dim=-1) => softmax(dim=-2).nan_to_num()": AXIS.format("the queries"),
        "softmax(dim=-1) => softmax(dim=1).nan_to_num()": AXIS.format("the heads"),
        "softmax(dim=-1) => softmax(dim=0).nan_to_num()": AXIS.format("the texts"),
        "softmax(dim=-1) => flatten(2).softmax(dim=-1).view_as(scores)": AXIS.format(
            "all queries of a head together"
        ),
        "scores.masked_fill(banned, -torch.inf).softmax(dim=-1) => "
        "scores.softmax(dim=-1).masked_fill(banned, 0.0)": AFTERWARDS,
        "scores.masked_fill(banned, -torch.inf) => scores": "There is no mask: neither "
        "the future nor padding is hidden.",
        "banned = future | => banned = ": "A query sees positions that come after its "
        "own: where T are read at once, they need a mask.",
        "triu(S - T + 1) => triu(1)": PREFIX,
        "triu(S - T + 1) => triu(S - T + 2)": "A query sees one position "
        "of its future.",
        "triu(S - T + 1) => triu(S - T).logical_and(torch.arange(S) > 0)": "A query "
        "does not see its own position. What it read itself is in the cache already.",
        "triu(S - T + 1) => tril(S - T - 1)": "The mask is the wrong way round: the "
        "past is hidden, and the future is seen.",
    },
)

SCALED = "(q_nope.shape[-1] + q_rope.shape[-1]) => "

task_3_8.asks(
    "scores are those of the expanded form, under its one root",
    case(
        [[[[1.0, 2.0]]]],
        [[[[3.0, 0.0]]]],
        [[[1.0, 1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 1.0, 0.0]]],
        [[[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]],
        [[[1.0, 0.0, 0.0]]],
        [[False, False]],
        note="the query comes down as [2, 1, 0]: content scores 3 and 1,\n"
        "rotary scores 0 and 3; the values are 1 and 0, so the result\n"
        "is the first weight",
    ),
    drawn(lambda g: draw(g, B=1, H=2, T=1, P=3, nope=7, latent=7)),
    otherwise="A score is the query, carried down by w_uk, times the latent, plus the "
    "rotary query times the rotary key, all divided once.",
    mistakes={
        f"{SCALED}query.shape[-1]": "This was divided by the root of the latent's "
        "width. The query became longer on its way down, the score did not change: "
        "the root is of nope + rope.",
        f"{SCALED}latent": "This was divided by the root of the latent's width. The "
        "query became longer on its way down, the score did not change: the root is "
        "of nope + rope.",
        f"{SCALED}q_nope.shape[-1]": "This was divided by the root of the content's "
        "width alone. Both parts are one score: the root is of nope + rope.",
        "scores = scores * (q_nope.shape[-1] + q_rope.shape[-1]) ** -0.5 => pass": (
            "There is no scale: the score is divided by the root of nope + rope."
        ),
        "[down, q_rope] => [q_rope, down]": "The query's parts stand the wrong way "
        "round: in a row of the memory the latent comes first, then the rotary key.",
        "[down, q_rope] => [down, 0 * q_rope]": "The rotary part is missing, so that "
        "nobody knows where a key stands. It joins the query behind its latent part.",
        "[down, q_rope] => [0 * down, q_rope]": "The content part is missing.",
        "query = torch.cat([down, q_rope], dim=-1) => query = torch.cat([down * "
        "(q_nope.shape[-1] + q_rope.shape[-1]) ** 0.5 / q_nope.shape[-1] ** 0.5, "
        "q_rope * (q_nope.shape[-1] + q_rope.shape[-1]) ** 0.5 / q_rope.shape[-1] ** "
        "0.5], dim=-1)": "Each part has a root of its own. They are one score.",
        "bhtn,hnc->bhtc => bhtn,hcn->bhtc": "w_uk was used "
        "the wrong way round: the query's nope numbers meet its rows.",
        "q_nope, w_uk) => q_nope, w_uv)": "The query was carried down by "
        "w_uv, the values' matrix. Keys have w_uk.",
    },
)
