"""Task 2.2: who is chosen, by biased scores, and how much each counts, by raw ones.

Chapter: 02_moe/balance
Source: deepseek_v3, eqs. 13, 15, 16
"""

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from tiny_lm.course.checks.case import Case, case, drawn, family
from tiny_lm.course.checks.moe.choices import EXPERTS, GATHER, TIES, by_token
from tiny_lm.course.checks.task import Task


def gate(
    scores: Float[Tensor, "N E"],
    bias: Float[Tensor, "*N E"],
    top_k: int,
    route_scale: float,
) -> tuple[Float[Tensor, "N k"], Int[Tensor, "N k"]]:
    """Experts chosen by biased score, weights from the raw scores of the chosen."""
    experts = (scores + bias).topk(top_k, dim=-1).indices
    chosen = scores.gather(-1, experts)
    weights = chosen / chosen.sum(dim=-1, keepdim=True)
    return weights * route_scale, experts


task_2_2 = Task(
    id="2.2",
    lab="02_moe",
    title="The gate",
    name="gate",
    piece="moe.gate",
    difficulty=2,
    minutes=16,
    points=3,
    reference=gate,
    returns=("weights", "experts"),
    view=lambda result, scores, bias, *rest: by_token(*result, scores + bias),
    errors=GATHER,
    hints=(
        """
        Two questions, two sets of numbers. Who is chosen? The bias has a say. How much
        does each of the chosen count? It has none.
        """,
        """
        topk on the biased scores, of which you keep the indices alone. At these
        indices, gather reads the raw scores. Divide them by their sum, token by token,
        and only then multiply by route_scale: before the division it would cancel.
        """,
        """
        The ids are (scores + bias).topk(top_k, dim=-1).indices. With them,
        scores.gather(-1, …) is a tensor of shape (N, k), in which no bias is left.
        Its sum(dim=-1, keepdim=True) has shape (N, 1), ready for the division.
        """,
    ),
)

SOFTMAX = (
    "A softmax was used to make weights. The scores have been through their sigmoid; "
    "now each is divided by the plain sum."
)
MULTIPLIED = "The bias was multiplied in. It is added to the score."
OTHERS = "Each expert got the other's weight: the two results must keep one order."

task_2_2.asks(
    "a weight is the score's share in the sum over the chosen",
    case([[0.6, 0.3, 0.9, 0.2], [0.1, 0.4, 0.2, 0.6]], [0.0] * 4, 2, 1.0),
    otherwise="A weight is one chosen score divided by the sum of the token's "
    "chosen scores. What else is done to it?",
    mistakes={
        "chosen / chosen.sum(dim=-1, keepdim=True) => chosen": "These are the raw "
        "scores. The weights of one token add up to 1 here.",
        "chosen.sum(dim=-1 => scores.sum(dim=-1": "The scores were divided by the sum "
        "over all experts, so the weights of the chosen do not add up to 1. Whose sum "
        "is it?",
        "scores.gather(-1, experts) => scores[experts]": "scores[experts] takes the "
        "ids for numbers of rows, that is, of tokens. To read entries inside each row, "
        "there is gather.",
        "scores.gather(-1, experts) => scores[:, experts]": "scores[:, experts] reads "
        "the ids of all tokens in the row of each. There is one row of ids for each "
        "token: gather reads each row by its own.",
        "chosen / chosen.sum(dim=-1, keepdim=True) => chosen.softmax(-1)": SOFTMAX,
        "scores.gather(-1, experts) => scores.softmax(-1).gather(-1, experts)": SOFTMAX,
        "chosen / chosen.sum(dim=-1, keepdim=True) => "
        "scores.softmax(-1).gather(-1, experts)": SOFTMAX,
        "weights * route_scale => weights.sort(-1).values * route_scale": OTHERS,
        "weights * route_scale => weights.flip(-1) * route_scale": OTHERS,
        "weights = chosen / chosen.sum(dim=-1, keepdim=True) => "
        "weights = torch.full_like(chosen, 1 / top_k)": "All weigh the same, whatever "
        "their scores.",
        "weights * route_scale => "
        "torch.zeros_like(scores).scatter(-1, experts, weights) * route_scale": "A "
        "weight for each expert there is. Wanted are those of the top_k of each token.",
        "dim=-1).indices => dim=-1).values ;; scores.gather(-1, experts) => experts": (
            "topk gives values and indices. The experts are the indices, the places "
            "where the values stood."
        ),
        "(scores + bias).topk => bias.expand_as(scores).topk": "The bias alone chose. "
        "It is added to the score of each token.",
        "topk(top_k, dim=-1) => topk(top_k, dim=0)": "The choice went along the "
        "tokens: each expert chose its best tokens. Each token chooses experts, along "
        "dim -1.",
    },
)

# Expert 3 overtakes expert 0; in the second all biased scores are negative.
LIFTED = case([[0.6, 0.3, 0.9, 0.1, 0.5]], [0.0, 0.0, 0.0, 0.7, -0.3], 2, 1.0)
BELOW_ZERO = case([[0.6, 0.2, 0.9, 0.3]], [-3.0, -1.0, -3.0, -1.0], 2, 1.0)

task_2_2.asks(
    "the k experts with the largest score + bias are chosen",
    LIFTED,
    BELOW_ZERO,
    only=(EXPERTS,),
    otherwise="The k largest of score + bias choose, with the bias as it comes "
    "and nobody added.",
    mistakes={
        "(scores + bias).topk => (scores * (1 + bias)).topk": MULTIPLIED,
        "(scores + bias).topk => scores.topk": "These have the highest scores. The "
        "bias was not asked.",
        "(scores + bias).topk => (scores - bias).topk": "The bias was subtracted: a "
        "raised one has to make an expert likelier.",
        "(scores + bias).topk => (scores + bias).clamp(min=0).topk": "All biased "
        "scores are negative here. Is one of them compared with a 0, or cut off at it?",
    },
)

WEIGHED = (
    "The bias got into the weights: an expert counts as if it suited the token. It was "
    "only to be chosen more often. Which scores does topk give back as values?"
)

task_2_2.asks(
    "the bias steers who is chosen, never how much they count",
    LIFTED,
    BELOW_ZERO,
    otherwise="The weights are made of the raw scores of the chosen, and of "
    "nothing in which the bias stands.",
    mistakes={
        "scores.gather => (scores + bias).gather": WEIGHED,
        "weights * route_scale => weights * route_scale "
        "+ bias.expand_as(scores).gather(-1, experts)": WEIGHED,
        "chosen / chosen.sum => chosen / (scores + bias).gather(-1, experts).sum": (
            "The sum that divides still holds the bias."
        ),
        "scores.gather(-1, experts) => scores.topk(top_k).values": "These are the "
        "highest raw scores, whoever was chosen. Read the raw scores of those that "
        "were chosen.",
    },
)

task_2_2.asks(
    "at the end, all weights are multiplied by route_scale",
    case([[0.6, 0.3, 0.9, 0.2]], [0.0] * 4, 2, 2.5),
    case([[0.5, 0.3]], [0.0] * 2, 1, 2.0),
    mistakes={
        " * route_scale => ": "These are right for a scale of 1. Was route_scale "
        "forgotten, or multiplied in before the division, where it cancels?",
    },
)


def _draw(generator: Generator, N: int, E: int, k: int) -> tuple:
    scores = torch.rand(N, E, generator=generator)
    return scores, torch.randn(E, generator=generator), k, 2.0


def _slopes(generator: Generator) -> tuple:
    return _draw(generator, N=6, E=8, k=3)


task_2_2.asks(
    "the weights hand a gradient to the scores, and none to the bias",
    Case(_slopes, slopes=("scores", "bias")),
    mistakes={
        "scores.gather => scores.detach().gather": "The router learns through these "
        "weights, and no gradient comes through. Did .detach(), torch.no_grad(), "
        ".data, .item() or numpy cut them from the scores?",
        "chosen / chosen.sum => chosen / chosen.detach().sum": "The sum that divides "
        "was detached. A weight depends on the scores of the other chosen experts too: "
        "they are in the sum.",
        "scores.gather(-1, experts) => "
        "(scores + bias).gather(-1, experts) - bias.detach()[experts]": "A loss would "
        "now move the bias. It is set by a rule, from the load alone: it must not "
        "stand in anything that is multiplied or added to a weight.",
    },
)


def _own_bias(generator: Generator) -> tuple:
    scores, _, k, scale = _draw(generator, N=6, E=8, k=3)
    return scores, torch.randn(6, 8, generator=generator), k, scale


task_2_2.asks(
    "a bias for each token and expert, (N, E), works as well",
    drawn(_own_bias, note="task 2.8 will hand over such a bias"),
    only=(EXPERTS,),
    otherwise="With (N, E), row t of the bias belongs to token t, and to no other.",
    mistakes={
        "(scores + bias) => (scores + bias.flatten()[: scores.shape[-1]])": "All "
        "tokens got the bias of the first. With (N, E) each has a row of its own.",
    },
)


def _ties(generator: Generator) -> tuple:
    scores = (5 * torch.rand(100, 16, generator=generator)).ceil() / 5
    return scores, torch.zeros(16), 4, 2.5


task_2_2.asks(
    "equals the definition on 300 random tokens, ties included",
    family(_draw, {"N": 300, "E": 16, "k": 4}, ones=["N", "k"], double=True),
    drawn(_ties, note="many scores are equal: whichever of them is right"),
    mistakes={
        "(scores + bias).topk(top_k, dim=-1).indices => "
        "struck_out(scores + bias, top_k)": TIES,
    },
)


@task_2_2.accepts
def loop_over_tokens(affinities, correction, k, scale):
    weights, experts = [], []
    for row, added in zip(affinities, correction.expand_as(affinities), strict=True):
        ranked = (row + added).sort(descending=True).indices[:k]
        experts.append(ranked)
        weights.append(row[ranked] * scale / row[ranked].sum())
    return torch.stack(weights), torch.stack(experts)


@task_2_2.accepts
def one_hot_mask(scores, bias, top_k, route_scale):
    chosen = (scores + bias).argsort(dim=-1, descending=True)[:, :top_k]
    mask = torch.nn.functional.one_hot(chosen, scores.shape[-1]).sum(1)
    gates = scores * mask / (scores * mask).sum(-1, keepdim=True)
    experts = mask.nonzero()[:, 1].view(-1, top_k)  # by number, not best first
    return gates.gather(-1, experts) * route_scale, experts


@task_2_2.accepts
def ordered_by_weight_in_float64(scores, bias, top_k, route_scale):
    experts = (scores.detach() + bias).topk(top_k, sorted=False).indices
    raw, order = scores.double().gather(-1, experts).sort(-1, descending=True)
    weights = raw / (raw.sum(-1, keepdim=True) + 1e-20)
    return weights.mul(route_scale), experts.gather(-1, order)
