"""Task 1.1: how many bits a model needs for each byte.

Chapter: 01_baseline/probability_machine
Source: course
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Generator, Tensor

from tiny_lm.course.checks.case import case, family
from tiny_lm.course.checks.task import Task


def bits_per_byte(
    logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"]
) -> Float[Tensor, ""]:
    """Mean bits that the model spends on the byte that came."""
    rows = torch.arange(len(targets))
    log_p = logits.log_softmax(dim=-1)
    nats = -log_p[rows, targets].mean()
    return nats / math.log(2)


task_1_1 = Task(
    id="1.1",
    lab="01_baseline",
    title="Bits per byte",
    name="bits_per_byte",
    piece="baseline.bits_per_byte",
    difficulty=1,
    minutes=8,
    points=2,
    reference=bits_per_byte,
    hints=(
        """
        A byte to which the model gave the probability 1/8 costs 3 bits, because
        8 = 2 * 2 * 2. Which function of 1/8 is 3?
        """,
        """
        Turn each row of logits into the logarithms of probabilities, pick from each
        row the entry of the byte that came, take the mean, change the sign.
        torch's logarithm is the natural one: one bit is log(2) of its units.
        """,
        """
        log_p = logits.log_softmax(dim=-1) holds a row for each position, and
        log_p[torch.arange(len(targets)), targets] the entries that count.
        F.cross_entropy(logits, targets) does both and the mean and the sign.
        What is left is the division by math.log(2).
        """,
    ),
)

task_1_1.asks(
    "one number for the whole batch",
    case(torch.zeros(3, 4), [0, 1, 3]),
    only=(),
    mistakes={
        "].mean() => ]": "This is a cost for each position. Take the mean over "
        "positions.",
        "log_p[rows, targets].mean() => log_p": "This is a cost for every byte that "
        "could have come. Only the one that came, in `targets`, is paid for.",
    },
)

task_1_1.asks(
    "four equally likely bytes cost 2 bits each",
    case(torch.zeros(3, 4), [0, 1, 3]),
    otherwise="One softmax over a row makes probabilities, and a byte costs minus the "
    "logarithm, to base 2, of its own. Which step is another here?",
    mistakes={
        " / math.log(2) => ": "This is what comes out in nats, the unit of the natural "
        "logarithm. How many nats is one bit?",
        "-log_p => log_p": "The logarithm of a probability is negative, a cost is not.",
        "math.log(2) => math.log(10)": "This is what the logarithm to base 10 gives.",
        ".mean() => .sum()": "This is a sum over the positions. Take the mean.",
        "/ math => * math": "This is the nats times log(2). A bit is the smaller unit "
        "(0.69 nats), so is the number of bits larger or smaller than the number of "
        "nats?",
        "log_softmax(dim=-1) => log()": "These are logarithms of logits, not of "
        "probabilities.",
        "nats / math.log(2) => nats.exp()": "This is the perplexity: 2 to the power of "
        "what is wanted.",
        "log_softmax(dim=-1) => softmax(dim=-1)": "These are probabilities: what they "
        "cost is their logarithm.",
        "log_p = logits.log_softmax(dim=-1) => log_p = logits": "These are the logits "
        "themselves. What turns a row of them into logarithms of probabilities?",
        "dim=-1 => dim=0": "The softmax runs over the positions. For each position, "
        "the probabilities of the bytes add up to 1: which dim is theirs?",
    },
)

task_1_1.asks(
    "only the byte that came is paid for",
    case(
        torch.tensor([[2.0, 1.0, 1.0, 4.0], [1.0, 4.0, 2.0, 1.0]]).log(),
        [3, 0],
        note="logits are log [[2, 1, 1, 4], [1, 4, 2, 1]]\n"
        "so the bytes that came had the probabilities 1/2 and 1/8",
    ),
    otherwise="Row i pays for targets[i], what its own probability costs and nothing "
    "more; the mean is over all rows.",
    mistakes={
        "[rows, targets] => [rows, logits.argmax(-1)]": "This is what the likeliest "
        "byte of each row costs. Which byte came?",
        "[rows, targets].mean() => .exp()[rows, targets].mean().log()": "Here "
        "the probabilities were averaged. A cost is counted byte by byte: first the "
        "logarithms, then their mean.",
        "[rows, targets] => ": "Here every byte is paid for, whether it came or not.",
        "log_p[rows, targets] => (log_p.exp() * log_p).sum(-1)": "This is the entropy, "
        "what the model expects to pay. What it does pay depends on `targets`.",
        "[rows, targets] => [:, targets]": "Here each row pays for the targets of all "
        "rows. Row i pays for targets[i] alone.",
        "[rows, targets] => [0, targets]": "All targets are paid for by the first "
        "row. Row i pays for targets[i].",
    },
)

UNDERFLOW = (
    "The probability of byte 1 is smaller than any float32: it became 0, and its "
    "logarithm infinite. Go from logits to log-probabilities in one step."
)
CAPPED = (
    "A small number inside the logarithm keeps it finite, and caps the cost: twice as "
    "wrong costs no more. Go from logits to log-probabilities in one step."
)
OVERFLOW = (
    "exp of 1000 is infinite. Go from logits to log-probabilities in one step, or take "
    "the largest logit of each row off first."
)
ONE_MAXIMUM = (
    "One maximum for all rows was taken off: a row that lies far below it has nothing "
    "left. Each row has its own."
)

task_1_1.asks(
    "a model that is sure and wrong pays much, not infinity",
    case([[1000.0, 0.0]], [1]),
    case([[1000.0, 0.0], [1.0, 3.0]], [0, 1]),
    case([[-1000.0, -1001.0], [1.0, 3.0]], [0, 1]),
    otherwise="A very small probability becomes 0, and what is done against that caps "
    "the cost. Go from logits to log-probabilities in one step.",
    mistakes={
        "log_softmax(dim=-1) => softmax(dim=-1).log()": UNDERFLOW,
        "log_softmax(dim=-1) => softmax(dim=-1).add(1e-9).log()": CAPPED,
        "log_softmax(dim=-1) => softmax(dim=-1).clamp(min=1e-12).log()": CAPPED,
        "logits.log_softmax(dim=-1) => (logits.exp() / "
        "logits.exp().sum(-1, keepdim=True)).log()": OVERFLOW,
        "logits.log_softmax(dim=-1) => logits - logits.exp().sum(-1, True).log()": (
            OVERFLOW
        ),
        "logits.log_softmax(dim=-1) => logits - logits.max() - "
        "(logits - logits.max()).exp().sum(-1, True).log()": ONE_MAXIMUM,
    },
)


def _draw(generator: Generator, N: int, V: int) -> tuple[Tensor, Tensor]:
    logits = 3 * torch.randn(N, V, generator=generator)
    return logits, torch.randint(V, (N,), generator=generator)


task_1_1.asks(
    "equals the definition on 1,000 random positions",
    family(_draw, {"N": 1000, "V": 256}, ones=["N"]),
)


@task_1_1.accepts
def loop(scores, came):
    total = 0.0
    for row, byte in zip(scores, came, strict=True):
        total += float(torch.logsumexp(row, 0) - row[byte]) / math.log(2)
    return total / len(came)


@task_1_1.accepts
def gathered_in_float64(logits, targets):
    log_p = logits.double().log_softmax(-1).gather(-1, targets.unsqueeze(-1))
    return log_p.div(-math.log(2)).mean()


@task_1_1.accepts
def negative_likelihood(logits, targets):
    return F.nll_loss(F.log_softmax(logits, dim=1), targets) * math.log2(math.e)


@task_1_1.accepts
def row_maximum_first(logits, targets):
    logits = logits - logits.max(dim=-1, keepdim=True).values
    nats = logits.exp().sum(-1).log() - logits[range(len(targets)), targets]
    return nats.mean() / math.log(2)
