"""Task 1.5: one step of training.

Chapter: 01_baseline/probability_machine
Source: deepseek_v3, section 4.2
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from tiny_lm.course.checks.before.answer import Answer
from tiny_lm.course.checks.before.expect import Mismatch, expect, show
from tiny_lm.course.checks.before.task import Task


def training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Int[Tensor, "B T"],
    targets: Int[Tensor, "B T"],
    max_norm: float,
) -> float:
    """Lower the loss on one batch; return what it was before, in nats per byte."""
    optimizer.zero_grad()
    loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return loss.item()


task_1_5 = Task(
    id="1.5",
    lab="01_baseline",
    title="A training step",
    name="training_step",
    piece="baseline.training_step",
    difficulty=2,
    minutes=15,
    points=3,
    reference=training_step,
    errors=(
        (
            "Expected target size",
            "F.cross_entropy wants one row of logits for each target: flatten "
            "(B, T, V) to (B T, V), and the targets to (B T).",
        ),
        (
            "is invalid for input of size",
            "Is a size written into that line as a number? This model knows 2 bytes, "
            "not 256: take sizes from the tensors.",
        ),
        (
            "does not require grad",
            "The loss has lost its way back to the weights: no .item(), .detach() or "
            "torch.no_grad() before backward().",
        ),
    ),
    hints=(
        """
        Five things happen in a fixed order: forget the old gradients, measure the loss,
        get the new gradients, shorten them if they are too long, move the weights.
        """,
        """
        optimizer.zero_grad(), then the loss by F.cross_entropy on flattened logits and
        targets, loss.backward(), torch.nn.utils.clip_grad_norm_ on all parameters at
        once, optimizer.step(). The loss to return is the one you have already.
        """,
        """
        loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
        Before this line: optimizer.zero_grad(). After it: loss.backward(), then
        torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm), then
        optimizer.step(), then return loss.item().
        """,
    ),
)


class Bigrams(nn.Module):
    """The smallest language model: a row of logits for each byte, and a bias."""

    def __init__(self, vocab_size: int, bias: bool = False) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(vocab_size, vocab_size))
        self.bias = nn.Parameter(torch.zeros(vocab_size)) if bias else None

    def forward(self, tokens: Int[Tensor, "B T"]) -> Float[Tensor, "B T V"]:
        logits = self.table[tokens]
        return logits if self.bias is None else logits + self.bias


# Two bytes that take turns. Every probability is 1/2 at first, so byte 0, which comes
# at two of the three positions, has the gradient ±(1/2) · 2/3, and byte 1 ±(1/2) · 1/3.
TURNS = (torch.tensor([[0, 1, 0]]), torch.tensor([[1, 0, 1]]))
STEP = torch.tensor([-1 / 3, 1 / 3, 1 / 6, -1 / 6])
ON_TURNS = (
    "a model of 2 bytes whose 4 weights are 0, inputs [[0, 1, 0]],\n"
    "targets [[1, 0, 1]], SGD with lr 1, max_norm "
)


def _sgd(model: nn.Module, lr: float = 1.0) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), lr=lr)


def _weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@task_1_5.property("returns the loss of the batch as it was before the step, in nats")
def returns_the_loss(answer: Answer) -> None:
    model = Bigrams(2)
    got = answer(model, _sgd(model), *TURNS, 1.0)
    nats = math.log(2)
    after = (2 * math.log(1 + math.exp(-2 / 3)) + math.log(1 + math.exp(-1 / 3))) / 3
    expect(
        got,
        nats,
        on=ON_TURNS + "1",
        known=[
            (1.0, "This is in bits. Training counts in nats, as F.cross_entropy does."),
            (
                3 * nats,
                "This is the sum over positions: with it, a longer sequence "
                "would mean a longer step. Take the mean.",
            ),
            (after, "This is the loss after the step: the model was asked again."),
            (
                [nats, nats, nats],
                "This is a loss for each position. Wanted is their mean.",
            ),
        ],
    )


@task_1_5.property("one step moves each weight against its gradient")
def one_step(answer: Answer) -> None:
    model = Bigrams(2)
    answer(model, _sgd(model), *TURNS, 1.0)
    expect(
        _weights(model),
        STEP,
        on=ON_TURNS + "1",
        known=[
            (torch.zeros(4), _why_nothing_moved(model)),
            (-STEP, "The weights went uphill. Who changed the sign?"),
            (
                STEP / STEP.norm(),
                "The gradient was made exactly max_norm long. A short one is "
                "left as it is; or the loss is a sum, not a mean.",
            ),
            (
                STEP / math.log(2),
                "The loss was in bits: the step is 1.44 times as long as it should be.",
            ),
        ],
    )


def _why_nothing_moved(model: Bigrams) -> str:
    grad = model.table.grad
    if grad is not None and grad.any():
        return "The gradient is there, but nobody applied it: optimizer.step()."
    return (
        "No weight moved, and no gradient is left. Did loss.backward() run, and was "
        "its result erased before optimizer.step()?"
    )


@task_1_5.property("a second step starts from a fresh gradient")
def fresh_gradient(answer: Answer) -> None:
    wanted, stale, got = Bigrams(2), Bigrams(2), Bigrams(2)
    _repeat(training_step, wanted)
    _repeat(_without_zero_grad, stale)
    _repeat(answer, got)
    because = (
        "The gradient of the first step was still there and was added to the second: "
        "backward() adds, it does not replace. optimizer.zero_grad() empties."
    )
    expect(
        _weights(got),
        _weights(wanted),
        on=ON_TURNS + "1, two steps",
        known=[(_weights(stale), because)],
    )


def _repeat(step: Callable[..., object], model: Bigrams) -> None:
    optimizer = _sgd(model)
    for _ in range(2):
        step(model, optimizer, *TURNS, 1.0)


def _without_zero_grad(
    model: Bigrams, optimizer: torch.optim.Optimizer, *batch: Tensor
) -> None:
    inputs, targets, max_norm = batch
    loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()


@task_1_5.property("a gradient longer than max_norm is shortened, direction kept")
def clips(answer: Answer) -> None:
    model = Bigrams(2, bias=True)
    inputs, targets = torch.tensor([[0, 1, 1]]), torch.tensor([[1, 1, 1]])
    loss = F.cross_entropy(model(inputs).flatten(0, 1), targets.flatten())
    grads = [g.flatten() for g in torch.autograd.grad(loss, [*model.parameters()])]
    whole, limit = torch.cat(grads), 0.1
    optimizer = _sgd(model)
    answer(model, optimizer, inputs, targets, limit)
    expect(
        _weights(model),
        -whole * limit / whole.norm(),
        on="a model of 2 bytes: table of 4 weights, bias of 2, all 0; SGD with lr 1;\n"
        f"gradient {show(whole)}, norm {whole.norm():.2f}, max_norm {limit}",
        known=[
            (
                -whole,
                "The step is as long as the gradient: it was not clipped, or not "
                "between backward() and step().",
            ),
            (
                -whole.clamp(-limit, limit),
                "Each entry was cut off for itself, which "
                "turns the direction. Scale the whole gradient by one number.",
            ),
            (
                -torch.cat([g * limit / g.norm() for g in grads]),
                "Each parameter was "
                "clipped for itself. The norm is that of all parameters together.",
            ),
            (
                -whole / whole.norm(),
                "The gradient was shortened to 1. Is `max_norm` used?",
            ),
        ],
        tolerance=1e-3,
    )


@task_1_5.property("40 steps with AdamW learn a text that repeats itself")
def learns(answer: Answer) -> None:
    first, second = torch.randperm(8, generator=answer.generator).view(2, 4)
    text = torch.stack([first.repeat(6), second.repeat(6)])
    inputs, targets = text[:, :-1], text[:, 1:]
    model = Bigrams(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.3)
    for _ in range(40):
        answer(model, optimizer, inputs, targets, 1.0)
    losses = [
        F.cross_entropy(model(x[None])[0], y).item()
        for x, y in zip(inputs, targets, strict=True)
    ]
    if not max(losses) < 0.1:
        raise Mismatch(
            on="two sequences, each of 4 bytes in a fixed order, over and over",
            wanted="a loss below 0.1 nats on both",
            got=f"{losses[0]:.2f} on the first, {losses[1]:.2f} on the second",
            because="The loss is the mean over the positions of all sequences."
            if min(losses) < 0.1
            else "",
        )
