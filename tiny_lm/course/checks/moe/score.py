"""Task 2.1: how well each expert suits each token, and which suit it best.

Chapter: 02_moe/conditional_computation
Source: deepseek_v3, eqs. 14, 15
"""

import math

import torch
import torch.nn.functional as F
from einops import einsum
from jaxtyping import Float, Int
from torch import Generator, Tensor

from tiny_lm.course.checks.case import Case, case, drawn, family
from tiny_lm.course.checks.moe.choices import EXPERTS, TIES, expert_ids
from tiny_lm.course.checks.task import Task


def score_and_choose(
    x: Float[Tensor, "N D"], centroids: Float[Tensor, "E D"], top_k: int
) -> tuple[Float[Tensor, "N E"], Int[Tensor, "N k"]]:
    """A score in (0, 1) for each token and expert, and the best experts, best first."""
    dots = x @ centroids.T
    scores = torch.sigmoid(dots)
    experts = scores.topk(top_k, dim=-1).indices
    return scores, experts


def _view(result: tuple, x: Tensor, centroids: Tensor, top_k: int) -> dict:
    """The scores, and whom they chose; of equals the first stands for all."""
    scores, experts = result
    good = torch.sigmoid(x @ centroids.T).detach()
    ids = expert_ids(experts, good.shape[-1])
    equals = good.unsqueeze(-2) == good.gather(-1, ids).unsqueeze(-1)
    return {"scores": scores, EXPERTS: equals.int().argmax(dim=-1)}


task_2_1 = Task(
    id="2.1",
    lab="02_moe",
    title="Scores, and the best k",
    name="score_and_choose",
    piece="moe.score_and_choose",
    difficulty=1,
    minutes=8,
    points=2,
    reference=score_and_choose,
    returns=("scores", "experts"),
    view=_view,
    errors={
        "cannot be multiplied": "Two shapes do not fit. x has a row for each token, "
        "centroids a row for each expert, both of width D; a product sums over the "
        "last dim of the first matrix and the first dim of the second.",
        "index k out of range": "topk looked along a dim that holds fewer than top_k "
        "numbers. Each token chooses among the experts: which dim is theirs?",
    },
    hints=(
        """
        A centroid points to where in space the tokens lie that its expert suits. Which
        operation says how far two vectors point the same way, and does so for every
        token with every centroid at once?
        """,
        """
        One matrix product gives all dot products, "N D, E D -> N E". The sigmoid makes
        each of them a score between 0 and 1, for itself. tensor.topk finds the largest
        in each row and gives values and indices; the indices are the experts.
        """,
        """
        x @ centroids.T holds the dot products, torch.sigmoid(…) makes them scores.
        scores.topk(top_k, dim=-1).indices are the ids, best first. Return the scores
        of all experts, not of the chosen alone, and then the ids.
        """,
    ),
)

ONE = "One expert for each token. Wanted are the k best."


def _shapes(generator: Generator) -> tuple:
    x = torch.randn(3, 4, generator=generator)
    return x, torch.randn(6, 4, generator=generator), 4


task_2_1.asks(
    "a score for each token and expert, k experts for each token",
    drawn(_shapes, note="3 tokens, 6 experts, both 4 wide"),
    only=(),
    mistakes={
        "x @ centroids.T => (x @ centroids.T).T": "The scores lie on their side: rows "
        "are tokens, columns experts.",
        "return scores, => return scores.gather(-1, experts),": "These are the scores "
        "of the chosen. Later tasks need all of them.",
        ".topk(top_k, dim=-1).indices => .argsort(-1, descending=True)": "All experts, "
        "in order. Only the first k of each row are chosen.",
        ".topk(top_k, dim=-1).indices => .argmax(-1)": ONE,
        ".topk(top_k, dim=-1).indices => .argmax(-1, keepdim=True)": ONE,
    },
)

LOG3 = math.log(3)
COMPETE = (
    "This is a softmax: a row sums to 1, so one expert gains only what another loses. "
    "DeepSeek-V3 scores each expert by itself, with a sigmoid."
)

task_2_1.asks(
    "each score is the sigmoid of its own dot product",
    case(
        [[1.0, 1.0], [2.0, 0.0]],
        [[LOG3, 0.0], [1.0, -1.0], [0.0, -LOG3]],
        2,
        note="dot products of the first token: log 3, 0 and -log 3;\n"
        "sigmoid(log 3) = 3 / (3 + 1)",
    ),
    only=("scores",),
    otherwise="A score is the sigmoid of one dot product, of the token with one "
    "centroid, and nothing else is done to either.",
    mistakes={
        "torch.sigmoid(dots) => dots.softmax(-1)": COMPETE,
        "torch.sigmoid(dots) => (dots / x.shape[-1]**0.5).softmax(-1)": COMPETE,
        "torch.sigmoid(dots) => dots.softmax(0)": "This is a softmax over the tokens. "
        "DeepSeek-V3 scores each token and expert by itself, with a sigmoid.",
        "return scores, => return scores / scores.sum(-1, keepdim=True),": "The scores "
        "of a row were divided by their sum. A score speaks of one expert alone; "
        "shares are made later, and of the chosen only.",
        "torch.sigmoid(dots) => F.logsigmoid(dots)": "These are the logarithms of the "
        "scores.",
        "torch.sigmoid(dots) => dots.exp()": "This is exp of the dot products, which "
        "has no upper end.",
        "torch.sigmoid(dots) => 1 / (1 + dots.exp())": "This is 1 / (1 + exp(x)). "
        "Which sign has the x of a sigmoid?",
        "torch.sigmoid(dots) => torch.sigmoid(dots / x.shape[-1]**0.5)": "The dot "
        "products were divided by the root of the width, as attention does. The router "
        "does not.",
        "torch.sigmoid(dots) => torch.sigmoid("
        "F.normalize(x, dim=-1) @ F.normalize(centroids, dim=-1).T)": "The vectors "
        "were brought to length 1 first. The router takes them as they are: a longer "
        "centroid is a surer expert.",
        "torch.sigmoid(dots) => "
        "torch.sigmoid(x.bfloat16() @ centroids.bfloat16().T).to(x.dtype)": (
            "These were computed in bfloat16, where close scores become equal. Routers "
            "work in full precision, whatever the rest of the model does."
        ),
        "return scores, => return torch.zeros_like(scores)"
        ".scatter(-1, experts, scores.gather(-1, experts)),": "The scores of those "
        "that were not chosen are gone. Later tasks need all of them.",
        "torch.sigmoid(dots) => torch.sigmoid(-torch.cdist(x, centroids))": "This is "
        "made of distances. A score is made of the dot product.",
    },
)

task_2_1.asks(
    "a very good and a very bad match have scores near 1 and 0, not NaN",
    case([[100.0], [1.0]], [[3.0], [-3.0], [0.5]], 1, note="dot products up to 300"),
    only=("scores",),
    mistakes={
        "torch.sigmoid(dots) => dots.exp() / (1 + dots.exp())": "exp of 89 and more "
        "is infinite in float32, and infinite / infinite is NaN. torch.sigmoid, or "
        "1 / (1 + exp(-x)), holds for every x.",
        "torch.sigmoid(dots) => torch.sigmoid(dots.clamp(-5, 5))": "The dot products "
        "were cut off: beyond some size all matches look the same.",
    },
)

COLUMN = case(
    [[1.0], [-1.0]],
    [[math.log(3)], [math.log(1 / 3)], [math.log(9)], [0.0]],
    2,
    note="scores [[0.75, 0.25, 0.9, 0.5], [0.25, 0.75, 0.1, 0.5]]",
)

task_2_1.asks(
    "a token chooses the experts of its highest scores, best first",
    COLUMN,
    only=(EXPERTS,),
    otherwise="In each token's own row of scores the k highest are chosen, from "
    "the highest down. Who is left out, or comes in between?",
    mistakes={
        ".topk(top_k, dim=-1).indices => .argsort(dim=-1)[:, -top_k:]": "The right "
        "experts, the best of them last. Best first is what is wanted.",
        "return scores, experts => return scores, experts.sort(dim=-1).values": "The "
        "right experts, ordered by number. Best first is what is wanted.",
        ".topk(top_k, dim=-1).indices => .argsort(dim=-1)[:, :top_k]": "These are the "
        "experts with the lowest scores. Was the sorting upwards?",
        "return scores, experts => return scores, experts[:1].expand_as(experts)": (
            "All tokens got the choice of the first. Each chooses for itself."
        ),
        "scores.topk(top_k, dim=-1) => dots.abs().topk(top_k, dim=-1)": "The size of "
        "the dot product was compared, without its sign. A very bad match is no good "
        "one.",
    },
)

task_2_1.asks(
    "k different experts, even where scores are equal",
    case(torch.zeros(3, 4), [[1.0, 0.0, 0.0, 0.0]] * 6, 4, note="all scores are 0.5"),
    mistakes={"scores.topk(top_k, dim=-1).indices => struck_out(scores, top_k)": TIES},
)


def _draw(generator: Generator, N: int, E: int, D: int, k: int) -> tuple:
    x = 2 * torch.randn(N, D, generator=generator)
    return x, torch.randn(E, D, generator=generator) / 4, k


def _slopes(generator: Generator) -> tuple:
    return _draw(generator, N=5, E=5, D=4, k=2)


CUT = (
    "This router could not learn: its gradient comes through the scores. Did "
    ".detach(), torch.no_grad(), .data or .item() cut the way?"
)

task_2_1.asks(
    "a gradient flows back through the scores to x and the centroids",
    Case(_slopes, slopes=("x", "centroids")),
    mistakes={
        "torch.sigmoid(dots) => torch.sigmoid(dots.detach())": CUT,
    },
)

task_2_1.asks(
    "equals the definition on 200 random tokens, in float32 and float64",
    family(_draw, {"N": 200, "E": 12, "D": 16, "k": 4}, ones=["N", "k"], double=True),
)


@task_2_1.accepts
def named_dims_and_a_sort(tokens, directions, k):
    affinity = einsum(tokens, directions, "token width, expert width -> token expert")
    scores = 1 / (1 + (-affinity).exp())
    order = affinity.sort(dim=-1, descending=True).indices
    return scores, order[..., :k]


@task_2_1.accepts
def loop_over_tokens(x, centroids, top_k):
    scores = torch.stack([(centroids @ token).sigmoid() for token in x])
    best = [
        sorted(range(len(row)), key=lambda e, row=row: -row[e].item())[:top_k]
        for row in scores
    ]
    return scores, torch.tensor(best)


@task_2_1.accepts
def chosen_by_score(x, centroids, top_k):
    scores = F.linear(x, centroids).sigmoid()
    left, experts = scores.detach().clone(), []
    for _ in range(top_k):
        best = left.argmax(dim=-1, keepdim=True)
        experts.append(best)
        left = left.scatter(-1, best, -1.0)
    return scores, torch.cat(experts, dim=-1)
