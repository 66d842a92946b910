"""Task 2.8: the whole layer of experts, put together from its pieces.

Chapter: 02_moe/balance
Source: deepseek_v3, eqs. 12-20
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiny_lm import router
from tiny_lm.course.checks.before.answer import Answer
from tiny_lm.course.checks.before.expect import Mismatch, close, expect, shape
from tiny_lm.course.checks.before.expect import recognise as recognise
from tiny_lm.course.checks.before.task import Task
from tiny_lm.course.checks.moe.layer_words import ADDED_X, ERRORS, HINTS, WORDS
from tiny_lm.layers import grouped_linear, swiglu
from tiny_lm.moe import collect, sort_by_expert, spread


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
    weights, experts = router.route(scores, bias, top_k, num_groups, top_groups)
    order = sort_by_expert(experts, len(centroids))
    hidden = swiglu(grouped_linear(spread(tokens, order), gate_up, order.ends))
    rows = grouped_linear(hidden, down, order.ends)
    y = collect(rows, route_scale * weights, order)
    scores, experts = (z.unflatten(0, x.shape[:2]) for z in (scores, experts))
    return y.view_as(x), experts, router.sequence_loss(scores, experts)


task_2_8 = Task(
    id="2.8",
    lab="02_moe",
    title="The layer",
    name="moe_layer",
    piece="moe.moe_layer",
    difficulty=3,
    minutes=35,
    points=4,
    reference=moe_layer,
    errors=ERRORS,
    hints=HINTS,
)


def _three(answer: Answer, *arguments: object) -> tuple[Tensor, Tensor, Tensor]:
    """y, experts and balance, once three things came back."""
    got = answer(*arguments)
    if not isinstance(got, tuple | list) or len(got) != 3:
        raise Mismatch(
            on=answer.call(arguments),
            wanted="three results: y, experts, balance",
            got=got,
        )
    return tuple(torch.as_tensor(one) for one in got)


def _random(
    answer: Answer, B: int, T: int, E: int, D: int = 8, F: int = 4
) -> dict[str, Tensor]:
    """Parameters of a layer and tokens for it, with biases that matter."""

    def draw(*sizes: int) -> Tensor:
        return torch.randn(*sizes, generator=answer.generator)

    return {
        "x": draw(B, T, D),
        "centroids": 0.5 * draw(E, D),
        "bias": 0.5 * draw(E) - 0.5,
        "gate_up": draw(E, 2 * F, D),
        "down": draw(E, D, F),
    }


@task_2_8.property("y is shaped like x, experts are (B, T, k) ids, balance a scalar")
def shapes(answer: Answer) -> None:
    y, experts, balance = _three(answer, *_random(answer, 2, 3, 8).values(), 4, 4, 2, 1)
    on = "x of shape (2, 3, 8), 8 experts, top_k 4"
    wanted = {"y": (y, (2, 3, 8)), "experts": (experts, (2, 3, 4))}
    wanted |= {"balance": (balance, ())}
    for name, (got, sizes) in wanted.items():
        if shape(got) != sizes:
            flat = sizes and shape(got) == (6, sizes[-1])
            raise Mismatch(
                on,
                f"{name} of shape {sizes}",
                f"{name} of shape {shape(got)}",
                "The tokens lie end to end: cut them into B sequences of T again."
                if flat
                else "",
            )
    if experts.is_floating_point():
        raise Mismatch(on, "experts: whole numbers, the ids", f"{experts.dtype}")


# One token, [1, 0, 0, 0]: its scores are sigmoids of the centroids' first column, and
# expert e says VALUES[e], for silu(20) is 20 to eight digits.
VALUES = torch.tensor([4.0, 8.0, 16.0, 40.0])


def _by_hand(
    answer: Answer, scores: Tensor, bias: Tensor, groups: tuple[int, int], scale: float
) -> Tensor:
    """What the answer makes of one token whose experts say 4, 8, 16 and 40."""
    x, centroids = torch.zeros(1, 1, 4), torch.zeros(4, 4)
    gate_up, down = torch.zeros(4, 8, 4), torch.zeros(4, 4, 4)
    x[..., 0], centroids[:, 0] = 1.0, torch.logit(scores)
    gate_up[:, 0, 0], gate_up[:, 4, 0], down[:, 0, 0] = 20.0, VALUES / 20, 1.0
    y, _, _ = _three(answer, x, centroids, bias, gate_up, down, 2, *groups, scale)
    return y.flatten()[0]


def _mix(*parts: tuple[float, int], scale: float = 1.0) -> float:
    """Experts' values, weighed by shares of the given scores."""
    total = sum(score for score, _ in parts)
    return scale * sum(score * float(VALUES[e]) for score, e in parts) / total


ON_TOKEN = "one token whose experts 0 to 3 answer [4], [8], [16] and [40]; top_k 2,\n"


@task_2_8.property("y adds up what the k experts say, weighed by their scores")
def weighed_sum(answer: Answer) -> None:
    scores = torch.tensor([0.75, 0.5, 0.25, 0.2])
    plain = 0.75 * 4 + 0.5 * 8
    odds = torch.logit(scores).exp()
    expect(
        _by_hand(answer, scores, torch.zeros(4), (1, 1), 2.0),
        11.2,
        on=f"{ON_TOKEN}scores [0.75, 0.5, 0.25, 0.2], no bias, one group, "
        "route_scale 2",
        known=[
            (5.6, "`route_scale` is missing."),
            (22.4, "`route_scale` came in twice."),
            (2 * plain, WORDS["raw"]),
            (plain, WORDS["raw"]),
            (2 * plain / 1.7, WORDS["all"]),
            (12.2, ADDED_X),
            (12.8, "Each expert got the other's weight."),
            (24.0, "What the experts say was added up without weights."),
            (_mix((float(odds[0]), 0), (float(odds[1]), 1), scale=2), WORDS["softmax"]),
        ],
    )


@task_2_8.property("the bias chooses the experts and weighs nothing")
def bias_only_chooses(answer: Answer) -> None:
    scores = torch.tensor([0.75, 0.5, 0.25, 0.2])
    bias = torch.tensor([0.0, 0.0, 0.4, 0.0])
    expect(
        _by_hand(answer, scores, bias, (1, 1), 1.0),
        7.0,
        on=f"{ON_TOKEN}scores [0.75, 0.5, 0.25, 0.2], bias [0, 0, 0.4, 0]: experts 0 "
        "and 2\nare chosen",
        known=[
            (5.6, WORDS["no bias"]),
            (_mix((0.75, 0), (0.65, 2)), WORDS["bias weighs"]),
            (0.75 * 4 + 0.65 * 16, WORDS["bias weighs"]),
        ],
    )


@task_2_8.property("only experts of the best groups are chosen")
def groups_limit(answer: Answer) -> None:
    scores = torch.tensor([0.75, 0.25, 0.6, 0.5])
    expect(
        _by_hand(answer, scores, torch.zeros(4), (2, 1), 1.0),
        _mix((0.6, 2), (0.5, 3)),
        on=f"{ON_TOKEN}scores [0.75, 0.25, 0.6, 0.5], no bias, 2 groups of which 1 "
        "stays:\n0.75 + 0.25 against 0.6 + 0.5",
        known=[
            (_mix((0.75, 0), (0.6, 2)), WORDS["no groups"]),
            (_mix((0.75, 0), (0.25, 1)), WORDS["group max"]),
            (math.nan, WORDS["nan"]),
        ],
    )
    bias = torch.tensor([0.0, -0.35, 0.1, -1.75])
    expect(
        _by_hand(answer, scores, bias, (2, 1), 1.0),
        _mix((0.75, 0), (0.25, 1)),
        on=f"{ON_TOKEN}scores [0.75, 0.25, 0.6, 0.5], scores + bias [0.75, -0.1, 0.7, "
        "-1.25],\n2 groups of which 1 stays",
        known=[
            (_mix((0.6, 2), (0.5, 3)), WORDS["raw groups"]),
            (_mix((0.75, 0), (0.6, 2)), WORDS["zero mask"]),
            (_mix((0.75, 0), (0.5, 3)), WORDS["zero mask"]),
        ],
    )


@task_2_8.property("balance is the sequence-wise loss of what was really chosen")
def balance_of_the_choice(answer: Answer) -> None:
    given = _random(answer, 3, 5, 8)
    _, experts, got = _three(answer, *given.values(), 2, 4, 2, 1.0)
    scores = torch.sigmoid(given["x"] @ given["centroids"].T)
    best, loss = scores.topk(2).indices, router.sequence_loss
    biased = scores + given["bias"]
    whole = loss(scores.view(1, 15, 8), experts.long().view(1, 15, 2))
    expect(
        got,
        loss(scores, experts.long()),
        on="3 random sequences of 5 tokens, 8 experts, top_k 2, 2 of 4 groups",
        known=[
            (math.nan, WORDS["masked balance"]),
            (whole, WORDS["whole batch"]),
            (loss(scores, best), WORDS["best scores"]),
            (loss(biased, experts.long()), WORDS["biased balance"]),
        ],
    )


@task_2_8.property("equals tiny_lm's own layer on random tokens")
def equals_definition(answer: Answer) -> None:
    for E, top_k, groups, top_groups in ((8, 2, 1, 1), (16, 4, 4, 2), (12, 3, 4, 3)):
        given = _random(answer, 3, 40, E).values()
        numbers = (top_k, groups, top_groups, 2.5)
        on = f"3 sequences of 40 tokens, {E} experts, top_k {top_k}, {top_groups} of "
        on += f"{groups} groups"
        y, experts, balance = _three(answer, *given, *numbers)
        wanted, ids, loss = moe_layer(*given, *numbers)
        if not torch.equal(experts.sort(-1).values, ids.sort(-1).values):
            t = int((experts.sort(-1).values != ids.sort(-1).values).any(-1).sum())
            raise Mismatch(
                on,
                "the same experts",
                f"others for {t} of 120 tokens",
                _why_others(experts, [*given], *numbers[:3]),
            )
        expect(y, wanted, on=on, tolerance=1e-3)
        expect(balance, loss, on=f"{on}: the balance loss")


def _why_others(
    experts: Tensor, given: list[Tensor], top_k: int, groups: int, top_groups: int
) -> str:
    """Which number of scores a group was judged by, where that explains the choice."""
    x, centroids, bias = given[:3]
    biased = torch.sigmoid(x @ centroids.T).flatten(0, 1) + bias
    known = []
    for per_group in range(1, len(bias) // groups + 1):
        limited = router.limit_groups(biased, groups, top_groups, per_group)
        known.append((limited.topk(top_k).indices.sort(-1).values, WORDS["per group"]))
    return recognise(experts.flatten(0, 1).sort(-1).values, known)


# What the gradients are compared in: the weights first, so that a cut is named where
# it lies, and x, which everything reaches, last.
ORDER = ("bias", "down", "gate_up", "centroids", "x")


@task_2_8.property("all parameters learn, and the bias gets no gradient")
def gradients(answer: Answer) -> None:
    given = {n: z.requires_grad_() for n, z in _random(answer, 2, 6, 8).items()}
    pull = torch.randn(2, 6, 8, generator=answer.generator)
    wanted, got = (_gradients(f, given, pull) for f in (moe_layer, answer))
    for part in ("y", "balance"):
        for name in ORDER:
            a, b = got[part][name], wanted[part][name]
            if not close(a, b, 1e-3):
                raise Mismatch(
                    "random x, 8 experts, top_k 2, 2 of 4 groups; the gradient of "
                    f"{part} by {name}",
                    f"length {float(b.norm()):.3g}",
                    f"length {float(a.norm()):.3g}",
                    WORDS["rule"] if name == "bias" else WORDS["cut"] * (not a.any()),
                )


def _gradients(
    layer: Answer, given: dict[str, Tensor], pull: Tensor
) -> dict[str, dict[str, Tensor]]:
    """Gradients of y (pulled at) and of the balance loss; zero where there is none."""
    y, _, balance = _three(layer, *given.values(), 2, 4, 2, 1.5)
    found, inputs = {}, list(given.values())
    for part, value in (("y", (y * pull).sum()), ("balance", balance)):
        grads = [None] * len(inputs)
        if value.requires_grad:
            grads = torch.autograd.grad(
                value, inputs, retain_graph=True, allow_unused=True
            )
        pairs = zip(given.items(), grads, strict=True)
        found[part] = {
            n: torch.zeros_like(z) if g is None else g for (n, z), g in pairs
        }
    return found
