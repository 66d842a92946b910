"""Task 2.4: every expert reads the tokens that chose it, all of them at once.

Chapter: 02_moe/conditional_computation
Source: deepseek_v3, eq. 12; swiglu
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tiny_lm.course.checks.before.answer import Answer
from tiny_lm.course.checks.before.expect import Mismatch, close, expect, shape, show
from tiny_lm.course.checks.before.task import Task
from tiny_lm.course.checks.moe import stacks
from tiny_lm.course.checks.moe.experts_words import (
    CUT,
    ERRORS,
    INPUT_WEIGHED,
    INTERLEAVED,
    OTHER_COLUMN,
    OTHER_WEIGHT,
    OVERWRITTEN,
    RENORMALISED,
    SKIPPED,
    SWAPPED,
)
from tiny_lm.course.checks.moe.work import Work, refuse_waste


def run_experts(
    x: Float[Tensor, "N D"],
    experts: Int[Tensor, "N k"],
    weights: Float[Tensor, "N k"],
    gate_up: Float[Tensor, "E F2 D"],
    down: Float[Tensor, "E D F"],
) -> Float[Tensor, "N D"]:
    """At each token, the weighted sum of what its experts make of it."""
    y = torch.zeros_like(x)
    for e in range(len(gate_up)):
        token, choice = (experts == e).nonzero(as_tuple=True)
        gate, up = (x[token] @ gate_up[e].T).chunk(2, dim=-1)
        out = (F.silu(gate) * up) @ down[e].T
        y = y.index_add(0, token, out * weights[token, choice, None])
    return y


task_2_4 = Task(
    id="2.4",
    lab="02_moe",
    title="Run the experts",
    name="run_experts",
    piece="moe.run_experts",
    difficulty=3,
    minutes=35,
    points=4,
    reference=run_experts,
    errors=ERRORS,
    hints=(
        """
        Turn the question round. Not: which experts does this token visit? But: which
        tokens visit this expert? An expert can read all of them in one product.
        """,
        """
        For each expert, find where its id stands in `experts`: the row says which
        token, the column which weight. Gather these tokens, run the SwiGLU on all of
        them, multiply each result by its weight, and add it at its token. Or sort all
        (token, choice) pairs by expert once, and give each expert its slice.
        """,
        """
        token, choice = (experts == e).nonzero(as_tuple=True) finds them.
        (x[token] @ gate_up[e].T).chunk(2, dim=-1) are gate and up, and the result is
        (F.silu(gate) * up) @ down[e].T, times weights[token, choice, None].
        y = y.index_add(0, token, …) adds; an empty `token` does no harm.
        """,
    ),
)


def _run(answer: Answer, *arguments: Tensor) -> Tensor:
    """What came back, a row for each token."""
    got = torch.as_tensor(answer(*arguments))
    (N, D), k = arguments[0].shape, arguments[1].shape[1]
    known = {
        (N * k, D): "This is a row for each choice. Those of one token are added up.",
        (N, k, D): "The results of a token stand side by side. Add them up.",
    }
    if shape(got) != (N, D):
        raise Mismatch(
            f"{N} tokens of width {D}, {k} experts each",
            f"shape {(N, D)}, as x",
            f"shape {shape(got)}",
            known.get(shape(got), ""),
        )
    return got


@task_2_4.property("a token's result is its expert's SwiGLU, times the weight")
def one_expert(answer: Answer) -> None:
    x, experts = torch.tensor([[1.0, 0.0, 0.0, 0.0]]), torch.tensor([[0]])
    stack = stacks.one_expert(gate=[20.0, -20.0], up=[3.0, 1.0], down=0.5)
    tenth = _by_hand([2.0, -2.0], [0.3, 0.1])
    expect(
        _run(answer, x, experts, torch.tensor([[0.1]]), *stack)[0, 0],
        3.0,
        on="x = 1, weight 0.1, an expert: gate [20, -20], up [3, 1], down [0.5, 0.5]\n"
        "silu(20) = 20 and silu(-20) = 0, so it makes (20·3 + 0·1) · 0.5 = 30 of x",
        known=[
            (30.0, "The weight is missing: each result counts as much as it says."),
            (0.3, "The weight came twice."),
            (tenth, INPUT_WEIGHED),
            (0.1 * tenth, INPUT_WEIGHED),
            (0.1 * _by_hand([3.0, 1.0], [20.0, -20.0]), SWAPPED),
            (-20.0, INTERLEAVED),
            (2.0, "This is gate · up. Wanted is silu(gate) · up."),
            (0.15, "This is sigmoid(gate) · up. silu(gate) is gate · sigmoid(gate)."),
            (1.0, "This is silu(gate) alone, without up."),
        ],
    )
    stack = stacks.one_expert(gate=[1.0, 0.0], up=[1.0, 0.0], down=1.0)
    expect(
        _run(answer, x, experts, torch.tensor([[1.0]]), *stack)[0, 0],
        1 / (1 + math.exp(-1)),
        on="x = 1, weight 1, an expert of one neuron: its gate, up and down all 1\n"
        "silu(1) = 1 / (1 + exp(-1))",
        known=[
            (F.gelu(torch.tensor(1.0)), "This is gelu. A SwiGLU has silu."),
            (1.0, "This is relu. A SwiGLU has silu."),
        ],
    )


def _by_hand(gate: list[float], up: list[float]) -> float:
    """The expert above, with these for gate and up."""
    return float((F.silu(torch.tensor(gate)) * torch.tensor(up)).sum() * 0.5)


@task_2_4.property("each token gets the sum from its own experts, by its own weights")
def own_experts(answer: Answer) -> None:
    values, factors = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 10.0, 100.0])
    experts = torch.tensor([[1, 0], [2, 0], [1, 2]])
    weights = torch.tensor([[1.5, 2.0], [1.5, 2.0], [1.5, 2.0]])
    x, stack = stacks.tokens(1.0, 2.0, 3.0), stacks.factors(1.0, 10.0, 100.0)
    got = _run(answer, x, experts, weights, *stack)
    parts = values[:, None] * factors[experts] * weights
    wanted = parts.sum(-1)
    by_expert = experts.flatten().argsort(stable=True)
    unsorted = weights.flatten()[by_expert.argsort()].view(3, 2)
    left_sorted = parts.flatten()[by_expert].view(3, 2).sum(-1)
    last = parts.gather(-1, experts.argmax(-1, keepdim=True)).squeeze(-1)
    first = parts.gather(-1, experts.argmin(-1, keepdim=True)).squeeze(-1)
    expect(
        got[:, 0],
        wanted,
        on="tokens 1, 2, 3; expert 0 multiplies by 1, expert 1 by 10, expert 2 by 100\n"
        "experts [[1, 0], [2, 0], [1, 2]], weights [1.5, 2] for each token",
        known=[
            ((parts / weights).sum(-1), "The weights are missing."),
            (wanted / 2, "This is the mean of a token's results. Wanted is the sum."),
            (wanted / 3.5, RENORMALISED),
            (parts[:, 0], "Only the first choice of each token was run."),
            (last, OVERWRITTEN),
            (parts[:, 1], OVERWRITTEN),
            (first, OVERWRITTEN),
            ((parts / weights * 1.5).sum(-1), OTHER_COLUMN),
            ((parts / weights * 2.0).sum(-1), OTHER_COLUMN),
            ((parts / weights * weights.flip(-1)).sum(-1), OTHER_WEIGHT),
            ((parts / weights * unsorted).sum(-1), OTHER_WEIGHT),
            (left_sorted, "The results are still sorted by expert. Whose are they?"),
            (values * 111 * 3.5, "Every token was sent to every expert."),
        ],
    )
    off = got[:, 1:].abs().max()
    if off > 1e-3:
        raise Mismatch(
            "the same, the other three numbers of a token", "zeros", show(got)
        )


@task_2_4.property("an expert may get no token, or all of them")
def uneven(answer: Answer) -> None:
    for experts, what in (
        ([[1], [1], [3], [1], [1]], "experts 0 and 2 of 4 get none"),
        ([[0], [1], [0], [1]], "experts 2 and 3 of 4, the last ones, get none"),
        ([[2, 3], [2, 0], [2, 1], [2, 3]], "expert 2 gets all four"),
        ([[3], [3], [3], [3]], "expert 3 gets all four, the others none"),
    ):
        arguments = stacks.random(answer.generator, torch.tensor(experts), 4)
        got, wanted = _run(answer, *arguments), run_experts(*arguments)
        if not close(got, wanted):
            rows = (f"{show(y[:, 0])} in column 0" for y in (wanted, got))
            raise Mismatch(
                f"random tokens and experts, experts = {experts}:\n{what}",
                *rows,
                SKIPPED,
            )


@task_2_4.property("each expert reads its tokens at once, and reads no others")
def grouped(answer: Answer) -> None:
    works = {}
    for num_tokens in (64, 128):
        arguments = stacks.random(answer.generator, stacks.even_choices(num_tokens), 4)
        with Work() as works[num_tokens]:
            _run(answer, *arguments)
    refuse_waste(works[64], works[128], fair_flops=256 * 6 * 8 * 12, row=24)


@task_2_4.property("gradients reach the tokens, the weights and both stacks")
def learns(answer: Answer) -> None:
    experts = torch.tensor([[0, 2], [2, 1], [1, 0], [2, 0]])
    x, experts, weights, gate_up, down = stacks.random(answer.generator, experts, 3)
    wanting = (x, weights, gate_up, down)
    for one in wanting:
        one.requires_grad_()
    pull = torch.randn(4, 8, generator=answer.generator)
    got = _run(answer, x, experts, weights, gate_up, down)
    on = "random arguments that want a gradient; 4 tokens, 3 experts"
    if not got.requires_grad:
        raise Mismatch(
            on, "a result that knows where it comes from", "bare numbers", CUT
        )
    wanted = torch.autograd.grad(
        (run_experts(x, experts, weights, gate_up, down) * pull).sum(), wanting
    )
    grads = torch.autograd.grad((got * pull).sum(), wanting, allow_unused=True)
    names = ("x", "weights", "gate_up", "down")
    for name, ours, theirs in zip(names, wanted, grads, strict=True):
        if theirs is None:
            raise Mismatch(on, f"a gradient for {name}", "none", CUT)
        expect(theirs, ours, f"{on}; the gradient of {name}")


@task_2_4.property("equals the definition on 500 random tokens")
def equals_definition(answer: Answer) -> None:
    for num_experts, top_k in ((16, 4), (5, 1), (4, 4)):
        score = torch.rand(500, num_experts, generator=answer.generator)
        experts = score.topk(top_k, dim=-1).indices
        arguments = stacks.random(answer.generator, experts, num_experts, 16, 20)
        expect(
            _run(answer, *arguments),
            run_experts(*arguments),
            on=f"500 random tokens, {num_experts} random experts, top_k {top_k}",
        )
