"""Task 2.6: the bias that steers tokens to idle experts.

Chapter: 02_moe/balance
Source: deepseek_v3, section 2.1.2; aux_free_balancing
"""

import torch
from jaxtyping import Float, Int
from torch import Generator, Tensor

from tiny_lm.course.checks.case import case, family
from tiny_lm.course.checks.task import Task


def update_bias(
    bias: Float[Tensor, " E"], load: Int[Tensor, " E"], rate: float
) -> Float[Tensor, " E"]:
    """The next step's bias: up for idle experts, down for busy ones."""
    load = load.to(bias.dtype)
    mean = load.mean()
    step = torch.sign(mean - load)
    return bias + rate * step


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
    returns=("bias",),
    errors={
        "can't be cast to the desired output type": "A step of 0.1 does not fit into "
        "an integer tensor. Start from the bias, which is a float, or turn the load "
        "into floats.",
        "Boolean value of Tensor with more than one value": "`if` needs one truth, and "
        "there is one comparison per expert: let torch.sign or torch.where decide for "
        "all of them at once.",
    },
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

DISTANCE = (
    "The step grew with the distance from the mean. Only its sign counts: however far "
    "off, a step of `rate`. A load in the thousands must not throw the bias about."
)

task_2_6.asks(
    "idle experts go up by the rate, busy ones down by it",
    case([0.5, -0.25, 0.0], [1, 2, 9], 0.1, note="mean load 4"),
    case([0.5, -0.25, 0.0, 1.0], [1, 2, 7, 2], 0.01, note="mean load 3"),
    otherwise="Each bias moves by +rate or -rate, by whether its own load lies "
    "below or above the mean of all loads. How far, and compared with "
    "what, is it here?",
    mistakes={
        "torch.sign(mean - load) => torch.sign(load - mean)": "Busy experts went up, "
        "so they get more tokens still. Turn the sign.",
        "return bias + rate * step => return rate * step": "The old bias is gone. The "
        "step is added to it: it has to last.",
        "torch.sign(mean - load) => (mean - load)": DISTANCE,
        "torch.sign(mean - load) => (mean - load) / mean": DISTANCE,
        "torch.sign(mean - load) => torch.tanh((mean - load) / mean)": DISTANCE,
        "return bias + rate * step => return bias + rate * step.clamp(min=0)": "The "
        "busy experts stayed where they were: they have to come down.",
        "return bias + rate * step => return bias + rate * step.clamp(max=0)": "The "
        "idle experts stayed where they were: they have to go up.",
        "return bias + rate * step => return bias * (1 + rate * step)": "The step was "
        "multiplied in. It is added: a bias of 0 would never move.",
        "rate * step => rate * step * ((load == load.max()) | (load == load.min()))": (
            "Only the busiest and the idlest were moved. Every expert off the mean is."
        ),
        "return bias + rate * step => return bias + rate * (step - step.mean())": (
            "The steps were shifted so that they add up to 0. Each is rate, 0 or -rate."
        ),
    },
)

DRIFT = (
    "An expert whose load is the mean was moved. With `<` and `else` it falls to one "
    "of the sides, and a perfect balance drifts off."
)

task_2_6.asks(
    "an expert with exactly the mean load stays where it is",
    case([0.25, 0.5, -0.5], [2, 4, 3], 0.1),
    case([0.25, 0.5, -0.5], [5, 5, 5], 0.1),
    otherwise="Only a load that is the mean stays.",
    mistakes={
        "torch.sign(mean - load) => torch.where(load < mean, 1.0, -1.0)": DRIFT,
        "torch.sign(mean - load) => torch.where(load > mean, -1.0, 1.0)": DRIFT,
    },
)

task_2_6.asks(
    "the mean is over all experts and keeps its fraction",
    case([0.0] * 4, [3, 1, 1, 2], 0.1, note="mean load 1.75"),
    case([0.0] * 4, [0, 2, 3, 4], 0.1, note="mean load 2.25, the idle expert's 0 too"),
    otherwise="Compare each load with the mean as it is, and by nothing but "
    "larger or smaller.",
    mistakes={
        "mean = load.mean() => mean = load.sum() // len(load)": "The mean lost its "
        "fraction: `//` and `int` drop it.",
        "mean = load.mean() => mean = load.mean().round()": "The mean was rounded. It "
        "keeps its fraction.",
        "torch.sign(mean - load) => (mean - load).clamp(-1, 1)": "Close to the mean "
        "the step became smaller. However near, it is a step of `rate`.",
        "mean = load.mean() => mean = load[load > 0].mean()": "The mean was taken over "
        "the experts with work. The idle one counts as well: it is the one to help.",
        "mean = load.mean() => mean = (load.max() + load.min()) / 2": "This is the "
        "middle between the extremes. Wanted is the mean.",
    },
)


def _draw(generator: Generator, E: int, most: int) -> tuple:
    load = torch.randint(most, (E,), generator=generator)
    return torch.randn(E, generator=generator), load, 0.001


task_2_6.asks(
    "equals the definition on random loads, however large",
    family(_draw, {"E": 8, "most": 50}, ones=["E", "most"], double=True),
    family(_draw, {"E": 64, "most": 10**6}),
    tolerance=1e-6,
    mistakes={
        "rate * step => max(rate, 0.01) * step": "A step may be smaller than 0.01: "
        "V3's is 0.001.",
        "return bias + rate * step => return (bias + rate * step).clamp(-1.5, 1.5)": (
            "The bias was cut off. Nothing limits it."
        ),
    },
)


@task_2_6.accepts
def two_comparisons(bias, load, rate):
    mean = load.sum() / len(load)
    return bias + rate * (load < mean).float() - rate * (load > mean).float()


@task_2_6.accepts
def without_division(bias, load, rate):
    return bias + rate * torch.sign(load.sum() - load * len(load))


@task_2_6.accepts
def loop_over_experts(bias, load, rate):
    counts = load.tolist()
    mean = sum(counts) / len(counts)
    moved = [
        b + rate if n < mean else b - rate if n > mean else b
        for b, n in zip(bias.tolist(), counts, strict=True)
    ]
    return torch.tensor(moved)
