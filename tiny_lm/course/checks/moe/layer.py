"""Task 2.8: the whole layer of experts, put together from its pieces.

Chapter: 02_moe/balance
Source: deepseek_v3, eqs. 12-20
"""

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from tiny_lm.course.checks.case import Case, case
from tiny_lm.course.checks.moe.experts import run_experts
from tiny_lm.course.checks.moe.groups import limit_groups
from tiny_lm.course.checks.moe.sequence import sequence_loss
from tiny_lm.course.checks.task import Task


def moe_layer(
    x: Float[Tensor, "B T D"],
    centroids: Float[Tensor, "E D"],
    bias: Float[Tensor, " E"],
    gate_up: Float[Tensor, "E F2 D"],
    down: Float[Tensor, "E D F"],
    top_k: int,
    num_groups: int,
    top_groups: int,
    route_scale: float,
) -> tuple[Float[Tensor, "B T D"], Int[Tensor, "B T k"], Float[Tensor, ""]]:
    """The routed experts' answer to each token, who they were, and the balance loss."""
    tokens = x.flatten(0, 1)
    scores = torch.sigmoid(tokens @ centroids.T)
    ban = limit_groups(scores + bias, num_groups, top_groups, top_k // top_groups)
    choice = scores + bias + ban
    experts = choice.topk(top_k).indices
    chosen = scores.gather(-1, experts)
    weights = chosen / chosen.sum(-1, keepdim=True)
    y = run_experts(tokens, experts, weights * route_scale, gate_up, down)
    y = y.view_as(x)
    rows, ids = scores.unflatten(0, x.shape[:2]), experts.unflatten(0, x.shape[:2])
    balance = sequence_loss(rows, ids)
    return y, ids, balance


IDS = "experts, by number:"


def _view(result: tuple, *arguments: object) -> dict:
    """The result, the ids of a token in whatever order."""
    y, ids, balance = result
    return {"y": y, IDS: ids.sort(-1).values, "balance": balance}


FLAT = (
    "All but sequence_loss take the tokens of all sequences end to end, (N, …): "
    "x.flatten(0, 1). sequence_loss wants (B, T, E) and (B, T, k): .unflatten(0, "
    "x.shape[:2]) cuts the tokens into sequences again."
)
FEW = f"A piece got a tensor with too few dims. {FLAT}"

task_2_8 = Task(
    id="2.8",
    lab="02_moe",
    title="The layer",
    name="moe_layer",
    piece="moe.moe_layer",
    difficulty=3,
    minutes=47,
    points=4,
    reference=moe_layer,
    returns=("y", "experts", "balance"),
    view=_view,
    errors={
        "not enough values to unpack": FEW,
        "too many values to unpack": f"Too many dims. {FLAT}",
        "must match the size": f"Two pieces do not fit. {FLAT}",
        "Dimension out of range": FEW,
    },
    hints=(
        """
        You have all of it. Lay the tokens of all sequences end to end, score, limit,
        gate, run, and cut them into sequences again. Who of your functions does which?
        """,
        """
        limit_groups(scores + bias, …) says what to add so that nobody forbidden is
        chosen. The gate adds a bias before it chooses: give it the bias and the ban,
        added up. sequence_loss gets the plain scores, and scores and experts as
        (B, T, …).
        """,
        """
        ban = limit_groups(scores + bias, num_groups, top_groups, top_k // top_groups)
        gate(scores, bias + ban, top_k, route_scale) gives weights and experts; then
        run_experts(tokens, experts, weights, gate_up, down).view_as(x), and
        scores.unflatten(0, x.shape[:2]) for the loss, the experts likewise.
        """,
    ),
)


def _random(
    generator: Generator, B: int, T: int, E: int, k: int, groups: tuple, scale: float
) -> tuple:
    """Tokens and parameters, with biases that matter."""

    def draw(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=generator)

    parameters = 0.5 * draw(E, 8), 0.5 * draw(E) - 0.5, draw(E, 8, 8), draw(E, 8, 4)
    return draw(B, T, 8), *parameters, k, *groups, scale


def _of(*sizes: object, note: str = "", slopes: tuple[str, ...] = ()) -> Case:
    return Case(lambda g: _random(g, *sizes), note, slopes)


UNWEIGHED = "What the experts say was added up without weights."
APART = "The tokens lie end to end: cut them into B sequences of T again."

task_2_8.asks(
    "y is shaped like x, experts are (B, T, k) ids, balance a scalar",
    _of(2, 3, 8, 4, (4, 2), 1.0, note="2 sequences of 3 tokens, 8 experts"),
    only=(),
    mistakes={
        "y = y.view_as(x) => y = y": APART,
        "return y, ids, balance => return y, experts, balance": APART,
        "return y, ids, balance => return y, choice.topk(top_k).values.unflatten("
        "0, x.shape[:2]), balance": "The second result are the scores of the chosen. "
        "Wanted are their numbers.",
    },
)

# One token, [1, 0, 0, 0]: its scores are sigmoids of the centroids' first column, and
# expert e says VALUES[e], for silu(20) is 20 to eight digits.
VALUES = torch.tensor([4.0, 8.0, 16.0, 40.0])


def _hand(scores: list, bias: list, groups: tuple[int, int], scale: float, note: str):
    x, centroids = torch.zeros(1, 1, 4), torch.zeros(4, 4)
    gate_up, down = torch.zeros(4, 8, 4), torch.zeros(4, 4, 4)
    x[..., 0], centroids[:, 0] = 1.0, torch.logit(torch.tensor(scores))
    gate_up[:, 0, 0], gate_up[:, 4, 0], down[:, 0, 0] = 20.0, VALUES / 20, 1.0
    note = f"one token whose experts answer [4], [8], [16], [40];\n{note}"
    return case(x, centroids, bias, gate_up, down, 2, *groups, scale, note=note)


task_2_8.asks(
    "y adds up what the k experts say, weighed by their scores",
    _hand(
        [0.75, 0.5, 0.25, 0.2],
        [0.0] * 4,
        (1, 1),
        2.0,
        "scores [0.75, 0.5, 0.25, 0.2], no bias, one group",
    ),
    only=("y",),
    otherwise="y is the sum of the chosen experts' answers, each times its score "
    "over the sum of the chosen scores, times route_scale.",
    mistakes={
        "chosen / chosen.sum(-1, keepdim=True) => chosen": "These are the scores as "
        "weights. The gate divides them by their sum over the chosen.",
        "chosen.sum(-1 => scores.sum(-1": "The weights were divided by the sum over "
        "all scores, not over those of the chosen.",
        "weights * route_scale => torch.ones_like(weights) * route_scale": UNWEIGHED,
        "weights * route_scale => torch.ones_like(weights)": UNWEIGHED,
        "chosen / chosen.sum(-1, keepdim=True) => chosen.logit().softmax(-1)": "Here a "
        "softmax made the weights. The scores are sigmoids, divided by their sum over "
        "the chosen.",
    },
)

task_2_8.asks(
    "the bias chooses the experts and weighs nothing",
    _hand(
        [0.75, 0.5, 0.25, 0.2],
        [0.0, 0.0, 0.4, 0.0],
        (1, 1),
        1.0,
        "scores [0.75, 0.5, 0.25, 0.2]: experts 0 and 2 are chosen",
    ),
    only=("y",),
    otherwise="The bias is added to the scores, after the sigmoid, to choose; the "
    "weights hold none of it.",
    mistakes={
        "(scores + bias, num => (scores, num ;; choice = scores + bias + ban => "
        "choice = scores + ban": "The bias had no say. `score_and_choose` does not "
        "know it; `gate` does.",
        "choice = scores + bias + ban => choice = 2 * scores + bias + ban": "The "
        "scores came in twice: `gate` adds them to what it is handed, so that is the "
        "bias and the ban alone.",
        "choice = scores + bias + ban => choice = scores + ban": "The bias had no say "
        "in the choice of experts, only in that of groups.",
        "scores.gather(-1, experts) => (scores + bias).gather(-1, experts)": "The "
        "right experts, but the bias got into the weights: an expert that is raised to "
        "get more work must not shout louder for it.",
    },
)

ZERO = (
    "A forbidden expert answered. Biased scores can be negative, so a forbidden one "
    "needs -inf; 0 would be the best of them."
)
BY_HAND = [0.75, 0.25, 0.6, 0.5]

task_2_8.asks(
    "only experts of the best groups are chosen",
    _hand(
        BY_HAND,
        [0.0] * 4,
        (2, 1),
        1.0,
        "2 groups of which 1 stays: 0.75 + 0.25 against 0.6 + 0.5",
    ),
    _hand(
        BY_HAND,
        [0.0, -3.35, 0.1, -8.5],
        (2, 1),
        1.0,
        "scores + bias [0.75, -3.1, 0.7, -8], 2 groups of which 1 stays",
    ),
    only=("y",),
    otherwise="The groups of the largest sums stay open, limit_groups rules out "
    "all others, and the gate chooses by score + bias + ban.",
    mistakes={
        "bias + ban => bias + ban.clamp(min=-2)": "A forbidden "
        "expert answered: what is added to it is no -inf. Scores may lie far apart.",
        "bias + ban => bias": "Experts of both groups answered. What `limit_groups` "
        "forbids must never be chosen.",
        "top_k // top_groups) => 1)": "The group with the best single score stayed. A "
        "group is as good as the sum of its top_k / top_groups best.",
        "limit_groups(scores + bias, => limit_groups(scores,": "The groups were "
        "compared by the raw scores. It is the biased ones that choose, groups as "
        "well.",
        "choice = scores + bias + ban => choice = (scores + bias) * ban.exp()": ZERO,
        "choice = scores + bias + ban => choice = scores * ban.exp() + bias": ZERO,
    },
)

task_2_8.asks(
    "balance is the sequence-wise loss of what was really chosen",
    _of(3, 5, 8, 2, (4, 2), 1.0, note="3 random sequences of 5 tokens"),
    only=("balance",),
    otherwise="The loss is sequence_loss of the plain scores and the chosen ids, "
    "cut into (B, T, …), and nothing is done to it afterwards.",
    mistakes={
        "sequence_loss(rows, ids) => "
        "sequence_loss(rows + ban.unflatten(0, x.shape[:2]), ids)": "The balance loss "
        "was given scores with -inf in them, and divides by their sum. It wants the "
        "scores as they are.",
        "sequence_loss(rows, ids) => sequence_loss(scores[None], experts[None])": "All "
        "sequences were counted as one. Each is counted by itself: sequence_loss wants "
        "(B, T, E) and (B, T, k).",
        "sequence_loss(rows, ids) => sequence_loss(rows, rows.topk(top_k).indices)": (
            "The loss counted the experts with the best scores. Hand it those that "
            "the gate chose."
        ),
        "sequence_loss(rows, ids) => "
        "sequence_loss(rows.transpose(0, 1), ids.transpose(0, 1))": "The loss got (T, "
        "B, …), in which a row is one position of all sequences. B comes first.",
        "sequence_loss(rows, ids) => sequence_loss(rows + bias, ids)": "The biased "
        "scores went into the loss. Its shares are of the raw ones.",
        "choice = scores + bias + ban => choice = scores + 2 * bias + ban": "The bias "
        "was added twice: `gate` adds it, so what it is handed holds the bias once.",
        "tokens = x.flatten(0, 1) => tokens = x.transpose(0, 1).flatten(0, 1)": "The "
        "tokens are mixed up between sequences: B comes first, then T.",
        "sequence_loss(rows, ids) => sequence_loss(rows, ids) * 1e-4": "The loss is "
        "too small: it was multiplied by its weight.",
    },
)

PER_GROUP = "Groups were judged by another number of scores: it is top_k // top_groups."

task_2_8.asks(
    "equals tiny_lm's own layer on random tokens",
    _of(3, 40, 8, 2, (1, 1), 2.5),
    _of(3, 40, 16, 4, (4, 2), 2.5),
    _of(3, 40, 12, 3, (4, 3), 2.5),
    _of(1, 1, 8, 1, (1, 1), 2.5, note="one token, one expert"),
    tolerance=1e-3,
    otherwise="Each token is scored, sent and answered by itself, and what comes "
    "back stands at its own place in (B, T).",
    mistakes={
        "top_k // top_groups) => min(top_k, len(bias) // num_groups))": PER_GROUP,
        "top_k // top_groups) => min(2, len(bias) // num_groups))": PER_GROUP,
        "return y, ids, balance => return y, rows.topk(top_k).indices, balance": "The "
        "ids are those of the highest scores. Return those that the gate chose.",
        "y = y.view_as(x) => "
        "y = y.view(x.shape[1], len(x), -1).transpose(0, 1).contiguous()": "The tokens "
        "are mixed up between sequences: B comes first, then T.",
    },
)

task_2_8.asks(
    "all parameters learn, and the bias gets no gradient",
    _of(2, 6, 8, 2, (4, 2), 1.5, slopes=("bias", "down", "gate_up", "centroids", "x")),
    mistakes={
        "y = y.view_as(x) => y = y.view_as(x) * (1 + (bias - bias.detach()).sum())": (
            "The bias may decide who is chosen and stand in nothing else: a loss would "
            "move it, and update_bias alone does that."
        ),
    },
)
