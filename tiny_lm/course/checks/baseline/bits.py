"""Task 1.1: how many bits a model needs for each byte.

Chapter: 01_baseline/probability_machine
Source: course
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tiny_lm.course.checks.answer import Answer
from tiny_lm.course.checks.expect import Mismatch, expect, shape, show
from tiny_lm.course.checks.task import Task


def bits_per_byte(
    logits: Float[Tensor, "N V"], targets: Int[Tensor, " N"]
) -> Float[Tensor, ""]:
    """Mean bits that the model spends on the byte that came."""
    return F.cross_entropy(logits, targets) / math.log(2)


NATS = (
    "This is what comes out in nats, the unit of the natural logarithm. "
    "How many nats is one bit?"
)
UPSIDE_DOWN = (
    "This is the nats times log(2). A bit is the smaller unit (0.69 nats), so is the "
    "number of bits larger or smaller than the number of nats?"
)
ONE_STEP = "Go from logits to log-probabilities in one step."
UNDERFLOW = (
    "The probability of byte 1 is smaller than any float32: it became 0, and its "
    "logarithm infinite. " + ONE_STEP
)

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


@task_1_1.property("one number for the whole batch")
def one_number(answer: Answer) -> None:
    got = answer(torch.zeros(3, 4), torch.tensor([0, 1, 3]))
    if shape(got) == (3,):
        because = "This is a cost for each position. Take the mean over positions."
    elif shape(got) == (3, 4):
        because = (
            "This is a cost for every byte that could have come. "
            "Only the one that came, in `targets`, is paid for."
        )
    else:
        because = ""
    if shape(got) != ():
        raise Mismatch(
            on="logits = zeros(3, 4), targets = [0, 1, 3]",
            wanted="a single number, shape ()",
            got=f"shape {shape(got)}: {show(got)}",
            because=because,
        )


@task_1_1.property("four equally likely bytes cost 2 bits each")
def equally_likely(answer: Answer) -> None:
    nats = math.log(4)
    expect(
        answer(torch.zeros(3, 4), torch.tensor([0, 1, 3])),
        2.0,
        on="logits = zeros(3, 4), targets = [0, 1, 3]",
        known=[
            (nats, NATS),
            (-2.0, "The logarithm of a probability is negative, a cost is not."),
            (-nats, "This is negative, and in nats: two things are left to do."),
            (math.log10(4), "This is what the logarithm to base 10 gives."),
            (6.0, "This is the sum over the three positions. Take the mean."),
            (3 * nats, "This is the sum over the three positions, and in nats."),
            (nats * math.log(2), UPSIDE_DOWN),
            (math.inf, "These are logarithms of logits, not of probabilities."),
            (4.0, "This is the perplexity: 2 to the power of what is wanted."),
        ],
    )


@task_1_1.property("only the byte that came is paid for")
def only_the_target(answer: Answer) -> None:
    rows = torch.tensor([[1.0, 1.0, 2.0, 4.0], [1.0, 4.0, 2.0, 1.0]])
    expect(
        answer(rows.log(), torch.tensor([3, 0])),
        2.0,
        on="logits = log [[1, 1, 2, 4], [1, 4, 2, 1]], targets = [3, 0]\n"
        "so the bytes that came had the probabilities 1/2 and 1/8",
        known=[
            (
                1.0,
                "This is what the likeliest byte of each row costs. Which byte came?",
            ),
            (
                -math.log2(0.3125),
                "Here the probabilities were averaged. A cost is "
                "counted byte by byte: first the logarithms, then their mean.",
            ),
            (2.25, "Here every byte is paid for, whether it came or not."),
            (
                1.75,
                "This is the entropy, what the model expects to pay. What it does "
                "pay depends on `targets`.",
            ),
            (
                2.5,
                "Here each row pays for the targets of all rows. "
                "Row i pays for targets[i] alone.",
            ),
        ],
    )


@task_1_1.property("a model that is sure and wrong pays much, not infinity")
def finite_when_wrong(answer: Answer) -> None:
    expect(
        answer(torch.tensor([[1000.0, 0.0]]), torch.tensor([1])),
        1000 / math.log(2),
        on="logits = [[1000, 0]], targets = [1]",
        known=[
            (math.inf, UNDERFLOW),
            (
                _capped(answer),
                "A small number inside the logarithm keeps it finite, "
                "and caps the cost: twice as wrong costs no more. " + ONE_STEP,
            ),
        ],
    )


def _capped(answer: Answer) -> float:
    """What the answer gives for a model that is twice as wrong: the same, if capped."""
    once, twice = (
        float(answer(torch.tensor([[size, 0.0]]), torch.tensor([1])))
        for size in (1000.0, 2000.0)
    )
    return once if once == twice else math.nan


@task_1_1.property("equals the definition on 1,000 random positions")
def equals_definition(answer: Answer) -> None:
    logits = 3 * torch.randn(1000, 256, generator=answer.generator)
    targets = torch.randint(256, (1000,), generator=answer.generator)
    expect(
        answer(logits, targets),
        bits_per_byte(logits, targets),
        on="random logits (1000, 256), random targets",
    )
