"""Task 2.7: the loss that wants every sequence spread over the experts.

Chapter: 02_moe/balance
Source: deepseek_v3, eqs. 17-20
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiny_lm import router
from tiny_lm.course.checks.before.answer import Answer
from tiny_lm.course.checks.before.expect import Mismatch, close, expect, show
from tiny_lm.course.checks.before.task import Task


def sequence_loss(
    scores: Float[Tensor, "B T E"], experts: Int[Tensor, "B T k"]
) -> Float[Tensor, ""]:
    """How uneven each sequence's routing is; 1 where it is spread evenly."""
    return router.sequence_loss(scores, experts)


CLASSES = (
    "The ids reach only as far as the largest that was chosen: `one_hot` needs "
    "`num_classes`, `bincount` its `minlength`. E stands in the shape of the scores."
)
KEEPDIM = (
    "The sum over the experts lost its dim, so that shares are of another token's sum: "
    "sum(-1, keepdim=True) stands in each token's own row."
)
CUT = (
    "The loss has lost its way back to the scores: no .detach(), .item() or "
    "torch.no_grad() around the shares."
)

task_2_7 = Task(
    id="2.7",
    lab="02_moe",
    title="The sequence-wise loss",
    name="sequence_loss",
    piece="moe.sequence_loss",
    difficulty=3,
    minutes=25,
    points=3,
    reference=sequence_loss,
    errors=(
        ("must match the size", f"{KEEPDIM} Or: {CLASSES[0].lower()}{CLASSES[1:]}"),
        ("subscript", CLASSES),
        (
            "could not infer output dtype",
            "torch takes no mean of whole numbers: turn the counts into floats.",
        ),
        (
            "1-d non-negative",
            "bincount counts one row of ids, and here each sequence has a count of its "
            "own. one_hot(experts, E) summed over T and k gives them all at once.",
        ),
        ("does not require grad", CUT),
    ),
    hints=(
        """
        Solve it for one sequence first. Two rows of E numbers: how often each expert
        was chosen, and what share of the scores it has on average. Multiply, add up.
        """,
        """
        f: counts of the chosen experts over the T tokens and their k choices, times
        E / (k T), so that even choices give 1 everywhere. P: divide each token's scores
        by their sum over the experts, then take the mean over T. The loss of a sequence
        is the sum of f P over experts; the result is the mean over sequences.
        """,
        """
        chosen = F.one_hot(experts, E).sum((1, 2)) is "B E".
        f = chosen * E / (k * T)
        P = (scores / scores.sum(-1, keepdim=True)).mean(1)
        (f * P).sum(-1) is a loss for each sequence; return its .mean().
        """,
    ),
)

# Rows whose shares are (4, 2, 1, 1) / 8 and (2, 4, 1, 1) / 8. The second adds up to
# half of the first, so that shares and scores have different means.
LIKES_0, LIKES_1 = (
    torch.tensor([0.8, 0.4, 0.2, 0.2]),
    torch.tensor([0.4, 0.8, 0.2, 0.2]),
)
SCORES = torch.stack([LIKES_0, LIKES_0 / 2, LIKES_1, LIKES_1])[None]
EXPERTS = torch.tensor([[[0, 1], [0, 1], [1, 0], [1, 3]]])
F_HAND = torch.tensor([1.5, 2.0, 0.0, 0.5])
P_HAND = torch.tensor([0.375, 0.375, 0.125, 0.125])
ON_HAND = (
    "one sequence of 4 tokens, 4 experts, 2 choices:\n"
    "scores  [.8 .4 .2 .2] [.4 .2 .1 .1] [.4 .8 .2 .2] [.4 .8 .2 .2]\n"
    "experts [0 1] [0 1] [1 0] [1 3]\n"
    f"f = {show(F_HAND)}, P = {show(P_HAND)}"
)
EVEN = (
    "The factor in front of the counts is off. Chosen evenly, each of the E experts is "
    "counted k T / E times, and f has to be 1 then."
)


@task_2_7.property("by hand: the sum over experts of f times P")
def by_hand(answer: Answer) -> None:
    mean_score = SCORES.mean(1)[0]
    wanted = float((F_HAND * P_HAND).sum())
    best = torch.tensor([2.0, 2.0, 0.0, 0.0])  # f of the two best raw scores
    softmax = SCORES.softmax(-1).mean(1)[0]
    known = [
        (wanted / 4, f"{EVEN} (Or the experts' terms were averaged, not added.)"),
        (wanted * 2, f"{EVEN} Each token makes k choices."),
        (wanted * 4, f"{EVEN} The counts of T tokens were not divided by T."),
        (wanted * 8, f"{EVEN} These counts were not divided at all."),
        (wanted * 2 / 4, EVEN),
        (wanted * 8 / 4, EVEN),
        (F_HAND * P_HAND, "These are the experts' terms: add them up."),
        (
            (F_HAND * mean_score).sum(),
            "P was taken from the scores as they are. Sigmoid scores do not add up to "
            "1: divide each token's by their sum, or the loss falls when all scores "
            "shrink.",
        ),
        (
            (F_HAND * mean_score).sum() / mean_score.sum(),
            "The scores were averaged first and divided by their sum afterwards, so "
            "tokens with large scores count more. Each token's own sum comes first.",
        ),
        (
            (F_HAND * (SCORES / SCORES.sum(-1)).mean(1)).sum(),
            KEEPDIM,
        ),
        (
            (best * P_HAND).sum(),
            "f counts the experts with the best scores. Those handed over count: "
            "bias and groups had a say in them.",
        ),
        (
            (F_HAND * softmax).sum(),
            "The scores went through a softmax. They are sigmoids already: a share is "
            "score / sum of scores.",
        ),
        (
            (F_HAND * F_HAND).sum() / 4,
            "This is f times f: nothing can be learnt from "
            "it, for a count has no gradient. The second factor is P.",
        ),
        ((P_HAND * P_HAND).sum() * 4, "This is P times P. f counts what was chosen."),
    ]
    expect(answer(SCORES, EXPERTS), wanted, on=ON_HAND, known=known, tolerance=1e-4)


@task_2_7.property("1 where choices and scores are spread evenly")
def one_when_even(answer: Answer) -> None:
    for num_experts, top_k in ((4, 1), (6, 3)):
        ids = torch.arange(3 * num_experts).view(1, -1, top_k) % num_experts
        scores = torch.full((1, ids.shape[1], num_experts), 0.5)
        expect(
            answer(scores, ids),
            1.0,
            on=f"all scores 0.5, {num_experts} experts chosen in turn, k = {top_k}",
            known=[(answer(scores, ids), EVEN)],
        )


@task_2_7.property("each sequence is counted by itself, and the mean is taken")
def per_sequence(answer: Answer) -> None:
    # Each sequence reads one expert alone; together they are balanced.
    scores = torch.tensor([[[0.9, 0.3]] * 2, [[0.3, 0.9]] * 2])
    experts = torch.tensor([[[0]] * 2, [[1]] * 2])
    expect(
        answer(scores, experts),
        1.5,
        on="two sequences of 2 tokens, 2 experts, 1 choice: the first has the scores\n"
        "[0.9, 0.3] and chooses expert 0, the second [0.3, 0.9] and expert 1",
        known=[
            (
                1.0,
                "The counts of both sequences were thrown together, and together they "
                "are even. Each sequence is counted by itself.",
            ),
            (3.0, "The sequences were added up: then a larger batch is a larger loss."),
            (0.75, "The counts were divided by the tokens of the whole batch."),
            ([1.5, 1.5], "This is a loss for each sequence: take the mean."),
        ],
    )


@task_2_7.property("an expert that nobody chose is in the sum, and adds nothing")
def nobody(answer: Answer) -> None:
    scores = torch.tensor([[[0.4, 0.2, 0.2]]])
    expect(
        answer(scores, torch.tensor([[[0]]])),
        1.5,
        on="one token, scores [0.4, 0.2, 0.2], experts [0]: f = [3, 0, 0]",
        known=[
            (0.5, "E is 3 here, the experts that exist, not those that were chosen."),
            (3.0, CLASSES),
        ],
    )


@task_2_7.property("the gradient comes through P alone, whole")
def gradient(answer: Answer) -> None:
    scores = SCORES.clone().requires_grad_()
    loss = answer(scores, EXPERTS)
    loss = torch.as_tensor(loss)
    if not loss.requires_grad:
        raise Mismatch(
            on=ON_HAND, wanted="a loss with a gradient", got="a number", because=CUT
        )
    (got,) = torch.autograd.grad(loss, scores)
    ours = SCORES.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(sequence_loss(ours, EXPERTS), ours)
    without_sum = F_HAND / SCORES.sum(-1, keepdim=True) / 4
    expect(
        got[0, 0],
        wanted[0, 0],
        on=f"{ON_HAND}\nthe gradient of the loss by the first token's scores",
        known=[
            (
                without_sum[0, 0],
                "The sum of the scores was detached, so that raising every score "
                "looks like a way to change the loss. Shares have to stay shares.",
            ),
            (torch.zeros(4), CUT),
        ],
    )
    if not close(got, wanted):
        raise Mismatch(on=ON_HAND, wanted=wanted[0], got=got[0])


@task_2_7.property("equals the definition on random sequences")
def equals_definition(answer: Answer) -> None:
    for B, T, E, k in ((3, 5, 8, 2), (2, 16, 4, 3)):
        scores = torch.rand(B, T, E, generator=answer.generator)
        noise = torch.rand(B, T, E, generator=answer.generator)
        experts = (scores + noise).topk(k).indices
        expect(
            answer(scores, experts),
            sequence_loss(scores, experts),
            on=f"{B} sequences of {T} tokens, {E} experts, {k} choices, "
            "not always the best",
        )
