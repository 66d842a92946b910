"""Task 1.6: what the next byte is drawn from: temperature and top-p.

Chapter: 01_baseline/probability_machine
Source: nucleus_sampling
"""

import torch
from torch import Tensor

from tiny_lm.course.checks.before.answer import Answer
from tiny_lm.course.checks.before.expect import Mismatch, expect, shape, show
from tiny_lm.course.checks.before.task import Task
from tiny_lm.generate import next_byte_probabilities as reference

task_1_6 = Task(
    id="1.6",
    lab="01_baseline",
    title="Temperature and top-p",
    name="next_byte_probabilities",
    piece="baseline.next_byte_probabilities",
    difficulty=2,
    minutes=15,
    points=3,
    reference=reference,
    hints=(
        """
        Temperature is one division. For top-p, sort the probabilities and look at how
        much the likelier ones hold together, before the one you are looking at.
        """,
        """
        Divide the logits, then softmax. Sort downwards; cumsum gives the share up to
        and including each; minus the probability itself it is the share before it.
        Keep those whose share before is less than top_p, put them back in their
        places, and divide by their sum.
        """,
        """
        p = (logits / temperature).softmax(-1)
        sorted_p, order = p.sort(descending=True)
        before = sorted_p.cumsum(-1) - sorted_p
        Set sorted_p to 0 where before >= top_p. kept = torch.zeros_like(p) and then
        kept[order] = sorted_p undo the sorting. Return kept / kept.sum().
        """,
    ),
)


def _logits(*weights: float) -> Tensor:
    """Logits whose softmax is in the proportion of these weights."""
    return torch.tensor(weights).log()


DRAWN = "Do not draw yet: the lab does."


@task_1_6.property("a probability for each byte, at temperature 1 the model's own")
def own_probabilities(answer: Answer) -> None:
    wanted = torch.tensor([0.5, 0.3, 0.2])
    got = answer(_logits(5.0, 3.0, 2.0), 1.0, 1.0)
    if shape(got) != (3,):
        raise Mismatch(
            on="logits = log [5, 3, 2], temperature 1, top_p 1",
            wanted="3 probabilities, one for each byte",
            got=f"shape {shape(got)}: {show(got)}",
            because=DRAWN if shape(got) in ((), (1,)) else "",
        )
    expect(
        got,
        wanted,
        on="logits = log [5, 3, 2], temperature 1, top_p 1",
        known=[
            (_logits(5.0, 3.0, 2.0), "These are logits: a softmax is missing."),
            (wanted.log(), "These are logarithms of probabilities."),
            (torch.tensor([0.625, 0.375, 0.0]), "top_p = 1 keeps every byte."),
        ],
    )


@task_1_6.property("a low temperature sharpens, a high one flattens")
def temperature(answer: Answer) -> None:
    sharp = torch.tensor([16.0, 1.0]) / 17
    flat = torch.tensor([2.0, 1.0]) / 3
    even = torch.tensor([0.8, 0.2])
    for heat, wanted, opposite in ((0.5, sharp, flat), (2.0, flat, sharp)):
        expect(
            answer(_logits(4.0, 1.0), heat, 1.0),
            wanted,
            on=f"logits = log [4, 1], temperature {heat}, top_p 1",
            known=[
                (opposite, "This is the opposite: logits times the temperature."),
                (
                    even,
                    "The temperature changes nothing here. Dividing probabilities "
                    "and adding them up to 1 again undoes itself: divide the logits.",
                ),
                (
                    even / heat,
                    "The probabilities were divided, so they no longer add "
                    "up to 1. Divide the logits, before the softmax.",
                ),
                (
                    (even / heat).softmax(-1),
                    "The softmax came twice: over the logits, "
                    "and over the probabilities.",
                ),
            ],
        )


@task_1_6.property("top-p keeps the fewest bytes that hold top_p together")
def keeps_the_nucleus(answer: Answer) -> None:
    expect(
        answer(_logits(10.0, 6.0, 3.0, 1.0), 1.0, 0.7),
        torch.tensor([0.625, 0.375, 0.0, 0.0]),
        on="probabilities [0.5, 0.3, 0.15, 0.05], top_p 0.7",
        known=[
            (
                torch.tensor([1.0, 0.0, 0.0, 0.0]),
                "The byte that crosses the threshold "
                "belongs to the kept ones: without it they hold less than top_p.",
            ),
            (
                torch.tensor([0.5, 0.0, 0.0, 0.0]),
                "The byte that crosses the threshold "
                "belongs to the kept ones; and what is kept must add up to 1 again.",
            ),
            (
                torch.tensor([0.5, 0.3, 0.0, 0.0]),
                "The right bytes are kept. They must add up to 1 again.",
            ),
            (
                torch.tensor([10.0, 6.0, 3.0, 0.0]) / 19,
                "One byte too many: two hold 0.8 already.",
            ),
            (
                torch.tensor([0.5, 0.3, 0.15, 0.05]),
                "Nothing was cut. Does the sum start from the likeliest?",
            ),
            (torch.tensor([0.0, 0.0, 0.75, 0.25]), "The tail was kept, the head cut."),
            (
                torch.zeros(4),
                "Nothing is left: top_p is not compared with single "
                "probabilities, but with their sum from the likeliest on.",
            ),
            (
                torch.full((4,), torch.nan),
                "Nothing was left, and 0 / 0 is NaN: top_p "
                "is compared with a sum of probabilities, from the likeliest on.",
            ),
            (
                torch.tensor([0.5, 0.3, 0.0, 0.0]).softmax(-1),
                "A softmax over "
                "probabilities does not give them back. To make "
                "them add up to 1, divide by their sum.",
            ),
        ],
    )


READ = (
    "The sorting was applied a second time, not undone. To undo it, write at its "
    "indices; reading at them sorts once more."
)


@task_1_6.property("each byte gets its own probability, in whatever order they come")
def any_order(answer: Answer) -> None:
    expect(
        answer(_logits(6.0, 1.0, 10.0, 3.0), 1.0, 0.7),
        torch.tensor([0.375, 0.0, 0.625, 0.0]),
        on="probabilities [0.3, 0.05, 0.5, 0.15], top_p 0.7",
        known=[
            (
                torch.tensor([0.625, 0.375, 0.0, 0.0]),
                "These are in sorted order: put each back in the place it came from.",
            ),
            (torch.tensor([0.0, 0.625, 0.0, 0.375]), READ),
            (
                torch.tensor([6.0, 1.0, 10.0, 0.0]) / 17,
                "The bytes were added up as "
                "they stand. Start from the likeliest: sort first.",
            ),
        ],
    )


@task_1_6.property("the temperature acts before the cut")
def temperature_first(answer: Answer) -> None:
    expect(
        answer(_logits(16.0, 9.0, 4.0, 1.0), 2.0, 0.8),
        torch.tensor([4.0, 3.0, 2.0, 0.0]) / 9,
        on="logits = log [16, 9, 4, 1], temperature 2: 4 : 3 : 2 : 1; top_p 0.8",
        known=[
            (
                torch.tensor([4.0, 3.0, 0.0, 0.0]) / 7,
                "The cut was made at temperature "
                "1, where two bytes hold 0.83. First flatten, then cut.",
            ),
        ],
    )


@task_1_6.property("however small top_p is, the likeliest byte stays")
def likeliest_stays(answer: Answer) -> None:
    for top_p in (0.3, 1e-6):
        expect(
            answer(_logits(3.0, 5.0, 2.0), 1.0, top_p),
            torch.tensor([0.0, 1.0, 0.0]),
            on=f"probabilities [0.3, 0.5, 0.2], top_p {top_p}",
            known=[(torch.full((3,), torch.nan), "Nothing was kept: 0 / 0 is NaN.")],
        )


@task_1_6.property("equals tiny_lm's own on 200 random cases")
def equals_reference(answer: Answer) -> None:
    for _ in range(200):
        logits = 3 * torch.randn(64, generator=answer.generator)
        heat, top_p = (0.2 + torch.rand(2, generator=answer.generator)).tolist()
        top_p = min(top_p, 1.0)
        expect(
            answer(logits, heat, top_p),
            reference(logits, heat, top_p),
            on=f"64 random logits, temperature {heat:.2f}, top_p {top_p:.2f}",
        )
