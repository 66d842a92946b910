"""Task 2.5: how much each expert has to do, and how uneven that is.

Chapter: 02_moe/balance
Source: aux_free_balancing, MaxVio
"""

import torch
from jaxtyping import Int
from torch import Tensor

from tiny_lm.course.checks.answer import Answer
from tiny_lm.course.checks.expect import Mismatch, expect, shape
from tiny_lm.course.checks.task import Task
from tiny_lm.router import expert_load, max_violation


def load_and_violation(
    experts: Int[Tensor, "N k"], num_experts: int
) -> tuple[Int[Tensor, " E"], float]:
    """How often each expert was chosen, and how far the busiest exceeds the mean."""
    load = expert_load(experts, num_experts)
    return load, max_violation(load)


task_2_5 = Task(
    id="2.5",
    lab="02_moe",
    title="Load and violation",
    name="load_and_violation",
    piece="moe.load_and_violation",
    difficulty=1,
    minutes=10,
    points=2,
    reference=load_and_violation,
    errors=(
        (
            "1-d non-negative",
            "bincount counts one row of ids: flatten the choices of all tokens first.",
        ),
        (
            "could not infer output dtype",
            "The mean of whole numbers need not be whole, so torch refuses it for an "
            "integer tensor: turn the load into floats for the mean.",
        ),
        (
            "division by zero",
            "No token, no load, so the mean is 0. Say what the violation is then: "
            "nobody exceeds anything.",
        ),
    ),
    hints=(
        """
        Every choice of every token is one unit of work. Count how often each id from 0
        to num_experts - 1 stands in `experts`, ids that never come included.
        """,
        """
        torch.bincount counts ids in a flat tensor; its `minlength` sees to the experts
        that nobody chose. The violation is (largest load - mean load) / mean load, the
        mean taken over all experts. With no tokens the mean is 0: return 0.0.
        """,
        """
        load = torch.bincount(experts.flatten(), minlength=num_experts)
        mean = load.double().mean()
        The violation is float((load.max() - mean) / mean) if mean > 0, else 0.0.
        """,
    ),
)

NOBODY = (
    "The experts that nobody chose are missing, and they are the ones to find. "
    "`bincount` stops at the largest id unless it is given a `minlength`."
)
FIRST = "Only the best choice of each token was counted. All k of them are work."
ON_FOUR = "experts [[0, 1], [0, 1], [0, 2], [3, 0]], num_experts 4"
FOUR = torch.tensor([[0, 1], [0, 1], [0, 2], [3, 0]])


def _both(answer: Answer, experts: Tensor, num_experts: int) -> tuple[Tensor, float]:
    """The load and the violation, once two things came back."""
    got = answer(experts, num_experts)
    if not isinstance(got, tuple | list) or len(got) != 2:
        raise Mismatch(
            on=answer.call((experts, num_experts)),
            wanted="two results: the load and the violation",
            got=got,
        )
    return torch.as_tensor(got[0]), got[1]


@task_2_5.property("the load counts every choice of every token")
def counts_choices(answer: Answer) -> None:
    load, _ = _both(answer, FOUR, 4)
    expect(
        load,
        torch.tensor([4, 2, 1, 1]),
        on=ON_FOUR,
        known=[
            (torch.tensor([3, 0, 0, 1]), FIRST),
            (torch.tensor([3]), FIRST),
            (
                torch.tensor([4, 2, 1, 1]) / 8,
                "These are shares. The load is a count: over several machines, counts "
                "can be added up and shares cannot.",
            ),
            (
                torch.tensor([4, 2, 1, 1]) / 4,
                "These are choices per token. The load is a count: over several "
                "machines, counts can be added up and means cannot.",
            ),
        ],
    )
    if load.is_floating_point():
        raise Mismatch(
            on=ON_FOUR,
            wanted="whole numbers: an integer dtype",
            got=f"{load.dtype}",
            because="A float32 count stands still at 16,777,216: adding 1 more changes "
            "nothing. Counts are integers.",
        )


@task_2_5.property("an expert that nobody chose has load 0, the last one too")
def counts_nobody(answer: Answer) -> None:
    experts = torch.tensor([[1, 2], [2, 1]])
    load, _ = _both(answer, experts, 5)
    short = NOBODY if shape(load) in ((3,), (2,)) else ""
    expect(
        load,
        torch.tensor([0, 2, 2, 0, 0]),
        on="experts [[1, 2], [2, 1]], num_experts 5",
        known=[(load, short)],
    )


@task_2_5.property("the violation is how far the busiest lies above the mean")
def violation(answer: Answer) -> None:
    experts = torch.tensor([[0, 1], [0, 1], [0, 1], [0, 2], [0, 2], [0, 3]])
    _, got = _both(answer, experts, 4)
    load = torch.tensor([6.0, 3.0, 2.0, 1.0])
    expect(
        got,
        1.0,
        on="choices that give the load [6, 3, 2, 1] (mean 3)",
        known=[
            (
                2.0,
                "This is largest / mean. Wanted is the excess over the mean: 0 where "
                "all are equal.",
            ),
            (3.0, "This is largest - mean, in choices. Measure it in means: divide."),
            (0.5, "Divide by the mean, not by the largest."),
            (5.0, LEAST),
            (5 / 3, LEAST),
            (float(load.std() / 3), DEVIATION),
            (float(load.std(correction=0) / 3), DEVIATION),
        ],
    )


LEAST = "The least busy expert plays no part: everybody waits for the busiest."
DEVIATION = (
    "This is a standard deviation. A step takes as long as the busiest expert does, so "
    "only that one counts."
)


@task_2_5.property("the mean is over all experts, and only an excess counts")
def over_all_experts(answer: Answer) -> None:
    _, got = _both(answer, torch.tensor([[0, 1, 2], [2, 1, 0], [2, 0, 1]]), 4)
    expect(
        got,
        1 / 3,
        on="experts [[0, 1, 2], [2, 1, 0], [2, 0, 1]], num_experts 4:\n"
        "load [3, 3, 3, 0]",
        known=[
            (
                0.0,
                "The mean was taken over the three experts with work. The idle one "
                "is what makes this uneven: the mean is 9 choices / 4 experts.",
            ),
            (
                1.0,
                "The largest distance from the mean is that of the idle expert, and "
                "nobody waits for it. Take the busiest, without an absolute value.",
            ),
            (
                0.5,
                "The mean lost its fraction: it is 2.25 here, and `//` and `int` make "
                "it 2.",
            ),
        ],
    )


@task_2_5.property("no tokens: no load, and no violation")
def no_tokens(answer: Answer) -> None:
    nothing = torch.empty(0, 2, dtype=torch.int64)
    load, got = _both(answer, nothing, 3)
    expect(load, torch.tensor([0, 0, 0]), on="no tokens, num_experts 3")
    expect(
        got,
        0.0,
        on="no tokens, num_experts 3",
        known=[
            (
                torch.nan,
                "0 / 0 is NaN. A rank may get an empty share of a batch, and a "
                "NaN would spread: nobody exceeds anything here.",
            ),
        ],
    )


@task_2_5.property("equals the definition on random choices")
def equals_definition(answer: Answer) -> None:
    for num_experts, top_k in ((8, 2), (64, 6)):
        rand = torch.rand(300, num_experts, generator=answer.generator)
        experts = (rand * torch.linspace(0.5, 1, num_experts)).topk(top_k).indices
        load, got = _both(answer, experts, num_experts)
        wanted, value = load_and_violation(experts, num_experts)
        on = f"300 tokens that choose {top_k} of {num_experts} experts"
        expect(load, wanted, on=on)
        expect(got, value, on=on)
