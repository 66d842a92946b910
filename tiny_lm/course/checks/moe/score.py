"""Task 2.1: how well each expert suits each token, and which suit it best.

Chapter: 02_moe/conditional_computation
Source: deepseek_v3, eqs. 14, 15
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiny_lm.course.checks.before.answer import Answer
from tiny_lm.course.checks.before.choices import expert_ids, two_tensors
from tiny_lm.course.checks.before.expect import Mismatch, close, expect, shape, show
from tiny_lm.course.checks.before.task import Task


def score_and_choose(
    x: Float[Tensor, "N D"], centroids: Float[Tensor, "E D"], top_k: int
) -> tuple[Float[Tensor, "N E"], Int[Tensor, "N k"]]:
    """A score in (0, 1) for each token and expert, and the best experts, best first."""
    scores = torch.sigmoid(x @ centroids.T)
    return scores, scores.topk(top_k, dim=-1).indices


UNFIT = (
    "Two shapes do not fit. x has a row for each token, centroids a row for each "
    "expert, both of width D; a product sums over the last dim of the first matrix "
    "and the first dim of the second."
)
WRONG_DIM = (
    "topk looked along a dim that holds fewer than top_k numbers. Each token chooses "
    "among the experts: which dim is theirs?"
)

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
    errors=(("cannot be multiplied", UNFIT), ("index k out of range", WRONG_DIM)),
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

PAIR = "scores (N, E), experts (N, k)"


@task_2_1.property("a score for each token and expert, k experts for each token")
def shapes(answer: Answer) -> None:
    x, centroids = torch.randn(3, 4), torch.randn(6, 4)
    scores, experts = two_tensors(answer, PAIR, x, centroids, 4)
    got = (shape(scores), shape(experts))
    known = {
        (6, 3): "The scores lie on their side: rows are tokens, columns experts.",
        (3, 4): "These are the scores of the chosen. Later tasks need all of them.",
        (4, 3): "The choice lies on its side: a row for each token.",
        (3, 6): "All experts, in order. Only the first k of each row are chosen.",
        (3,): "One expert for each token. Wanted are the k best.",
        (3, 1): "One expert for each token. Wanted are the k best.",
    }
    on = "x of shape (3, 4), centroids of shape (6, 4), top_k 4"
    if got != ((3, 6), (3, 4)):
        raise Mismatch(
            on,
            wanted="scores of shape (3, 6), experts of shape (3, 4)",
            got=f"shapes {got[0]} and {got[1]}",
            because=known.get(got[0] if got[0] != (3, 6) else got[1], ""),
        )
    expert_ids(experts, 6, on)


@task_2_1.property("each score is the sigmoid of its own dot product")
def sigmoid(answer: Answer) -> None:
    log3 = math.log(3)
    centroids = torch.tensor([[log3, 0.0], [1.0, -1.0], [0.0, -log3]])
    scores, _ = two_tensors(answer, PAIR, torch.ones(1, 2), centroids, 2)
    dot = torch.tensor([[log3, 0.0, -log3]])
    wanted = dot.sigmoid()
    lengths = math.sqrt(2) * centroids.norm(dim=-1)
    expect(
        scores,
        wanted,
        on="x = [[1, 1]], centroids = [[log 3, 0], [1, -1], [0, -log 3]], top_k 2\n"
        "so the dot products are log 3, 0 and -log 3; sigmoid(log 3) = 3 / (3 + 1)",
        known=[
            (dot, "These are the dot products. The sigmoid of each is missing."),
            (dot.softmax(-1), COMPETE),
            ((dot / math.sqrt(2)).softmax(-1), COMPETE),
            (torch.ones(1, 3), OVER_TOKENS),
            (wanted / wanted.sum(), SHARES),
            (wanted.softmax(-1), "A softmax came after the sigmoid: leave it out."),
            (wanted.log(), "These are the logarithms of the scores."),
            (dot.exp(), "This is exp of the dot products, which has no upper end."),
            (
                1 - wanted,
                "This is 1 / (1 + exp(x)). Which sign has the x of a sigmoid?",
            ),
            ((dot / math.sqrt(2)).sigmoid(), ROOT),
            ((dot / lengths).sigmoid(), UNIT),
        ],
        tolerance=5e-3,
    )


COMPETE = (
    "This is a softmax: a row sums to 1, so one expert gains only what another loses. "
    "DeepSeek-V3 scores each expert by itself, with a sigmoid."
)
SHARES = (
    "The scores of a row were divided by their sum. A score speaks of one expert "
    "alone; shares are made later, and of the chosen only."
)
OVER_TOKENS = (
    "This is a softmax over the tokens, of which there is only one. DeepSeek-V3 scores "
    "each token and expert by itself, with a sigmoid."
)
UNIT = (
    "The vectors were brought to length 1 first. The router takes them as they are: a "
    "longer centroid is a surer expert."
)
ROOT = (
    "The dot products were divided by the root of the width, as attention does. The "
    "router does not."
)


@task_2_1.property("a token chooses the experts of its highest scores, best first")
def best_first(answer: Answer) -> None:
    centroids = torch.tensor([3.0, 1 / 3, 9.0, 1.0]).log().view(4, 1)
    on = "scores [[0.75, 0.25, 0.9, 0.5], [0.25, 0.75, 0.1, 0.5]], top_k 2"
    x = torch.tensor([[1.0], [-1.0]])
    _, experts = two_tensors(answer, PAIR, x, centroids, 2)
    expect(
        expert_ids(experts, 4, on),
        torch.tensor([[2, 0], [1, 3]]),
        on=on,
        known=[
            (torch.tensor([[0, 2], [3, 1]]), LAST),
            (torch.tensor([[0, 2], [1, 3]]), "The right experts, ordered by number."),
            (torch.tensor([[1, 3], [2, 0]]), WORST),
            (torch.tensor([[3, 1], [0, 2]]), WORST),
            (
                torch.tensor([[2, 0], [2, 0]]),
                "Both tokens got the choice of the first. Each chooses for itself.",
            ),
        ],
    )


LAST = "The right experts, the best of them last. Best first is what is wanted."
WORST = "These are the experts with the lowest scores. Was the sorting upwards?"


@task_2_1.property("k different experts, even where scores are equal")
def different(answer: Answer) -> None:
    x, centroids = torch.zeros(3, 4), torch.randn(6, 4)
    _, experts = two_tensors(answer, PAIR, x, centroids, 4)
    on = "x = zeros(3, 4), so that all 6 scores are 0.5; top_k 4"
    expert_ids(experts, 6, on)


@task_2_1.property("a gradient flows back through the scores to x and the centroids")
def learns(answer: Answer) -> None:
    x, centroids, pull = torch.randn(3, 5, 4, generator=answer.generator)
    x.requires_grad_(), centroids.requires_grad_()
    scores, _ = two_tensors(answer, PAIR, x, centroids, 2)
    on = "random x and centroids of shape (5, 4) that want a gradient, top_k 2"
    if not scores.requires_grad:
        raise Mismatch(on, "scores that know where they come from", "bare numbers", CUT)
    pull = pull @ pull.T
    wanted = torch.autograd.grad(
        (score_and_choose(x, centroids, 2)[0] * pull).sum(), (x, centroids)
    )
    got = torch.autograd.grad((scores * pull).sum(), (x, centroids), allow_unused=True)
    for name, ours, theirs in zip(("x", "centroids"), wanted, got, strict=True):
        if theirs is None or not close(ours, theirs, 2e-2):
            told = "none" if theirs is None else show(theirs[0]) + " in row 0"
            raise Mismatch(on, f"{show(ours[0])} in row 0 for {name}", told, CUT)


CUT = (
    "This router could not learn: its gradient comes through the scores. Did "
    ".detach(), torch.no_grad(), .data or .item() cut the way?"
)


@task_2_1.property("equals the definition on 200 random tokens, in float32 and float64")
def equals_definition(answer: Answer) -> None:
    for dtype in (torch.float32, torch.float64):
        x = 2 * torch.randn(200, 16, generator=answer.generator).to(dtype)
        centroids = torch.randn(12, 16, generator=answer.generator).to(dtype) / 4
        wanted, _ = score_and_choose(x, centroids, 4)
        on = f"random x (200, 16), centroids (12, 16), top_k 4, {dtype}"
        scores, experts = two_tensors(answer, PAIR, x, centroids, 4)
        low = (x.bfloat16() @ centroids.bfloat16().T).sigmoid()
        expect(scores, wanted, on, known=[(low, LOW)])
        chosen = wanted.gather(-1, expert_ids(experts, 12, on))
        expect(chosen, wanted.topk(4).values, f"{on}\nscores of the chosen, in order")


LOW = (
    "These were computed in bfloat16, where close scores become equal. Routers work in "
    "full precision, whatever the rest of the model does."
)
