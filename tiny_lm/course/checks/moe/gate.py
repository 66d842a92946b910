"""Task 2.2: who is chosen, by biased scores, and how much each counts, by raw ones.

Chapter: 02_moe/balance
Source: deepseek_v3, eqs. 13, 15, 16
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiny_lm.course.checks.answer import Answer
from tiny_lm.course.checks.expect import Mismatch, close, recognise, shape, show
from tiny_lm.course.checks.moe.choices import (
    Shares,
    alike,
    expert_ids,
    same_rows,
    shares_of,
    told,
    two_tensors,
)
from tiny_lm.course.checks.moe.gate_words import (
    BELOW,
    CUT,
    ERRORS,
    EVERYBODYS,
    NEGATIVE,
    OF_OTHERS,
    OTHERS,
    OVER_ALL,
    OVER_TOKENS,
    RULE,
    SOFTMAX,
    UNDIVIDED,
    WEIGHED,
)
from tiny_lm.course.checks.task import Task


def gate(
    scores: Float[Tensor, "N E"],
    bias: Float[Tensor, " E"],
    top_k: int,
    route_scale: float,
) -> tuple[Float[Tensor, "N k"], Int[Tensor, "N k"]]:
    """Experts chosen by biased score, weights from the raw scores of the chosen."""
    experts = (scores + bias).topk(top_k, dim=-1).indices
    chosen = scores.gather(-1, experts)
    return route_scale * chosen / chosen.sum(dim=-1, keepdim=True), experts


task_2_2 = Task(
    id="2.2",
    lab="02_moe",
    title="The gate",
    name="gate",
    piece="moe.gate",
    difficulty=2,
    minutes=12,
    points=3,
    reference=gate,
    errors=ERRORS,
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

PAIR = "weights (N, k), experts (N, k)"
Case = tuple[Tensor, Tensor, int, float]


def _answer(
    answer: Answer, on: str, scores: Tensor, bias: Tensor, top_k: int, scale: float
) -> tuple[Tensor, Tensor]:
    """Weights and experts of the answer, of the right shape, the ids being ids."""
    weights, experts = two_tensors(answer, PAIR, scores, bias, top_k, scale)
    wanted, every = (len(scores), top_k), shape(scores)
    got = (shape(weights), shape(experts))
    if got != (wanted, wanted):
        because = "A weight for each expert there is." * (got[0] == every)
        because = "These are all experts." * (got[1] == every) or because
        because += " Wanted are the top_k of each token." * bool(because)
        because = EVERYBODYS if got[0] == (len(scores), *wanted) else because
        found = f"shapes {got[0]} and {got[1]}"
        raise Mismatch(on, f"both of shape {wanted}", found, because)
    return weights, expert_ids(experts, scores.shape[-1], on)


def _expect(
    answer: Answer, on: str, case: Case, wanted: Shares, known: list[tuple[Shares, str]]
) -> None:
    """Refuse other pairs of expert and weight; in which order they stand is free."""
    weights, experts = _answer(answer, on, *case)
    got = shares_of(weights, experts)
    if not alike(got, wanted):
        because = next((say for shares, say in known if alike(got, shares)), "")
        raise Mismatch(on, told(wanted), told(got), because)


@task_2_2.property("a weight is the score's share in the sum over the chosen")
def normalised(answer: Answer) -> None:
    scores = torch.tensor([[0.6, 0.3, 0.9, 0.2], [0.1, 0.4, 0.2, 0.6]])
    _answer(answer, "scores of shape (2, 4), top_k 3", scores, torch.zeros(4), 3, 1.0)
    soft, ids = scores.softmax(-1), torch.tensor([[2, 0], [3, 1]])
    _expect(
        answer,
        "scores = [[0.6, 0.3, 0.9, 0.2], [0.1, 0.4, 0.2, 0.6]],\n"
        "bias = zeros(4), top_k 2, route_scale 1",
        (scores, torch.zeros(4), 2, 1.0),
        [{0: 0.4, 2: 0.6}, {1: 0.4, 3: 0.6}],
        known=[
            ([{0: 0.6, 2: 0.9}, {1: 0.4, 3: 0.6}], UNDIVIDED),
            ([{0: 0.3, 2: 0.45}, {1: 0.4 / 1.3, 3: 0.6 / 1.3}], OVER_ALL),
            ([{0: 0.24, 2: 0.36}, {1: 0.16, 3: 0.24}], OVER_TOKENS),
            ([{0: 0.6, 2: 0.4}, {1: 0.6, 3: 0.4}], OTHERS),
            (
                [{0: 0.5, 2: 0.5}, {1: 0.5, 3: 0.5}],
                "All weigh the same, whatever their scores.",
            ),
            (shares_of(soft.gather(-1, ids), ids), SOFTMAX),
            (shares_of(scores.gather(-1, ids).softmax(-1), ids), SOFTMAX),
        ],
    )


def _expect_choice(
    answer: Answer,
    wanted: set[int],
    scores: Tensor,
    bias: Tensor,
    known: list[tuple[set[int], str]],
) -> None:
    on = f"scores = {show(scores)}, bias = {show(bias)}, top_k 2\n"
    on += f"so scores + bias = {show(scores + bias)}"
    _, experts = _answer(answer, on, scores, bias, 2, 1.0)
    got = set(experts[0].tolist())
    if got != wanted:
        because = next((say for ids, say in known if ids == got), "")
        raise Mismatch(on, f"experts {_ids(wanted)}", f"experts {_ids(got)}", because)


def _ids(experts: set[int]) -> str:
    return " and ".join(str(e) for e in sorted(experts))


LIFTED = torch.tensor([[0.6, 0.3, 0.9, 0.1, 0.5]])  # expert 3 overtakes expert 0
LIFT = torch.tensor([0.0, 0.0, 0.0, 0.7, -0.3])


@task_2_2.property("the k experts with the largest score + bias are chosen")
def bias_chooses(answer: Answer) -> None:
    unheard = "These have the highest scores. The bias was not asked."
    opposite = "The bias was subtracted: a raised one has to make an expert likelier."
    both = [({0, 2}, unheard), ({2, 4}, opposite)]
    _expect_choice(answer, {2, 3}, LIFTED, LIFT, both)
    _expect_choice(
        answer,
        {1, 3},
        torch.tensor([[0.6, 0.2, 0.9, 0.3]]),
        torch.tensor([-3.0, -1.0, -3.0, -1.0]),
        [({0, 2}, unheard), ({0, 1}, NEGATIVE), ({2, 3}, NEGATIVE)],
    )


@task_2_2.property("the bias steers who is chosen, never how much they count")
def bias_weighs_nothing(answer: Answer) -> None:
    _expect(
        answer,
        f"scores = {show(LIFTED)}, bias = {show(LIFT)},\n"
        "top_k 2, route_scale 1; experts 2 and 3 are chosen, with raw scores 0.9, 0.1",
        (LIFTED, LIFT, 2, 1.0),
        [{2: 0.9, 3: 0.1}],
        known=[
            ([{2: 0.9 / 1.7, 3: 0.8 / 1.7}], WEIGHED),
            ([{2: 0.9, 3: 0.8}], WEIGHED),
            (
                [{2: 0.9 / 1.7, 3: 0.1 / 1.7}],
                "The sum that divides still holds the bias.",
            ),
            ([{2: 0.6, 3: 0.4}], OF_OTHERS),
            ([{2: 0.6, 3: 0.9}], OF_OTHERS),
        ],
    )


@task_2_2.property("at the end, all weights are multiplied by route_scale")
def scaled(answer: Answer) -> None:
    _expect(
        answer,
        "scores = [[0.6, 0.3, 0.9, 0.2]], bias = zeros(4), top_k 2, route_scale 2.5",
        (torch.tensor([[0.6, 0.3, 0.9, 0.2]]), torch.zeros(4), 2, 2.5),
        [{0: 1.0, 2: 1.5}],
        known=[
            (
                [{0: 0.4, 2: 0.6}],
                "These are right for a scale of 1. Was route_scale forgotten, or "
                "multiplied in before the division, where it cancels?",
            ),
            ([{0: 0.16, 2: 0.24}], "This was divided by route_scale."),
            ([{0: 2.5, 2: 3.75}], "The scale came twice."),
        ],
    )


@task_2_2.property("the weights hand a gradient to the scores, and none to the bias")
def learns(answer: Answer) -> None:
    scores = torch.rand(6, 8, generator=answer.generator).requires_grad_()
    bias = torch.randn(8, generator=answer.generator).requires_grad_()
    pull = torch.randn(6, 8, generator=answer.generator)
    on = "random scores (6, 8) that want a gradient, a random bias, top_k 3"
    weights, experts = _answer(answer, on, scores, bias, 3, 2.0)
    if not weights.requires_grad:
        raise Mismatch(
            on, "weights that know where they come from", "bare numbers", CUT
        )
    loss = (weights * pull.gather(-1, experts)).sum()
    got, to_bias = torch.autograd.grad(loss, (scores, bias), allow_unused=True)
    chosen = scores.gather(-1, experts)
    pulls = 2 * pull.gather(-1, experts)
    share = chosen / chosen.sum(-1, keepdim=True)
    (wanted,) = torch.autograd.grad((share * pulls).sum(), scores)
    half = pulls / chosen.detach().sum(-1, keepdim=True)
    half = torch.zeros_like(pull).scatter(-1, experts, half)
    if to_bias is not None and not close(to_bias, torch.zeros(8), 1e-6):
        raise Mismatch(on, "no gradient for the bias", show(to_bias), RULE)
    got = torch.zeros_like(pull) if got is None else got
    if not close(got, wanted):
        because = recognise(got, [(half, BELOW), (torch.zeros_like(pull), CUT)])
        rows = (f"{show(x[0])} for token 0" for x in (wanted, got))
        raise Mismatch(on, *rows, because)


@task_2_2.property("equals the definition on 300 random tokens, ties included")
def equals_definition(answer: Answer) -> None:
    for dtype in (torch.float32, torch.float64):
        scores = torch.rand(300, 16, generator=answer.generator).to(dtype)
        scores[:100] = (5 * scores[:100]).ceil() / 5  # many equal ones
        for size in (0.0, 0.2, 3.0):
            bias = size * torch.randn(16, generator=answer.generator).to(dtype)
            on = f"random scores (300, 16), top_k 4, route_scale 2.5, {dtype};\n"
            on += f"normal bias, times {show(size)}"
            _agrees(answer, scores, bias, on)


def _agrees(answer: Answer, scores: Tensor, bias: Tensor, on: str) -> None:
    """The best by score + bias, whichever of equals, with the weights due to them."""
    weights, experts = _answer(answer, on, scores, bias, 4, 2.5)
    best = (scores + bias).topk(4).values
    chosen = (scores + bias).gather(-1, experts).sort(-1, descending=True).values
    same_rows(f"{on}\nbiased scores of the chosen", best, chosen)
    raw = scores.gather(-1, experts)
    wanted = 2.5 * raw / raw.sum(-1, keepdim=True)
    same_rows(f"{on}\nweights", wanted, weights)
