"""Task 1.5: one step of training.

Chapter: 01_baseline/probability_machine
Source: deepseek_v3, section 4.2
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor, nn

from tiny_lm.course.checks.answer import Answer
from tiny_lm.course.checks.case import Probe, drawn, probe
from tiny_lm.course.checks.task import Task


def training_step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    inputs: Int[Tensor, "B T"],
    targets: Int[Tensor, "B T"],
    max_norm: float,
) -> float:
    """Lower the loss on one batch; return what it was before, in nats per byte."""
    optimizer.zero_grad()
    logits = model(inputs)
    loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
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
    returns=("loss",),
    errors={
        "Expected target size": "F.cross_entropy wants one row of logits for each "
        "target: flatten (B, T, V) to (B T, V), and the targets to (B T).",
        "is invalid for input of size": "Is a size written into that line as a number? "
        "This model knows 2 bytes, not 256: take sizes from the tensors.",
        "does not require grad": "The loss has lost its way back to the weights: no "
        ".item(), .detach() or torch.no_grad() before backward().",
    },
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


def _turns(generator: Generator) -> tuple:
    """A step on two bytes that take turns: their gradients are ±1/3 and ±1/6."""
    model = Bigrams(2)
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    return model, sgd, torch.tensor([[0, 1, 0]]), torch.tensor([[1, 0, 1]]), 1.0


def _other(generator: Generator) -> tuple:
    model = Bigrams(3)
    model.table.data = torch.randn(3, 3, generator=generator)
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    return model, sgd, *torch.randint(3, (2, 4, 5), generator=generator), 1.0


def _weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


PART = (
    "A part of the batch was left out. The loss is the mean over all positions of all "
    "sequences."
)

task_1_5.asks(
    "returns the loss of the batch as it was before the step, in nats",
    drawn(_turns, note="a model of 2 bytes whose 4 weights are 0, SGD with lr 1"),
    drawn(_other, note="a model of 3 bytes whose weights are random, SGD with lr 1"),
    otherwise="Wanted is the mean cross-entropy of all positions, before the step.",
    mistakes={
        "loss.item() => loss.item() / math.log(2)": "This is in bits. Training counts "
        "in nats, as F.cross_entropy does.",
        "targets.flatten()) => targets.flatten()) / math.log(2)": "This is in bits. "
        "Training counts in nats, and the step got longer with it.",
        'targets.flatten()) => targets.flatten(), reduction="sum")': "This is the sum "
        "over positions: with it, a longer sequence would mean a longer step. Take the "
        "mean.",
        "targets.flatten() => inputs.flatten()": "The model was asked for the byte "
        "that it reads. Wanted is the one in `targets`.",
        "model(inputs) => model(targets)": "The model read the targets. It reads "
        "`inputs`.",
        "logits.flatten(0, 1), targets => logits[0], targets[0]": PART,
        "logits.flatten(0, 1), targets => logits[-1], targets[-1]": PART,
        "targets.flatten()) => targets.flatten()) * len(inputs)": "The losses of the "
        "sequences were added up. Wanted is the mean over all positions.",
        "logits.flatten(0, 1), targets => logits.softmax(-1).flatten(0, 1), targets": (
            "F.cross_entropy takes logits: it does the softmax itself."
        ),
        "logits.flatten(0, 1), targets.flatten() => logits[:, -1], targets[:, -1]": (
            "Only the last position was looked at. Every position is a question."
        ),
        "inputs)\n => inputs)[:, :-1]\n ;; targets.f => targets[:, 1:].f": "The "
        "targets were shifted once more. They are the next bytes already.",
        "return loss.item() => return F.cross_entropy("
        "model(inputs).flatten(0, 1), targets.flatten()).item()": "This is the loss "
        "after the step: the model was asked again.",
        "return loss.item() => return loss.exp().item()": "This is the perplexity. "
        "Wanted is the loss.",
    },
)


def _after(steps: int) -> Probe:
    """The weights after so many steps on the two bytes."""

    def weights(answer: Answer, generator: Generator) -> dict:
        model, *rest = _turns(generator)
        arrived: list[Tensor] = []
        model.table.register_hook(arrived.append)
        for _ in range(steps):
            answer(model, *rest)
        clue = f"{len(arrived)} gradients, the last {model.table.grad is not None}"
        return {"weights": _weights(model), "_clue": clue}

    note = f"the same model and batch, max_norm 1; {steps} step{'s' * (steps > 1)}"
    return Probe(weights, note)


CLIP = "nn.utils.clip_grad_norm_(model.parameters(), max_norm)"

task_1_5.asks(
    "one step moves each weight against its gradient",
    _after(1),
    otherwise="Erase, loss, backward, clip, step: once each. Which is another here?",
    mistakes={
        "optimizer.step() => pass": "No weight moved. The gradient is there, but "
        "nobody applied it: optimizer.step().",
        "loss.backward() => pass": "No weight moved, and there is no gradient: "
        "loss.backward() makes it.",
        "optimizer.step() => optimizer.zero_grad()\n    optimizer.step()": "No weight "
        "moved: the gradient was erased before optimizer.step(). Erase first, then "
        "loss.backward().",
        "loss.backward() => (-loss).backward()": "The weights went uphill. Who changed "
        "the sign?",
        "optimizer.step() => optimizer.step(), optimizer.step()": "The weights moved "
        "twice in one step.",
        f"{CLIP} => length = torch.cat([p.grad.flatten() for p in model.parameters()])"
        ".norm()\n    [p.grad.mul_(max_norm / length) for p in model.parameters()]": (
            "The gradient was made exactly max_norm long. A short one is left as it is."
        ),
    },
)


task_1_5.asks(
    "a second step starts from a fresh gradient",
    _after(2),
    mistakes={
        "optimizer.zero_grad() => pass": "The gradient of the first step was still "
        "there and was added to the second: backward() adds, it does not replace. "
        "optimizer.zero_grad() empties.",
    },
)


@probe(
    "a model of 2 bytes: table of 4 weights, bias of 2, all 0; SGD with lr 1;\n"
    "inputs [[0, 1, 1]], targets [[1, 1, 1]], max_norm 0.1: the gradient\n"
    "[0.17, -0.17, 0.33, -0.33, 0.5, -0.5] is 0.88 long"
)
def clipped(answer: Answer, generator: Generator) -> dict[str, Tensor]:
    model = Bigrams(2, bias=True)
    sgd = torch.optim.SGD(model.parameters(), lr=1.0)
    answer(model, sgd, torch.tensor([[0, 1, 1]]), torch.tensor([[1, 1, 1]]), 0.1)
    return {"weights": _weights(model), "step length:": _weights(model).norm()}


UNCLIPPED = (
    "The step is as long as the gradient: it was not clipped, or not between "
    "backward() and step()."
)

task_1_5.asks(
    "a gradient longer than max_norm is shortened, direction kept",
    clipped,
    tolerance=1e-3,
    mistakes={
        f"{CLIP} => pass": UNCLIPPED,
        f"{CLIP}\n    optimizer.step() => optimizer.step()\n    {CLIP}": UNCLIPPED,
        "clip_grad_norm_ => clip_grad_value_": "Each entry was cut off for itself, "
        "which turns the direction. Scale the whole gradient by one number.",
        f"{CLIP} => "
        "[nn.utils.clip_grad_norm_([p], max_norm) for p in model.parameters()]": "Each "
        "parameter was clipped for itself. The norm is that of all parameters "
        "together.",
        "(), max_norm) => (), 1.0)": UNCLIPPED,
        "optimizer.step() => [p.grad.div_(max_norm) for p in model.parameters() "
        "if max_norm < 1]\n    optimizer.step()": "The gradient was shortened to 1. Is "
        "`max_norm` used?",
        f"{CLIP} => nn.utils.clip_grad_norm_([model.table], max_norm)": "Only one of "
        "the parameters was clipped: model.parameters() are all.",
    },
)


@probe("two sequences, each of 4 bytes in a fixed order, over and over; AdamW, lr 0.3")
def losses(answer: Answer, generator: Generator) -> dict[str, str]:
    first, second = torch.randperm(8, generator=generator).view(2, 4)
    text = torch.stack([first.repeat(6), second.repeat(6)])
    inputs, targets = text[:, :-1], text[:, 1:]
    model = Bigrams(8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.3)
    for _ in range(40):
        answer(model, optimizer, inputs, targets, 1.0)
    return {
        f"loss on sequence {i} below 0.1 nats after 40 steps:": str(
            F.cross_entropy(model(inputs[i]), targets[i]).item() < 0.1
        )
        for i in (0, 1)
    }


task_1_5.asks(
    "40 steps with AdamW learn a text that repeats itself",
    losses,
    otherwise=PART,
)


@task_1_5.accepts
def loop_over_sequences(model, optimizer, inputs, targets, max_norm):
    optimizer.zero_grad(set_to_none=False)
    total = 0.0
    for x, y in zip(inputs, targets, strict=True):
        loss = F.cross_entropy(model(x[None])[0], y) / len(inputs)
        loss.backward()
        total += loss.item()
    nn.utils.clip_grad_norm_(list(model.parameters()), max_norm)
    optimizer.step()
    return total


@task_1_5.accepts
def by_hand_and_cleans_up_after(model, optimizer, inputs, targets, max_norm):
    model.train()
    log_p = model(inputs).log_softmax(-1)
    loss = -log_p.gather(-1, targets[..., None]).mean()
    loss.backward()
    grads = [p.grad for p in model.parameters()]
    norm = sum(g.double().square().sum() for g in grads).sqrt()
    for g in grads:
        g.mul_(min(1.0, max_norm / float(norm)))
    optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


@task_1_5.accepts
def classes_in_dim_one(model, optimizer, inputs, targets, max_norm):
    loss = F.cross_entropy(model(inputs).transpose(1, 2), targets)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    optimizer.step()
    return loss.item()
