"""Task 6.2: how many steps a run took to a loss, read from its noisy curve.

Chapter: 06_together/full_model
Source: course
"""

import math

import torch
from jaxtyping import Float
from torch import Generator, Tensor

from tiny_lm.course.checks.case import case, drawn, family, in_double
from tiny_lm.course.checks.task import Task


def steps_to_loss(losses: Float[Tensor, " steps"], target: float, window: int) -> float:
    """Steps after which the mean of the newest losses is at most the target."""
    for step in range(window, len(losses) + 1):
        newest = losses[step - window : step]
        if newest.mean() <= target:
            return float(step)
    return math.inf


task_6_2 = Task(
    id="6.2",
    lab="06_together",
    title="Steps to a loss",
    name="steps_to_loss",
    piece="together.steps_to_loss",
    difficulty=2,
    minutes=12,
    points=2,
    reference=steps_to_loss,
    returns=("steps",),
    errors={
        "max(): expected": "Nothing was left to look at: no mean was low enough, or "
        "there was none. Say what comes then.",
        "index 0 is out of bounds": "Nothing was found, and its first entry was asked "
        "for. What comes where the target is never reached?",
        "maximum size for tensor": "There are fewer losses than `window`, so there is "
        "no mean, and the target is not reached.",
    },
    hints=(
        """
        Stand after step 1, then after step 2, and so on. What can be said there, from
        the losses up to there and no later ones?
        """,
        """
        After `step` steps the newest losses are losses[step - window : step]; the first
        step after which there are enough of them is step `window`. Return at the first
        mean that is low enough; behind the loop nothing was found.
        """,
        """
        for step in range(window, len(losses) + 1): if the mean of
        losses[step - window : step] is <= target, return step. After the loop return
        math.inf.
        """,
    ),
)

MEAN = "newest.mean()"
SLICE = "losses[step - window : step]"

task_6_2.asks(
    "the first step after which the mean of the newest losses is low enough",
    case(
        [6.0, 2.0, 5.0, 1.0, 1.0, 1.0],
        2.5,
        3,
        note="means from step 3 on: 4.33, 2.67, 2.33, 1",
    ),
    case([8.0, 1.0, 6.0, 2.0, 2.0, 2.0], 3.0, 4),
    otherwise="Steps are counted from 1, and after step s the newest losses are the "
    "last `window` of the first s, all with the same weight.",
    mistakes={
        f"{MEAN} => losses[step - 1]": "A single loss was compared. One batch is "
        "easier than another, so a single loss may be low by luck.",
        f"range(window, => range(1, ;; {MEAN} => losses[step - 1]": "A single loss was "
        "compared. One batch is easier than another, so a single loss may be low by "
        "luck.",
        f"{MEAN} => newest.min()": "The lowest of the newest losses was compared. A "
        "mean is not reached before all of them allow it.",
        f"{MEAN} => newest.max()": "Here *every* one of the newest losses has to be "
        "low enough. Their mean is asked for.",
        f"{MEAN} => newest.median()": "This is the median of the newest losses. Their "
        "mean is asked for.",
        f"{MEAN} => newest.sum()": "The newest losses were added up and not divided by "
        "how many they are.",
        "float(step) => float(step - 1)": "This is one step too few. Losses are found "
        "at 0, 1, 2 in the tensor, and steps are counted from 1.",
        "float(step) => float(step + 1)": "This is one step too many: the loss of step "
        "s is the one at s - 1 in the tensor.",
        "float(step) => float(step - window + 1)": "This is the step at which the "
        "window begins. What it says is known only when it is full.",
        "float(step) => float(step - window)": "This counts windows from 0, not steps "
        "from 1: the first window is full after step `window`.",
        "float(step) => float(step - window // 2)": "This is the middle of the window. "
        "What it says is known only when it is full.",
        f"{SLICE} => losses[step - 1 : step - 1 + window]": "The window lies *ahead* "
        "of the step: it reads losses of steps that are still to come.",
        f"{SLICE} => losses[:step]": "The mean runs over all losses since the start, "
        "so the high ones of the first steps weigh on it for ever.",
        "<= target => >= target": "This finds a mean that is still *above* the target.",
        "range(window, len(losses) + 1) => range(window, len(losses) + 1, window)": (
            "The window jumps from one block of steps to the next. It moves on by one "
            "step at a time."
        ),
        "return float(step)\n => found = float(step)\n ;; return math.inf => "
        'return locals().get("found", math.inf)': "This is the last such step, not the "
        "first.",
        'return float(step)\n => found = locals().get("found", 0) + 1\n ;; '
        'return math.inf => return locals().get("found", math.inf)': "This counts the "
        "steps whose mean is low enough. Wanted is the first of them.",
        f"range(window, => range(1, ;; {MEAN} => "
        "losses[max(step - window, 0) : step].sum() / window": "Losses from before the "
        "start were counted as 0, so the first means are far too low.",
    },
)

early = task_6_2.asks(
    "before `window` losses are there, there is no mean",
    case([1.0, 6.0, 6.0, 1.0, 1.0, 1.0], 2.0, 2, note="the first is low by luck"),
    case([1.0, 2.0, 1.0, 6.0], 2.0, 3, note="the first full window is low enough"),
    mistakes={
        "if newest.mean() <= target: => "
        "if losses.unfold(0, window, 1)[step - window :].mean(1).max() <= target:": (
            "The target is reached here for good: every later mean was asked to be low "
            "enough as well. The first time counts."
        ),
        f"range(window, => range(1, ;; {SLICE} => "
        "losses[max(step - window, 0) : step]": "The first means were taken over fewer "
        "losses than `window`. Few losses are low by luck, so nothing can be said "
        "before the window is full.",
        "return float(step) => return float(step) if window < step else math.inf": (
            "The first full window does not count yet, and it should: after step "
            "`window` there are enough losses."
        ),
    },
)

NEVER = "The target is never reached here, and the answer is a number of steps. "


@early.mistake(
    "This counts the means that lie above the target, those after it was reached as "
    "well. Wanted is where the first low one stands."
)
def counted_above(losses, target, window):
    means = losses.unfold(0, window, 1).mean(1)
    above = (means > target).sum().item()
    return float(window + above) if above < len(means) else math.inf


task_6_2.asks(
    "the first time counts, and a mean that equals the target has reached it",
    case(
        [4.0, 2.0, 2.0, 4.0, 2.0, 1.0],
        2.0,
        2,
        note="means: 3, 2, 3, 3, 1.5. It is reached, lost, and reached again",
    ),
    case([3.0, 1.0, 1.0], 2.0, 2),
    mistakes={
        "<= target => < target": "A mean equal to the target was passed over. At most "
        "the target is enough.",
    },
)


task_6_2.asks(
    "infinity where the target is never reached",
    case([6.0, 5.0, 4.0, 3.0], 2.0, 2),
    case([1.0, 1.0], 2.0, 3, note="fewer losses than the window is long"),
    case([6.0, 5.0, 4.0], 4.5, 1, note="reached with the last step"),
    otherwise="Only windows that are full, the last one among them, and infinity where "
    "none of them is low enough.",
    mistakes={
        "return math.inf => return float(len(losses))": NEVER + "A run that does not "
        "get there would look as cheap as one that gets there with its last step.",
        "return math.inf => return float(len(losses) + 1)": NEVER + "One step more "
        "than there were is a guess; infinity cannot be taken for a result.",
        "return math.inf => return 0.0": NEVER + "0 would look as if it had been "
        "reached before it began.",
        "return math.inf => return float(window)": NEVER + "`argmax` of a mask without "
        "a single True is 0, so it looks as if the first mean had been low enough.",
        "return math.inf => return -1.0": NEVER + "-1 is no number of steps, and a "
        "cost computed from it is below nothing.",
        "return math.inf => return math.nan": "NaN is neither more nor less than "
        "anything, so no comparison with it works. Infinity is more than any number.",
        "len(losses) + 1 => len(losses)": "The last step was left out: `range` stops "
        "before its end.",
    },
)


def _curve(generator: Generator, steps: int, window: int) -> tuple[Tensor, float, int]:
    noise = torch.randn(steps, generator=generator)
    falls = 2 + 3 * torch.exp(-torch.arange(steps) / 12) + 0.3 * noise
    return falls, 3.3, window


task_6_2.asks(
    "equals the definition on noisy curves",
    family(_curve, {"steps": 60, "window": 5}, ones=["steps", "window"], double=True),
    drawn(lambda g: _curve(g, 40, 40)),
    in_double(case([5.0, 4.0, 3.0], 3.0, 1)),
)


@task_6_2.accepts
def all_means_at_once(losses, target, window):
    if len(losses) < window:
        return math.inf
    reached = losses.double().unfold(0, window, 1).mean(1) <= target
    return reached.float().argmax().item() + window if reached.any() else float("inf")


@task_6_2.accepts
def with_running_sums(values, goal, n):
    sums = torch.cat([torch.zeros(1, dtype=torch.float64), values.double().cumsum(0)])
    for end in range(n, len(values) + 1):
        if sums[end] - sums[end - n] <= goal * n + 1e-9:
            return end
    return math.inf


@task_6_2.accepts
def a_queue_of_plain_numbers(losses, target, window):
    newest = []
    for step, loss in enumerate(losses.tolist(), start=1):
        newest = [*newest, loss][-window:]
        if len(newest) == window and sum(newest) / window <= target:
            return step
    return math.inf
