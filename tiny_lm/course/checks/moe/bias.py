"""Task 2.6: the bias that steers tokens to idle experts.

Chapter: 02_moe/balance
Source: deepseek_v3, section 2.1.2; aux_free_balancing
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiny_lm.course.checks.before.answer import Answer
from tiny_lm.course.checks.before.expect import Mismatch, expect, show
from tiny_lm.course.checks.before.task import Task


def update_bias(
    bias: Float[Tensor, " E"], load: Int[Tensor, " E"], rate: float
) -> Float[Tensor, " E"]:
    """The next step's bias: up for idle experts, down for busy ones."""
    load = load.to(bias.dtype)
    return bias + rate * torch.sign(load.mean() - load)


task_2_6 = Task(
    id="2.6",
    lab="02_moe",
    title="The balance bias",
    name="update_bias",
    piece="moe.update_bias",
    difficulty=1,
    minutes=10,
    points=2,
    reference=update_bias,
    errors=(
        (
            "could not infer output dtype",
            "The load is whole numbers, and torch takes no mean of those: turn them "
            "into floats for it.",
        ),
        (
            "can't be cast to the desired output type",
            "A step of 0.1 does not fit into an integer tensor. Start from the bias, "
            "which is a float, or turn the load into floats.",
        ),
        (
            "Boolean value of Tensor with more than one value",
            "`if` needs one truth, and there is one comparison per expert: let "
            "torch.sign or torch.where decide for all of them at once.",
        ),
    ),
    hints=(
        """
        An expert with less than the mean load was chosen too rarely. In which direction
        must its bias go so that it is chosen more often?
        """,
        """
        mean load - load is positive for idle experts and negative for busy ones. Only
        its sign counts: every expert moves by exactly `rate`, or not at all. Return a
        new tensor, and turn the integer load into floats before you take the mean.
        """,
        """
        load = load.float()
        The new bias is bias + rate * torch.sign(load.mean() - load).
        """,
    ),
)


@task_2_6.property("idle experts go up by the rate, busy ones down by it")
def up_and_down(answer: Answer) -> None:
    bias, load = torch.tensor([0.5, -0.25, 0.0]), torch.tensor([1, 2, 9])
    step = torch.tensor([0.1, 0.1, -0.1])
    off = 4.0 - load
    got = answer(bias.clone(), load, 0.1)
    expect(
        got,
        bias + step,
        on="bias [0.5, -0.25, 0], load [1, 2, 9] (mean 4), rate 0.1",
        known=[
            (
                bias - step,
                "Busy experts went up, so they get more tokens still. Turn the sign.",
            ),
            (step, "The old bias is gone. The step is added to it: it has to last."),
            (
                bias + 0.1 * off,
                "The step grew with the distance from the mean. Only its sign counts: "
                "a load in the thousands must not throw the bias about.",
            ),
            (
                bias + 0.1 * off / 4,
                "The step grew with the distance from the mean. Only its sign counts: "
                "however far off, a step of `rate`.",
            ),
            (bias + 10 * step, "Is `rate` used? These steps are 1 long."),
            (
                bias + torch.tensor([0.1, 0.0, -0.1]),
                "This compares with the median, 2. Wanted is the mean, 4.",
            ),
            (
                bias + torch.tensor([0.1, 0.1, 0.0]),
                "The busy expert stayed where it was: it has to come down.",
            ),
            (
                bias + torch.tensor([0.0, 0.0, -0.1]),
                "The idle experts stayed where they were: they have to go up.",
            ),
        ],
    )


@task_2_6.property("an expert with exactly the mean load stays where it is")
def mean_stays(answer: Answer) -> None:
    bias, load = torch.tensor([0.25, 0.5, -0.5]), torch.tensor([2, 4, 3])
    for much, words in ((load, "[2, 4, 3]"), (torch.full((3,), 5), "[5, 5, 5]")):
        step = torch.sign(much.double().mean() - much).float()
        down = torch.where(step > 0, 1.0, -1.0)
        up = torch.where(step < 0, -1.0, 1.0)
        because = (
            "An expert whose load is the mean was moved. With `<` and `else` it falls "
            "to one of the sides, and a perfect balance drifts off."
        )
        expect(
            answer(bias.clone(), much, 0.1),
            bias + 0.1 * step,
            on=f"bias [0.25, 0.5, -0.5], load {words}, rate 0.1",
            known=[(bias + 0.1 * down, because), (bias + 0.1 * up, because)],
        )


@task_2_6.property("the mean of whole numbers keeps its fraction")
def mean_has_a_fraction(answer: Answer) -> None:
    load = torch.tensor([3, 1, 1, 2])
    got = answer(torch.zeros(4), load, 0.1)
    expect(
        got,
        torch.tensor([-0.1, 0.1, 0.1, -0.1]),
        on="bias [0, 0, 0, 0], load [3, 1, 1, 2] (mean 1.75), rate 0.1",
        known=[
            (
                torch.tensor([-0.1, 0.0, 0.0, -0.1]),
                "The mean was cut to 1: `//` and `int` drop the fraction.",
            ),
            (
                torch.tensor([-0.1, 0.1, 0.1, 0.0]),
                "The mean was rounded to 2. It is 1.75.",
            ),
        ],
    )


@task_2_6.property("the bias that was handed over stays as it was")
def leaves_the_old(answer: Answer) -> None:
    bias, load = torch.tensor([0.5, -0.25, 0.0]), torch.tensor([1, 2, 9])
    before = bias.clone()
    got = answer(bias, load, 0.1)
    if not torch.equal(bias, before):
        raise Mismatch(
            on="bias [0.5, -0.25, 0], load [1, 2, 9], rate 0.1",
            wanted=f"the old bias still {show(before)}",
            got=bias,
            because="`.data` goes behind autograd's back, not behind the caller's: "
            "return a new tensor.",
        )
    if torch.as_tensor(got).requires_grad:
        raise Mismatch(
            on="bias [0.5, -0.25, 0], load [1, 2, 9], rate 0.1",
            wanted="a plain tensor",
            got="one that wants a gradient",
            because="The bias is moved by this rule alone. As a parameter it would "
            "be handed to the optimizer too.",
        )


@task_2_6.property("equals the definition on random loads, however large")
def equals_definition(answer: Answer) -> None:
    for num_experts, most in ((8, 50), (64, 10**6)):
        load = torch.randint(most, (num_experts,), generator=answer.generator)
        bias = torch.randn(num_experts, generator=answer.generator)
        wanted = update_bias(bias.double(), load, 0.001)
        expect(
            answer(bias.clone(), load, 0.001),
            wanted,
            on=f"{num_experts} experts, loads up to {most:,}, rate 0.001",
            tolerance=1e-6,
        )
