"""Task 6.1: what a run costs in rented GPUs, and for how much of it they compute.

Chapter: 06_together/full_model
Source: course
"""

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from tiny_lm.course.checks.case import case, drawn, family
from tiny_lm.course.checks.task import Task


def bill(
    compute_ms: Float[Tensor, " gpus"],
    exposed_ms: Float[Tensor, " gpus"],
    steps: float,
    usd_per_gpu_hour: float,
) -> tuple[float, float]:
    """Dollars for the run, and the share of the rented time in which GPUs compute."""
    step_ms = (compute_ms + exposed_ms).max()
    rented_ms = len(compute_ms) * step_ms
    hours = steps * rented_ms / 1000 / 3600
    at_work = compute_ms.sum() / rented_ms
    return float(hours * usd_per_gpu_hour), float(at_work)


task_6_1 = Task(
    id="6.1",
    lab="06_together",
    title="The bill",
    name="bill",
    piece="together.bill",
    difficulty=2,
    minutes=12,
    points=2,
    reference=bill,
    returns=("dollars", "at_work"),
    tolerance=1e-6,
    errors={
        "cannot convert float infinity": "`steps` may be infinite, and infinity is no "
        "whole number: leave it as it is, the price is infinite too.",
    },
    hints=(
        """
        Who rents four GPUs pays for four, for as long as the step takes, whether they
        compute or wait. So first: how long does the step take?
        """,
        """
        A GPU is through with its own part after compute + exposed, and the step is over
        when the last one is. GPUs × that time is rented; from milliseconds to hours
        there are two divisions. At work is all compute over all that was rented.
        """,
        """
        step_ms = (compute_ms + exposed_ms).max(), rented_ms = len(compute_ms) *
        step_ms. Dollars: steps * rented_ms / 1000 / 3600 * usd_per_gpu_hour; at work:
        compute_ms.sum() / rented_ms. Both as plain numbers, `float(…)`.
        """,
    ),
)

UNITS = (
    "The units do not fit. A second has 1,000 milliseconds, and an hour 3,600 seconds."
)
ALONE = "One GPU was paid. All of them are rented."

task_6_1.asks(
    "all GPUs are paid for all steps",
    case(
        *([900.0, 900.0, 900.0, 900.0], [900.0, 900.0, 900.0, 900.0], 1000.0, 2.0),
        note="4 GPUs x 1.8 s x 1,000 steps are 2 hours",
    ),
    case([900.0], [0.0], 400.0, 5.0, note="a tenth of an hour"),
    only=("dollars",),
    otherwise="GPUs x seconds of a step x steps / 3,600 are hours, and each costs the "
    "same. What else comes in, or is left out?",
    mistakes={
        "rented_ms = len(compute_ms) * step_ms => rented_ms = step_ms": ALONE,
        "steps * rented_ms => steps * step_ms": ALONE,
        "steps * rented_ms => steps * compute_ms.sum()": "Only the time in which GPUs "
        "compute was paid. The landlord does not ask what they do.",
        "steps * rented_ms => rented_ms": "This is the price of one step.",
        " / 1000 / 3600 => / 3600": UNITS,
        " / 1000 / 3600 => / 1000 / 60": UNITS,
        " / 1000 / 3600 => / 1000": UNITS,
        " / 1000 / 3600 => / 1000 / 60 / 60 / 24": "These are days. The price is that "
        "of an hour.",
        "hours * usd_per_gpu_hour => hours": "These are hours. What do they cost?",
        "hours * usd_per_gpu_hour => hours / usd_per_gpu_hour": "Hours were divided by "
        "the price of one of them.",
        "(compute_ms + exposed_ms).max() => compute_ms.max()": "Only the time in which "
        "GPUs compute was paid. The landlord does not ask what they do.",
        "(compute_ms + exposed_ms).max() => "
        "torch.maximum(compute_ms, exposed_ms).max()": "Compute and exposed "
        "communication were taken to happen at once. Exposed is what happens while "
        "*nothing* is computed, so the two add up.",
        "(compute_ms + exposed_ms).max() => (compute_ms - exposed_ms).max()": "Exposed "
        "time was taken off. It comes on top of what is computed.",
        "rented_ms = len(compute_ms) * step_ms => "
        "rented_ms = len(compute_ms) ** 2 * step_ms": "The GPUs were counted twice.",
        "rented_ms = len(compute_ms) * step_ms => rented_ms = 4 * step_ms": "Four GPUs "
        "stand there as a number. How many there are, `compute_ms` says.",
    },
)

OWN = (
    "Each GPU was paid until it was through itself. It is rented until the slowest is: "
    "the next step begins for all at once."
)

task_6_1.asks(
    "a step lasts until the slowest GPU is through",
    case(
        *([1200.0, 600.0], [200.0, 1200.0], 1000.0, 3.6),
        note="the first is through after 1,400 ms, the second after 1,800",
    ),
    case([100.0, 200.0, 300.0], [300.0, 0.0, 50.0], 36_000.0, 1.0),
    only=("dollars",),
    otherwise="Compute and exposed of one GPU add up, and the largest of these sums is "
    "the step, for all GPUs.",
    mistakes={
        "(compute_ms + exposed_ms).max() => (compute_ms + exposed_ms).mean()": OWN,
        "rented_ms = len(compute_ms) * step_ms => "
        "rented_ms = (compute_ms + exposed_ms).sum()": OWN,
        "(compute_ms + exposed_ms).max() => (compute_ms + exposed_ms).min()": "The "
        "step ends here when the *fastest* GPU is through.",
        "(compute_ms + exposed_ms).max() => compute_ms.max() + exposed_ms.max()": (
            "The longest compute of one GPU and the longest wait of another were added "
            "up. Each GPU has its own sum, and the largest of these is the step."
        ),
        "(compute_ms + exposed_ms).max() => (compute_ms + exposed_ms)[0]": "The first "
        "GPU's time was taken for the step's. Who is the slowest?",
        "(compute_ms + exposed_ms).max() => (compute_ms + exposed_ms)[-1]": "The last "
        "GPU's time was taken for the step's. Who is the slowest?",
        "(compute_ms + exposed_ms).max() => "
        "(compute_ms + exposed_ms)[compute_ms.argmax()]": "The GPU that computes most "
        "was taken for the slowest. Another may compute less and wait for longer.",
    },
)

SHARES = (
    "Each GPU's share of its *own* time was averaged. The time that the faster ones "
    "wait for the slowest is paid for as well."
)

task_6_1.asks(
    "at work is all compute over all that is rented",
    case(
        *([1200.0, 900.0], [200.0, 900.0], 1000.0, 3.6),
        note="2,100 ms of compute in 2 x 1,800 ms",
    ),
    case([100.0, 200.0, 300.0], [300.0, 0.0, 50.0], 1.0, 1.0),
    otherwise="All compute, divided by the GPUs x the time of the step.",
    mistakes={
        "compute_ms.sum() / rented_ms => exposed_ms.sum() / rented_ms": "This is the "
        "share of exposed communication.",
        "compute_ms.sum() / rented_ms => 1 - compute_ms.sum() / rented_ms": "This is "
        "the share of the time in which they *wait*.",
        "compute_ms.sum() / rented_ms => compute_ms.sum() / step_ms": "Compute of all "
        "GPUs was divided by the time of one. The share cannot exceed 1.",
        "compute_ms.sum() / rented_ms => compute_ms.max() / step_ms": "This is the "
        "share of the GPU that computes most, not of all that is rented.",
        "compute_ms.sum() / rented_ms => "
        "(compute_ms / (compute_ms + exposed_ms)).mean()": SHARES,
        "compute_ms.sum() / rented_ms => "
        "compute_ms.sum() / (compute_ms + exposed_ms).sum()": "Only each GPU's own "
        "time was counted below. What the faster ones wait for the slowest is rented "
        "too.",
        "compute_ms.sum() / rented_ms => compute_ms.sum() / exposed_ms.sum()": "This "
        "is compute against communication. Divide by all the time that is rented.",
        "compute_ms.sum() / rented_ms => (compute_ms + exposed_ms).sum() / rented_ms": (
            "Exposed communication was counted as work. Nothing is computed in it."
        ),
        "compute_ms.sum() / rented_ms => 100 * compute_ms.sum() / rented_ms": "This is "
        "in per cent. A share lies between 0 and 1.",
        "compute_ms.sum() / rented_ms => compute_ms.sum() / rented_ms * steps": "The "
        "share was multiplied by the steps. All steps are alike.",
    },
)

task_6_1.asks(
    "a target that is never reached costs infinitely much",
    case([50.0, 40.0], [10.0, 25.0], float("inf"), 2.0),
    mistakes={
        "steps * rented_ms => (steps if steps < 1e30 else 0.0) * rented_ms": "A run "
        "that never gets there looks free here. Its price is infinite.",
        "float(at_work) => float(at_work) if steps < 1e30 else 0.0": "How busy GPUs "
        "are has nothing to do with how many steps there are.",
    },
)


def _draw(generator: Generator, gpus: int) -> tuple[Tensor, Tensor, float, float]:
    compute, exposed = 100 * torch.rand(2, gpus, generator=generator)
    return compute, exposed, 3000.0, 2.5


task_6_1.asks(
    "equals the definition for any GPUs",
    family(_draw, {"gpus": 64}, ones=["gpus"], double=True),
    drawn(lambda g: (torch.rand(3, generator=g), torch.zeros(3), 7.0, 1.0)),
)


@task_6_1.accepts
def gpu_by_gpu(compute_ms, exposed_ms, steps, usd_per_gpu_hour):
    pairs = list(zip(compute_ms.tolist(), exposed_ms.tolist(), strict=True))
    longest = max(a + b for a, b in pairs)
    usd = sum(longest / 3_600_000 * usd_per_gpu_hour for _ in pairs) * steps
    return usd, sum(a for a, _ in pairs) / longest / len(pairs)


@task_6_1.accepts
def by_waiting_time(compute, exposed, n, price):
    step = (compute.double() + exposed.double()).amax()
    idle = (step - compute).sum() / (step * compute.numel())
    return (n * price * compute.numel() * step / 3.6e6).item(), (1 - idle).item()
