"""Which models are trained in FP8, beside what, and from where.

Chapter: 04_fp8
Source: deepseek_v3, section 3.3

A loss differs between two runs of one recipe as soon as anything differs at all: the
*null twin* is the FP32 run with every weight moved by one unit in its last place. What
FP8 does can only be seen where it is larger than what that does.

A unit in the last place needs time to grow, more than a branch has. So branches have
*noisy twins* too: FP32, with random errors in all gradients, as large as FP8's
(`gradients` measures those) and without a direction.

So the same question is asked twice. *Pairs* are trained from the start, as V3's twins
were. *Branches* start from one trained checkpoint and go on at a low rate, where runs
of one seed stay close to each other: the quieter of the two, and where the ladder of
recipes is climbed.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

from tiny_lm.config import FP8Config, ModelConfig, TrainConfig, tiny
from tiny_lm.course.bench.training import wide
from tiny_lm.course.experiments.plan import Experiment, Noise, Run

PLAIN, NULL, FP8 = "fp32", "null twin", "fp8"
NOISY = ("noisy twin", "noisy twin, another draw")
NOISE = 0.14  # of a gradient's length, as FP8 was measured in the first checkpoint
TILE_OF_MX = 32


class Arm(NamedTuple):
    """A model, and what its run does otherwise than the first."""

    config: ModelConfig
    moved: bool = False
    noise: Noise | None = None


def ladder() -> dict[str, dict[str, object]]:
    """What each rung changes of the published recipe."""
    none = {"forward": False, "input_gradient": False, "weight_gradient": False}
    alone = none | {"wire": False}
    mxfp8 = {"tile": TILE_OF_MX, "weights": "tiles", "round_twice": False}
    tensor = {name: "tensor" for name in ("activations", "gradients", "weights")}
    return {
        "forward": alone | {"forward": True},
        "input gradient": alone | {"input_gradient": True},
        "weight gradient": alone | {"weight_gradient": True},
        "wire": none,
        "scales per tensor": tensor,
        "E5M2 gradients": {"gradient_format": "e5m2"},
        "blocks of gradients": {"gradients": "blocks"},
        "rounded once": {"round_twice": False},
        "gate": {"gate": True},
        "head": {"head": True},
        "power of two": {"scales": "round_up"},
        "MXFP8, rounded up": mxfp8 | {"scales": "round_up"},
        "MXFP8, OCP": mxfp8 | {"scales": "ocp_floor"},
        "bf16 masters": {"masters": "bf16"},
        "no masters": {"masters": "fp8"},
    }


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How long runs are, and of how many seeds; branches have a rate of their own.

    The last evaluation reads so many tokens; None: a branch reads as many as a pair.
    """

    pair: TrainConfig
    branch: TrainConfig
    pair_seeds: int
    branch_seeds: int
    validation_tokens: int
    branch_validation_tokens: int | None = None


def _full(batch_size: int, lr: float, **seeds: int) -> Scale:
    pair = TrainConfig(
        steps=1200,
        batch_size=batch_size,
        seq_len=128,
        lr=lr,
        final_lr=lr / 10,
        warmup_steps=100,
        eval_every=100,
        eval_batches=8,
    )
    branch = replace(
        pair, steps=200, warmup_steps=20, lr=lr / 10, final_lr=lr / 100, eval_every=50
    )
    return Scale(pair=pair, branch=branch, validation_tokens=2**19, **seeds)


FULL = {
    "tiny": _full(64, 3e-3, pair_seeds=5, branch_seeds=4),
    "wide": _full(32, 1.5e-3, pair_seeds=3, branch_seeds=3),
}
# The same branches where there is no GPU: a quarter of the batch, half of the steps.
WITHOUT_GPU = replace(
    FULL["tiny"],
    branch=replace(FULL["tiny"].branch, batch_size=16, steps=100, warmup_steps=10),
    branch_seeds=2,
    branch_validation_tokens=2**16,
)
_TOY = TrainConfig(
    steps=4, batch_size=4, seq_len=32, warmup_steps=1, eval_every=2, eval_batches=2
)
TOY = Scale(
    pair=_TOY,
    branch=replace(_TOY, steps=2, lr=3e-4, final_lr=3e-5),
    pair_seeds=1,
    branch_seeds=1,
    validation_tokens=2**9,
)


def model(preset: str, **changes: object) -> ModelConfig:
    """`tiny` in tiles of 32, or `wide` in the published 128, with another recipe."""
    config = tiny() if preset == "tiny" else wide()
    size = 32 if preset == "tiny" else 128
    fp8 = FP8Config(**({"tile": size, "block": size} | changes))
    return replace(config, name=f"fp8_{preset}", fp8=fp8)


def arms(preset: str, with_ladder: bool = True) -> dict[str, Arm]:
    """What is trained, by label; noisy twins and the ladder only in branches."""
    published = model(preset)
    full = replace(published, fp8=None)
    found = {PLAIN: Arm(full), NULL: Arm(full, moved=True), FP8: Arm(published)}
    if with_ladder:
        for draw, label in enumerate(NOISY):
            found[label] = Arm(full, noise=Noise(NOISE, draw))
        found |= {name: Arm(model(preset, **c)) for name, c in ladder().items()}
    return found


def _runs(of_arms: dict[str, Arm], seeds: int, like: Run) -> Iterator[Run]:
    """All arms of a seed before the next seed: what is cut short has whole seeds."""
    for seed, (label, arm) in product(range(seeds), of_arms.items()):
        training = replace(like.training, seed=seed)
        yield replace(like, label=label, training=training, **arm._asdict())


def _like(preset: str, training: TrainConfig, validation_tokens: int) -> Run:
    return Run(
        label=PLAIN,
        config=model(preset),
        training=training,
        exact=True,
        validation_tokens=validation_tokens,
    )


def pairs(name: str, preset: str, scale: Scale) -> Experiment:
    """FP8 against FP32 against the null twin, from the start."""
    of_arms = arms(preset, with_ladder=False)
    like = _like(preset, scale.pair, scale.validation_tokens)
    first, *others = _runs(of_arms, scale.pair_seeds, like)
    return Experiment(
        name=name,
        question="Trained from the start, how far is FP8 from FP32?",
        runs=(replace(first, keep_weights=True), *others),
    )


def branches(name: str, preset: str, scale: Scale) -> Experiment:
    """Every rung of the ladder, from the checkpoint that the first FP32 run left."""
    tokens = scale.branch_validation_tokens or scale.validation_tokens
    start = pairs(name, preset, scale).runs[0]
    like = replace(_like(preset, scale.branch, tokens), start=start)
    return Experiment(
        name=name,
        question="From one checkpoint at a low rate, what does each choice cost?",
        runs=tuple(_runs(arms(preset), scale.branch_seeds, like)),
    )


def experiments(short: bool = False) -> dict[str, Experiment]:
    """All of them, by name; `short`: at toy length."""
    tiny_runs, wide_runs = (TOY, TOY) if short else (FULL["tiny"], FULL["wide"])
    found = (
        pairs("fp8_pairs", "tiny", tiny_runs),
        branches("fp8_branches", "tiny", tiny_runs),
        branches("fp8_branches_cpu", "tiny", TOY if short else WITHOUT_GPU),
        pairs("fp8_pairs_wide", "wide", wide_runs),
        branches("fp8_branches_wide", "wide", wide_runs),
    )
    return {experiment.name: experiment for experiment in found}
