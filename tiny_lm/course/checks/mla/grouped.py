"""Task 3.3: queries that share keys and values, with a past and with padding.

Chapter: 03_mla/memory_of_the_context
Source: gqa; attention, eq. 1
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Generator, Tensor

from tiny_lm.course.checks.case import case, drawn
from tiny_lm.course.checks.task import Task


def grouped_attention(
    q: Float[Tensor, "B H T qk"],
    k: Float[Tensor, "B G S qk"],
    v: Float[Tensor, "B G S v"],
    hidden: Bool[Tensor, "B S"],
) -> Float[Tensor, "B H T v"]:
    """The newest T positions attend to all S; H / G query heads share a key head."""
    sharers = q.shape[1] // k.shape[1]
    k = k.repeat_interleave(sharers, dim=1)
    v = v.repeat_interleave(sharers, dim=1)
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    T, S = scores.shape[-2:]
    future = torch.ones(T, S, dtype=torch.bool).triu(S - T + 1)
    closed = future | hidden[:, None, None, :]
    lowest = torch.finfo(scores.dtype).min
    weights = scores.masked_fill(closed, lowest).softmax(dim=-1)
    return weights @ v


Y, BLIND = "y", "at queries that see nothing:"


def seen(y: Tensor, q: Tensor, k: Tensor, v: Tensor, hidden: Tensor) -> dict:
    """What is compared: where a query sees nothing, any finite numbers will do."""
    T, S = q.shape[-2], k.shape[-2]
    open_to = torch.ones(T, S, dtype=torch.bool).tril(S - T) & ~hidden[:, None, :]
    blind = ~open_to.any(-1)[:, None, :, None]
    numbers = y.detach().masked_select(blind)
    told = "finite numbers" if numbers.isfinite().all() else "NaN or infinite ones"
    return {Y: y.masked_fill(blind, 0.0), BLIND: told}


UNFIT = (
    "Two shapes do not fit. Each query head needs its key-value head beside it, and "
    "`hidden`, (B, S), stands beside scores of the shape (B, H, T, S): look at the "
    "shapes just before this line."
)

task_3_3 = Task(
    id="3.3",
    lab="03_mla",
    title="Grouped queries",
    name="grouped_attention",
    piece="mla.grouped_attention",
    difficulty=3,
    minutes=30,
    points=4,
    reference=grouped_attention,
    returns=(Y,),
    view=seen,
    errors={
        "must match the size": UNFIT,
        "Expected size for first two": UNFIT,
        "cannot be multiplied": UNFIT,
    },
    hints=(
        """
        This is the attention of lab 1 with three more questions. Which key-value head
        does query head h read? At which position does query t stand, if all S keys are
        there and the queries are the last T? Which keys may nobody see?
        """,
        """
        k.repeat_interleave(H // G, dim=1) lays each key-value head beside all of its
        query heads, and v likewise. In the table of scores, T rows and S columns, the
        last row belongs to the last column: what is banned begins S - T + 1 right of
        the diagonal. hidden[:, None, None, :] bans columns. A large negative number
        for what is banned, finite, keeps a row without any open key free of NaN.
        """,
        """
        future = torch.ones(T, S, dtype=torch.bool).triu(S - T + 1)
        closed = future | hidden[:, None, None, :]
        scores.masked_fill(closed, torch.finfo(scores.dtype).min) goes into a softmax
        over the keys, the last dim. Scores are divided by q.shape[-1] ** 0.5.
        """,
    ),
)


def draw(generator: Generator, **n: int) -> tuple:
    """H = share · G query heads; the first positions of every second text hidden."""
    B, G, T, S = n["B"], n["G"], n["T"], n["T"] + n["before"]
    q = torch.randn(B, G * n["share"], T, n["qk"], generator=generator)
    k = torch.randn(B, G, S, n["qk"], generator=generator)
    v = torch.randn(B, G, S, n["v"], generator=generator)
    hidden = torch.zeros(B, S, dtype=torch.bool)
    hidden[1::2, : S // 3] = True
    return q, k, v, hidden


SIZES = {"B": 3, "G": 2, "share": 3, "T": 5, "before": 4, "qk": 4, "v": 6}


def _one(generator: Generator) -> tuple:
    return draw(generator, **SIZES)


task_3_3.asks(
    "each query gets a row as wide as a value, (B, H, T, v)",
    drawn(_one),
    only=(),
    mistakes={
        "return weights @ v => return weights": "These are the weights. The values "
        "are still to be mixed with them.",
        "return weights @ v => return (weights @ v).transpose(1, 2)": "Heads and "
        "positions have changed places: heads stay in front, as in q.",
        "return weights @ v => return (weights @ v).transpose(1, 2).flatten(2)": "The "
        "heads were laid side by side. Here they stay apart, as in q.",
        "weights @ v => weights @ k": "The keys were mixed. The values are.",
        "    v = v.repeat_interleave(sharers, dim=1)\n => ": UNFIT,
        "k.transpose(-1, -2) => k": UNFIT,
        "hidden[:, None, None, :] => hidden": UNFIT,
    },
)


def column(*numbers: float) -> list:
    """One sequence, one head, one number a position."""
    return [[[[number] for number in numbers]]]


def unhidden(positions: int) -> Tensor:
    return torch.zeros(1, positions, dtype=torch.bool)


task_3_3.asks(
    "with equal scores, a query averages the values up to its own position",
    case(*[column(0.0, 0.0, 0.0)] * 2, column(3.0, 9.0, 0.0), unhidden(3)),
    only=(Y,),
    otherwise="The weights of a query are one softmax over the keys up to its own. "
    "Does anything else change them, before or after?",
    mistakes={
        "future | hidden => hidden": "Every query sees all values, those behind it "
        "included. Where is the causal mask?",
        "future | hidden => future | ~hidden": "The text was hidden and the padding "
        "seen: `hidden` is True where nobody may look.",
        "future | hidden => future & hidden": "A key is banned if it lies ahead or if "
        "it is padding: one of the two is enough, and `&` asks for both.",
        "closed, lowest => closed, 0.0": "A score of 0 is not a ban: the softmax gives "
        "it a weight like any other. What is banned gets a score far below all others.",
        "triu(S - T + 1) => triu(S - T)": "A query may see its own position: here the "
        "mask is one step too strict.",
        "triu(S - T + 1) => triu(S - T + 2)": "A query sees the position behind its "
        "own.",
        "triu(S - T + 1) => triu(T)": "The mask begins T right of the diagonal. Query "
        "t stands at position S - T + t.",
        "triu(S - T + 1) => tril(S - T - 1)": "The mask is the wrong way round: the "
        "past is banned, and what comes after is seen. triu or tril?",
        "masked_fill(closed, lowest).softmax(dim=-1) => "
        "masked_fill(closed, lowest).softmax(dim=-2)": "The softmax runs over the "
        "queries. For each query, the weights of its keys add up to 1: keys are the "
        "last dim.",
        "masked_fill(closed, lowest).softmax(dim=-1) => "
        "masked_fill(closed, lowest).softmax(dim=1)": "The softmax runs over the "
        "heads. For each query, the weights of its keys add up to 1: keys are the last "
        "dim.",
        "masked_fill(closed, lowest).softmax(dim=-1) => "
        "masked_fill(closed, lowest).sigmoid()": "A sigmoid looks at each score by "
        "itself, so the weights do not add up to 1. A softmax over the keys does it.",
        "masked_fill(closed, lowest).softmax(dim=-1) => "
        "softmax(dim=-1).masked_fill(closed, 0.0)": "The weights of what is left do "
        "not add up to 1: mask before the softmax, not after it.",
        "masked_fill(closed, lowest) => masked_fill(~closed, lowest)": "The mask is "
        "upside down: it bans what may be seen. True marks what is filled.",
    },
)

task_3_3.asks(
    "queries are the newest positions: the last one sees all keys",
    case(column(0.0), column(0.0, 0.0, 0.0), column(3.0, 9.0, 0.0), unhidden(3)),
    case(
        column(0.0, 0.0),
        column(0.0, 0.0, 0.0, 0.0),
        column(3.0, 9.0, 0.0, 4.0),
        unhidden(4),
        note="the two queries stand at positions 2 and 3",
    ),
    only=(Y,),
    mistakes={
        "triu(S - T + 1) => triu(1)": "Query t was taken for position t, so the newest "
        "tokens see only the oldest. The queries are the last T of S: query t stands "
        "at position S - T + t. (`is_causal=True` of torch counts from the start.)",
    },
)


def _row(*numbers: float) -> list:
    """Positions whose first of four columns holds these numbers."""
    return [[[[number, 0.0, 0.0, 0.0] for number in numbers]]]


task_3_3.asks(
    "scores are divided by the square root of the width of a query",
    case(
        _row(2.0),
        _row(math.log(3), 0.0),
        column(1.0, 5.0),
        unhidden(2),
        note="queries of width 4: [2, 0, 0, 0] meets [log 3, 0, 0, 0] and zeros,\n"
        "so the weights are 3 : 1, the values 1 and 5",
    ),
    only=(Y,),
    mistakes={
        " / q.shape[-1] ** 0.5 => ": "This is what comes out without a division by the "
        "square root of the width.",
        "q.shape[-1] ** 0.5 => q.shape[-1]": "This was divided by the width, not by "
        "its square root.",
        "q.shape[-1] ** 0.5 => v.shape[-1] ** 0.5": "This was divided by the root of a "
        "value's width. The products of queries and keys are what is scaled.",
        "q.shape[-1] ** 0.5 => k.shape[-2] ** 0.5": "This was divided by the square "
        "root of the number of keys. The width of a query counts.",
        "q.shape[-1] ** 0.5 => q.shape[1] ** 0.5": "This was divided by the square "
        "root of the number of heads. The width of a query counts.",
        "-1, -2) / q => -1, -2) * q": "This was multiplied by the square root. Divide.",
    },
)
