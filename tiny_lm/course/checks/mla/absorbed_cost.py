"""Task 3.8, continued: padding, exactness, and what may not be made.

Chapter: 03_mla/absorption
Source: deepseek_v2, section 2.1.2
"""

import torch
from torch import Generator

from tiny_lm.course.checks.answer import Answer
from tiny_lm.course.checks.case import Case, drawn, family, in_double, probe
from tiny_lm.course.checks.mla.absorbed import AFTERWARDS, SIZES, draw, task_3_8
from tiny_lm.course.checks.work import Work


def padded(generator: Generator) -> tuple:
    """Three texts of 4, 3 and 5 tokens, padded on the left."""
    *rest, hidden = draw(generator, B=3, H=2, T=1, P=4, nope=4, latent=5)
    hidden[0, :1] = hidden[1, :2] = True
    return *rest, hidden


SEEN = (
    "Padding is attended to. Where `hidden` is True, no query may look: its score "
    "becomes -inf before the softmax."
)

task_3_8.asks(
    "nobody attends to padding",
    drawn(padded, note="texts of 4, 3 and 5 tokens, padded on the left"),
    otherwise=SEEN,
    mistakes={
        "future | hidden[:, None, None, :] => future": SEEN,
        "future | hidden[:, None, None, :] => future | hidden[:1, None, None, :]": (
            "All texts got the padding of the first. Each has its own."
        ),
        "future | hidden[:, None, None, :] => future | hidden.any(0)": "What is "
        "padding in one text was hidden in all of them.",
        "future | hidden[:, None, None, :] => future ;; softmax(dim=-1) => "
        "softmax(dim=-1) * ~hidden[:, None, None, :]": AFTERWARDS,
        "query = torch.cat => memory = memory.masked_fill(hidden.unsqueeze(-1), 0.0)\n"
        "    query = torch.cat ;; future | hidden[:, None, None, :] => future": (
            "Padding was set to zeros in the memory. Zeros have a score, too, 0, and "
            "take their share of the softmax: mask the scores."
        ),
        "-torch.inf => -10.0": "Some of what is hidden gets through: the number that "
        "masks a score must be lower than any score. -inf is.",
        "masked_fill(banned, -torch.inf) => masked_fill(future, -torch.inf)"
        ".masked_fill(hidden[:, None, None, :], 0.0)": "A score of 0 is not a ban, "
        "only a score. -inf is one.",
    },
)


def _double(generator: Generator) -> tuple:
    return draw(generator, **SIZES | {"P": 60})


task_3_8.asks(
    "equals the expanded form: to 1e-5, and in float64 to 1e-10",
    family(draw, SIZES, ["B", "H", "T", "nope", "latent"]),
    in_double(Case(_double), 1e-10),
    tolerance=1e-5,
    mistakes={
        "** -0.5 => ** -0.5 * 1.00002": "The scale is not exact.",
        "scores.masked_fill => scores.float().masked_fill ;; softmax(dim=-1) => "
        "softmax(dim=-1).to(memory.dtype)": "The inputs are float64 here, and the "
        "scores were cut to float32 on the way.",
    },
)

LONG = 512  # keys, where the absorbed form of one query is a small part of expanding
FORMS = (
    (1.3, "those of queries, scores and mixtures"),
    (1e9, "more than that, and more with every latent"),
)


@probe(f"one query of 4 heads and a cache of {LONG} latents")
def work(answer: Answer, generator: Generator) -> dict[str, str]:
    arguments = draw(generator, B=1, H=4, T=1, P=LONG - 1, nope=16, latent=24)
    with Work() as counted:
        answer(*arguments)
    fair = 2 * 4 * (24 * (16 + 5) + LONG * (24 + 4 + 24))
    words = next(told for limit, told in FORMS if counted.flops <= limit * fair)
    copies = counted.largest > 1.1 * 4 * LONG * (24 + 4)
    return {
        "products:": words,
        "largest tensor:": "wider than a latent, for each head" if copies else "fair",
        "_flops": f"{counted.flops // (2 * 4 * LONG)} a head and latent",
    }


cheap = task_3_8.asks("no head's keys or values are made", work)


def weights_of(scores, hidden):
    """A softmax over the positions that each of the newest T may see."""
    T, S = scores.shape[-2:]
    banned = torch.ones(T, S).triu(S - T + 1).bool() | hidden[:, None, None]
    return scores.masked_fill(banned, -torch.inf).softmax(-1)


def joint(content, q_nope, q_rope, memory):
    """Scores from their content part, the rotary part added."""
    keys = memory[:, None, :, -q_rope.shape[-1] :].mT
    return (content + q_rope @ keys) / (q_nope.shape[-1] + q_rope.shape[-1]) ** 0.5


@cheap.mistake(
    "These are the right numbers by the long way: keys and values were made for every "
    "head and every latent. Carry the query down instead, and the mixture up."
)
def expanded(q_nope, q_rope, memory, w_uk, w_uv, hidden):
    latent = memory[:, None, :, : w_uk.shape[-1]]
    keys, values = latent @ w_uk.mT, latent @ w_uv.mT
    scores = joint(q_nope @ keys.mT, q_nope, q_rope, memory)
    return weights_of(scores, hidden) @ values


@cheap.mistake(
    "The value side was forgotten: the scores are taken in the latent space, and then "
    "a value is made of every latent. Mix the latents first, and bring up one mixture."
)
def values_expanded(q_nope, q_rope, memory, w_uk, w_uv, hidden):
    latent = memory[:, None, :, : w_uk.shape[-1]]
    scores = joint((q_nope @ w_uk) @ latent.mT, q_nope, q_rope, memory)
    return weights_of(scores, hidden) @ (latent @ w_uv.mT)


@cheap.mistake(
    "The key side was forgotten: a key is made of every latent, for every head. Carry "
    "the query down to the latents, once."
)
def keys_expanded(q_nope, q_rope, memory, w_uk, w_uv, hidden):
    latent = memory[:, None, :, : w_uk.shape[-1]]
    scores = joint(q_nope @ (latent @ w_uk.mT).mT, q_nope, q_rope, memory)
    return (weights_of(scores, hidden) @ latent) @ w_uv.mT
