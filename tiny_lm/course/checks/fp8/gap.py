"""Task 4.8: how far a training run ended from its twin, beside how far chance takes it.

Chapter: 04_fp8/adding_up
Source: deepseek_v3, appendix B.1
"""

from collections.abc import Callable
from itertools import accumulate

import torch
from jaxtyping import Float
from torch import Tensor

from tiny_lm.course.checks.case import Case
from tiny_lm.course.checks.fp8.twins import SEED, Train
from tiny_lm.course.checks.task import Task


def relative_gap(
    train: Callable[[str, int], Float[Tensor, " steps"]], seed: int, keep: float
) -> tuple[Float[Tensor, " steps"], Float[Tensor, " steps"]]:
    """Gaps of the FP8 run and of the nudged one to their FP32 twin, step by step."""

    def smoothed(products, seed):
        losses = train(products, seed)
        means = [losses[0]]
        for loss in losses[1:]:
            means.append(keep * means[-1] + (1 - keep) * loss)
        return torch.stack(means)

    fp8 = smoothed("fp8", seed)
    nudged = smoothed("nudged", seed)
    twin = smoothed("fp32", seed)
    return fp8 / twin - 1, nudged / twin - 1


RUNS, GAP, NULL = "runs:", "gap", "null_gap"


def _view(result: tuple[Tensor, Tensor], train: Train, seed: int, keep: float) -> dict:
    """Which runs were asked for, in whatever order, and both gaps."""
    return {RUNS: ", ".join(sorted(train.asked)), GAP: result[0], NULL: result[1]}


task_4_8 = Task(
    id="4.8",
    lab="04_fp8",
    title="A gap, and what chance makes of it",
    name="relative_gap",
    piece="fp8.relative_gap",
    difficulty=2,
    minutes=20,
    points=3,
    reference=relative_gap,
    returns=(GAP, NULL),
    view=_view,
    tolerance=1e-5,
    errors={
        "there are no products": 'The three are called "fp32", "fp8" and "nudged".',
        "must be Tensor, not list": "Make one tensor of the list: torch.stack of its "
        "numbers, or torch.tensor.",
        "unsupported operand type(s) for /: 'list'": "Make one tensor of the list: "
        "torch.stack of its numbers, or torch.tensor.",
    },
    hints=(
        """
        Two runs may be compared if they differ in one thing only. Which three runs
        does it take, and what is the same in all of them?
        """,
        """
        Smooth the losses of each run first: a mean that begins with the first loss, and
        from then on keeps `keep` of itself and takes 1 - keep of the new loss. The gap
        is the smoothed loss of FP8 over that of FP32, minus 1, at every step. The
        nudged run is compared with FP32 in the same way.
        """,
        """
        Within a helper: means = [losses[0]], then for each later loss
        means.append(keep * means[-1] + (1 - keep) * loss), and torch.stack(means).
        gap = smoothed(train("fp8", seed)) / smoothed(train("fp32", seed)) - 1.
        """,
    ),
)


def of(keep: float, note: str = "", **losses: list[float]) -> Case:
    return Case(lambda generator: (Train(**losses), SEED, keep), note)


def table_of(**losses: list[float]) -> str:
    """Losses as a note tells them."""
    return "\n".join(f"train({name!r}, {SEED}) gives {x}" for name, x in losses.items())


FLAT = {"fp32": [4.0, 4.0], "fp8": [5.0, 5.0], "nudged": [3.0, 3.0]}
CURVED = {"fp32": [4.0, 2.0, 2.0], "fp8": [4.0, 3.0, 2.0], "nudged": [4.0, 2.0, 3.0]}
OTHER_SEED = (
    "A run had another seed. Runs with another seed start from other weights and read "
    "other text: only what differs in one thing can be compared."
)

task_4_8.asks(
    "three runs with the same seed: fp32, fp8 and nudged, each once",
    of(0.5, table_of(**FLAT), **FLAT),
    only=(RUNS,),
    otherwise="Each of the three runs is needed once, since every training costs time. "
    "A gap has a number for each step.",
    mistakes={
        'smoothed("fp8", seed) => smoothed("fp8", seed + 1)': OTHER_SEED,
        'smoothed("nudged", seed) => smoothed("nudged", seed + 1)': OTHER_SEED,
        'smoothed("fp32", seed) => smoothed("fp32", seed + 1)': OTHER_SEED,
        'smoothed("fp32", seed) => smoothed("fp32", 0)': "A run had seed 0, not the "
        "one that was handed over.",
        'smoothed("fp8", seed) => smoothed("fp32", seed)': "FP32 was compared with "
        "itself. The first gap is that of the FP8 run.",
        'smoothed("nudged", seed) => smoothed("fp32", seed)': "FP32 was compared with "
        "itself. Its gap to its own copy says nothing: that of the nudged run does.",
        'smoothed("nudged", seed) => smoothed("fp32", seed + 1)': "An FP32 run with "
        "another seed stands where the nudged one belongs: it differs in "
        "far more than one rounding of its first weights.",
        'smoothed("fp32", seed) => smoothed("nudged", seed)': "The nudged run served "
        "as the twin. Both are compared with the FP32 run.",
        "return fp8 / twin - 1, nudged / twin - 1 => "
        "return (fp8 / twin - 1)[-1], (nudged / twin - 1)[-1]": "Only the last step is "
        "left. Both gaps have a number for each step.",
        "return fp8 / twin - 1, nudged / twin - 1 => "
        "return (fp8 / twin - 1).mean(), (nudged / twin - 1).mean()": "The steps were "
        "averaged. Both gaps have a number for each step.",
        "return fp8 / twin - 1, nudged / twin - 1 => "
        "return (fp8 / twin - 1)[1:], (nudged / twin - 1)[1:]": "The first step is "
        "missing. Both gaps have a number for each step.",
        "return fp8 / twin - 1, nudged / twin - 1 => "
        'return fp8 / twin - 1, nudged / smoothed("fp32", seed) - 1': "FP32 was "
        "trained twice with one seed, which gives the same losses twice.",
    },
)

task_4_8.asks(
    "a gap is the share by which a run lies above its twin, below it with a minus",
    of(
        0.5, f"{table_of(**FLAT)},\nso FP8 is a quarter above, nudged one below", **FLAT
    ),
    only=(GAP, NULL),
    otherwise="Losses that never change are as smooth as they can be: loss over the "
    "twin's loss, minus 1.",
    mistakes={
        "return fp8 / twin - 1, nudged / twin - 1 => "
        "return (fp8 / twin - 1).abs(), (nudged / twin - 1).abs()": "The sign got "
        "lost. A run that is better than its twin has a gap below 0, and a mean of "
        "gaps without signs is never 0.",
        "return fp8 / twin - 1, nudged / twin - 1 => "
        "return fp8 - twin, nudged - twin": (
            "This is the difference in nats. Wanted is its share of the twin's loss."
        ),
        "return fp8 / twin - 1, nudged / twin - 1 => "
        "return fp8 / twin, nudged / twin": (
            "This is the quotient: 1 where there is no gap. Take 1 off."
        ),
        "return fp8 / twin - 1, nudged / twin - 1 => "
        "return (fp8 / twin).log(), (nudged / twin).log()": "This is the logarithm of "
        "the quotient, which is near to a small gap and off for a large one.",
        "return fp8 / twin - 1, nudged / twin - 1 => "
        "return fp8 / twin - nudged / twin, nudged / twin - 1": "The null gap was "
        "taken off. They are two answers: how far FP8 is, and how far chance.",
        "return fp8 / twin - 1, nudged / twin - 1 => "
        "return fp8 / twin - 1, 0 * nudged": "The second gap is 0 at every step. The "
        "nudged run does stray from its twin, and how far is what is asked.",
        "return fp8 / twin - 1, nudged / twin - 1 => "
        "return 1 - fp8 / twin, 1 - nudged / twin": "The sign is turned round: a loss "
        "above the twin's is a gap above 0.",
        "return fp8 / twin - 1, nudged / twin - 1 => "
        "return 1 - twin / fp8, 1 - twin / nudged": "The difference was divided by the "
        "run's own loss. The twin's is the measure.",
        "return fp8 / twin - 1, nudged / twin - 1 => "
        "return nudged / twin - 1, fp8 / twin - 1": "The null gap came first. That of "
        "FP8 comes first.",
        "return fp8 / twin - 1, nudged / twin - 1 => "
        "return fp8 / nudged - 1, nudged / twin - 1": "FP8 was compared with the "
        "nudged run. Both are compared with the FP32 run.",
        "return fp8 / twin - 1, nudged / twin - 1 => "
        "return fp8 / twin - 1, nudged / fp8 - 1": "The nudged run was compared with "
        "FP8. Both are compared with the FP32 run.",
        "return fp8 / twin - 1, nudged / twin - 1 => "
        "return 100 * (fp8 / twin - 1), 100 * (nudged / twin - 1)": "These are per "
        "cent. Wanted are shares: 0.25 for a quarter.",
    },
)

FROM_ZERO = (
    "The first loss counts no more than a later one: the mean began at 0, or what is "
    "new was not weighed with 1 - keep. It begins with the first loss, whole."
)
task_4_8.asks(
    "losses are smoothed first, each run for itself",
    of(0.5, table_of(**CURVED), **CURVED),
    of(0.9, table_of(**CURVED), **CURVED),
    only=(GAP, NULL),
    otherwise="The mean begins with the first loss; later ones take 1 - keep of it.",
    mistakes={
        "return torch.stack(means) => return losses": "These are gaps of single "
        "losses, and a single loss jumps with its batch. Smooth them first.",
        "keep * means[-1] + (1 - keep) * loss => "
        "(1 - keep) * means[-1] + keep * loss": "`keep` and 1 - keep have changed "
        "places: `keep` is what stays of the mean before.",
        'twin = smoothed("fp32", seed) => twin = train("fp32", seed)': "The twin's "
        "losses were left as they jump. All three runs are smoothed.",
        "means = [losses[0]] => means = [(1 - keep) * losses[0]]": FROM_ZERO,
        "return fp8 / twin - 1, nudged / twin - 1 => "
        "return (fp8 - twin) / twin[0], (nudged - twin) / twin[0]": "All steps were "
        "divided by the twin's first loss. The measure of each step is the twin's loss "
        "at that step.",
        "losses = train(products, seed) => losses = train(products, seed).flip(0) ;; "
        "return torch.stack(means) => return torch.stack(means).flip(0)": "The losses "
        "were smoothed from the last to the first. A mean knows the steps before it.",
        "keep * means[-1] + (1 - keep) * loss => keep * means[-1] + loss": FROM_ZERO,
        "means.append(keep * means[-1] + (1 - keep) * loss) => "
        "means.append(keep * losses[len(means) - 1] + (1 - keep) * loss)": "Only two "
        "neighbours were mixed. What stays is `keep` of the *mean* before.",
        "return torch.stack(means) => return losses.cumsum(0) / "
        "torch.arange(1, len(losses) + 1)": "All losses so far were averaged alike, so "
        "that the first ones never fade. `keep` says how fast they do.",
    },
)


@task_4_8.properties[-1].mistake(
    "The gaps of single losses were smoothed. The losses are, before they are "
    "compared: else a batch that happens to be easy counts as much as a hard one."
)
def gap_first(train, seed, keep):
    fp8, nudged, twin = (train(p, seed) for p in ("fp8", "nudged", "fp32"))
    return tuple(mixed((x / twin - 1).tolist(), keep) for x in (fp8, nudged))


def mixed(losses: list[float], keep: float) -> Tensor:
    mixed = accumulate(losses, lambda mean, x: keep * mean + (1 - keep) * x)
    return torch.tensor(list(mixed))
