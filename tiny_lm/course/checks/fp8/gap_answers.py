"""Task 4.8 on noisy curves, and right answers in other styles.

Chapter: 04_fp8/adding_up
Source: course
"""

import torch

from tiny_lm.course.checks.case import Case
from tiny_lm.course.checks.fp8.gap import mixed, task_4_8
from tiny_lm.course.checks.fp8.twins import SEED, Train


def _noisy(generator: torch.Generator, steps: int) -> tuple:
    curve = 3 / torch.arange(1, steps + 1) ** 0.3
    noise = 0.1 * torch.randn(3, steps, generator=generator)
    losses = zip(("fp32", "fp8", "nudged"), (curve + noise).tolist(), strict=True)
    return Train(**dict(losses)), SEED, 0.9


task_4_8.asks(
    "equals the definition on curves of 1 and of 200 steps",
    Case(lambda generator: _noisy(generator, 200)),
    Case(lambda generator: _noisy(generator, 1)),
)


@task_4_8.accepts
def with_accumulate(train, seed, keep):
    twin = mixed(train("fp32", seed).tolist(), keep)
    runs = (mixed(train(p, seed).tolist(), keep) for p in ("fp8", "nudged"))
    return [(run - twin) / twin for run in runs]


@task_4_8.accepts
def with_a_table_of_weights(train, seed, keep):
    names = ["fp32", "fp8", "nudged"]
    losses = torch.stack([train(name, seed) for name in names]).double()
    steps = torch.arange(losses.shape[1])
    age = steps[:, None] - steps
    weights = (1 - keep) * (keep ** age.clamp(min=0).double()) * (age >= 0)
    weights[:, 0] = keep ** steps.double()
    twin, *runs = losses @ weights.T
    return tuple(run.div(twin).sub(1) for run in runs)
