"""Task 3.6: scores whose position travels in a narrow key that all heads share.

Chapter: 03_mla/latent_attention
Source: deepseek_v3, eqs. 3, 4, 8-10; roformer
"""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from tiny_lm.course.checks.case import case, drawn
from tiny_lm.course.checks.task import Task
from tiny_lm.layers import rotary_table, rotate


def decoupled_scores(
    q_nope: Float[Tensor, "B H T nope"],
    q_rope: Float[Tensor, "B H T rope"],
    k_nope: Float[Tensor, "B H S nope"],
    k_rope: Float[Tensor, "B S rope"],
    cos: Float[Tensor, "places half"],
    sin: Float[Tensor, "places half"],
) -> Float[Tensor, "B H T S"]:
    """What the newest T of S positions have to do with all of them, before a mask."""
    T, S = q_nope.shape[-2], k_nope.shape[-2]
    asking = slice(S - T, S)
    turned_q = rotate(q_rope, cos[asking], sin[asking])
    turned_k = rotate(k_rope, cos[:S], sin[:S])
    content = q_nope @ k_nope.transpose(-1, -2)
    position = turned_q @ turned_k.unsqueeze(1).transpose(-1, -2)
    width = q_nope.shape[-1] + q_rope.shape[-1]
    return (content + position) * width**-0.5


NO_HEADS = (
    "k_rope has no dim of heads. Without one, the products line its texts up with the "
    "heads, so that each head would get a rotary key of its own: another text's. "
    "unsqueeze(1) puts a dim of 1 there, and all heads share it."
)
UNFIT = (
    "Two shapes do not fit. cos and sin must be cut to the rows of the positions that "
    "turn, S - T to S - 1 for the queries and 0 to S - 1 for the keys; and k_rope "
    "needs a dim of 1 where the queries have their heads."
)

task_3_6 = Task(
    id="3.6",
    lab="03_mla",
    title="A rotary key for all heads",
    name="decoupled_scores",
    piece="mla.decoupled_scores",
    difficulty=2,
    minutes=25,
    points=4,
    reference=decoupled_scores,
    errors={"must match the size": UNFIT, "Expected size for first two": UNFIT},
    hints=(
        """
        Two scores are added up: one of the content parts, which are multiplied as they
        are, and one of the rotary parts, which are turned first. Which position does
        the first of the T queries stand at?
        """,
        """
        The queries stand at S - T, ..., S - 1, the keys at 0, ..., S - 1: cut cos and
        sin to these rows and hand them to rotate. The rotary key has no heads: give it
        a dim of 1 at their place, and `@` lets all heads read it. Add both products,
        then divide once, by the square root of both widths together.
        """,
        """
        rotate(q_rope, cos[S - T : S], sin[S - T : S]) turns the queries, and
        rotate(k_rope, cos[:S], sin[:S]).unsqueeze(1) is the key for all heads.
        q_nope @ k_nope.transpose(-1, -2), plus the same product of the turned parts,
        times (q_nope.shape[-1] + q_rope.shape[-1]) ** -0.5.
        """,
    ),
)


def draw(generator: Generator, B: int, H: int, T: int, P: int, nope: int, rope: int):
    """Random parts; T new positions behind P earlier ones, tables longer than both."""
    sizes = ((B, H, T, nope), (B, H, T, rope), (B, H, P + T, nope), (B, P + T, rope))
    parts = [torch.randn(*size, generator=generator) for size in sizes]
    return *parts, *(x.float() for x in rotary_table(rope, P + T + 3, 100.0))


BARE = "These are to be scores: a mask and a softmax come later."

task_3_6.asks(
    "a score for each head, query and key: (B, H, T, S)",
    drawn(lambda g: draw(g, B=2, H=3, T=4, P=3, nope=6, rope=6)),
    only=(),
    mistakes={
        "turned_k.unsqueeze(1).transpose => turned_k.transpose": NO_HEADS,
        "return (content + position) => return (content + position).sum(1)": "The "
        "scores of the heads were added up. Each head has its own.",
        "return (content + position) => "
        "return torch.cat([content, position], dim=-1)": "The two scores stand side by "
        "side, as if there were twice as many keys. A key has one score: their sum.",
        "return (content + position) * width**-0.5 => "
        "return ((content + position) * width**-0.5).transpose(-1, -2)": "Queries and "
        "keys have changed places: a row for each query, a column for each key.",
    },
)

PART = "Only one of the two parts was divided. Their sum is."
SCALES = (
    "Each part was divided by the root of its own width. They are one score, of one "
    "long query with one long key: add them first, then divide once."
)

task_3_6.asks(
    "content and position add up to one score, under one root",
    case(
        [[[[3.0, *[0.0] * 13]]]],
        [[[[1.0, 0.0]]]],
        [[[[4.0, *[0.0] * 13]]]],
        [[[4.0, 0.0]]],
        torch.ones(2, 1),
        torch.zeros(2, 1),
        note="one position, so nothing turns;\n"
        "content 3 · 4 (width 14), position 1 · 4 (width 2)",
    ),
    otherwise="Both products are added as they are, and the sum is divided once, by "
    "the root of both widths together.",
    mistakes={
        "(content + position) * width**-0.5 => content * q_nope.shape[-1] ** -0.5"
        " + position * q_rope.shape[-1] ** -0.5": SCALES,
        "width = q_nope.shape[-1] + q_rope.shape[-1] => width = q_nope.shape[-1]": (
            "This was divided by the root of the content's width. The rotary numbers "
            "are part of the same dot product: the widths are added up."
        ),
        "width = q_nope.shape[-1] + q_rope.shape[-1] => width = q_rope.shape[-1]": (
            "This was divided by the root of the rotary width alone. The widths of "
            "both parts are added up."
        ),
        "width**-0.5 => width**-1": "This was divided by the width, not by its root.",
        " * width**-0.5 => ": "There is no scale: one root, of both widths together, "
        "divides the sum.",
        "* width**-0.5 => * width**0.5": "This was multiplied by the root. Divide.",
        "width**-0.5 => (q_nope.shape[-1] ** 0.5 + q_rope.shape[-1] ** 0.5) ** -1": (
            "This was divided by the sum of two roots. Add the widths first."
        ),
        "(content + position) * width**-0.5 => content * width**-0.5 + position": PART,
        "(content + position) * width**-0.5 => content + position * width**-0.5": PART,
        "(content + position) => content": "The rotary part is missing: nothing in "
        "these scores knows where a key stands.",
        "(content + position) => position": "The content part is missing.",
        "(content + position) => (content * position)": "The two scores were "
        "multiplied. A dot product of long vectors is the sum of those of their parts.",
        "return (content + position) * width**-0.5 => "
        "return ((content + position) * width**-0.5).softmax(-1)": BARE,
    },
)

# A quarter turn for each position: the first rows of cos and sin, one pair.
COS, SIN = ([[float(x)] for x in row] for row in ([1, 0, -1, 0] * 2, [0, 1, 0, -1] * 2))
QUERIES = (
    "The queries were turned by positions from 0 on. They are the newest T of S: "
    "behind a prefix the first of them stands at S - T."
)
AFTER = (
    "The last rows of cos and sin are not the last positions: the tables are longer."
)
BOTH_TURN = (
    "Only one of the two was turned. A score knows the distance if query and key both "
    "turn, each by its own position: then what they share cancels."
)
TWICE = "This turned twice, by double its angle. Each part turns once."

places = task_3_6.asks(
    "query and key each turn by their own position",
    case(
        torch.zeros(1, 1, 1, 2),
        [[[[2.0, 0.0]]]],
        torch.zeros(1, 1, 4, 2),
        [[[1.0, 1.0]] * 4],
        COS,
        SIN,
        note="a quarter turn for each position; one query, at position 3,\n"
        "meets the same key at distances 3, 2, 1 and 0",
    ),
    case(
        torch.zeros(1, 1, 3, 2),
        [[[[2.0, 0.0]] * 3]],
        torch.zeros(1, 1, 3, 2),
        [[[1.0, 1.0]] * 3],
        COS,
        SIN,
        note="the same with three queries, at positions 0, 1 and 2",
    ),
    otherwise="A rotary score depends on the distance of the two positions alone. "
    "Which rows of cos and sin does each side get, and how often?",
    mistakes={
        "slice(S - T, S) => slice(0, T)": QUERIES,
        "slice(S - T, S) => slice(S - T + 1, S + 1)": "The queries were turned one "
        "position too far: of S positions the last is S - 1.",
        "slice(S - T, S) => slice(-T, None)": AFTER,
        "cos[:S], sin[:S] => cos[-S:], sin[-S:]": AFTER,
        "slice(S - T, S) => [S - 1] * T": "All queries were turned by the last "
        "position. Each has its own.",
        "rotate(q_rope, cos[asking], sin[asking]) => q_rope": BOTH_TURN,
        "rotate(k_rope, cos[:S], sin[:S]) => k_rope": BOTH_TURN,
        "rotate(q_rope, cos[asking], sin[asking]) => q_rope ;; "
        "rotate(k_rope, cos[:S], sin[:S]) => k_rope": "Neither part was turned, so "
        "that a key scores alike wherever it stands.",
        "turned_k = rotate(k_rope, => "
        "turned_k = rotate(rotate(k_rope, cos[:S], sin[:S]),": TWICE,
        "turned_q = rotate(q_rope, => "
        "turned_q = rotate(rotate(q_rope, cos[asking], sin[asking]),": TWICE,
        "turned_q = rotate(q_rope, => "
        "turned_q = rotate(rotate(q_rope, cos[asking], sin[asking]), ;; "
        "turned_k = rotate(k_rope, => "
        "turned_k = rotate(rotate(k_rope, cos[:S], sin[:S]),": TWICE,
        "cos[:S], sin[:S] => cos[[S - 1] * S], sin[[S - 1] * S]": "All keys were "
        "turned by the last position. Each has its own, so that distance shows.",
        "sin[asking]) => -sin[asking]) ;; sin[:S]) => -sin[:S])": "Everything turned "
        "the other way round: a pair (x, y) becomes (x cos - y sin, x sin + y cos).",
        "sin[asking]) => -sin[asking])": "Query and key turned in opposite directions, "
        "so that positions are added up where their distance is wanted.",
        "sin[:S]) => -sin[:S])": "Query and key turned in opposite directions, so that "
        "positions are added up where their distance is wanted.",
        "cos[:S], sin[:S] => cos[1 : S + 1], sin[1 : S + 1]": "The keys were turned "
        "one position too far: the first of them stands at 0.",
        "return (content + position) * width**-0.5 => return ((content + position) * "
        "width**-0.5).masked_fill(torch.ones(T, S).triu(S - T + 1) > 0, -torch.inf)": (
            BARE
        ),
        "return (content + position) * width**-0.5 => return ((content + position) * "
        "width**-0.5).tril(S - T)": BARE,
    },
)
