"""What a rank holds while it trains, and what sharding it over copies costs in bytes.

Chapter: 05_comm/sharding
Source: zero; deepseek_v3, sections 3.2 and 3.3

Parameters that p ranks hold alike can be kept once over all p, each rank a p-th. What
is kept so grows with the *stage*:

    0    nothing: every rank holds everything
    1    what the optimizer keeps: exact weights and moments
    2    gradients too: they must be summed after each micro-batch, not after the last
    3    weights too: they must be fetched for each forward and each backward pass

One rank then sends, in a step of m micro-batches, for n parameters with w bytes of
weight and g of gradient:

    0    2 (p - 1) / p * n g
    1    (p - 1) / p * n (g + w)
    2    (p - 1) / p * n (m g + w)
    3    (p - 1) / p * n m (g + 2 w)
"""

from typing import NamedTuple

from tiny_lm.costs import Recipe
from tiny_lm.parallel.plan import Plan
from tiny_lm.parts import require

STAGES = (0, 1, 2, 3)


class Copies(NamedTuple):
    """Parameters on one rank, and how many ranks hold the same.

    Args:
        num_parameters: of them on this rank.
        num_ranks: that hold these, this one included.
    """

    num_parameters: int
    num_ranks: int


def held_bytes(parts: list[Copies], recipe: Recipe, stage: int) -> dict[str, int]:
    """Memory of weights, gradients and optimizer on one rank; activations come on top.

    Raises:
        ValueError: no such stage.
    """
    _check(stage)

    def total(num_bytes: int, is_split: bool) -> int:
        return num_bytes * sum(
            -(-count // ranks) if is_split else count for count, ranks in parts
        )

    return {
        "weights": total(recipe.weight, stage >= 3),
        "gradients": total(recipe.gradient, stage >= 2),
        "optimizer": total(recipe.master + recipe.moments, stage >= 1),
    }


def sent_bytes(
    part: Copies, stage: int, *, weight: int, gradient: int, num_micro: int = 1
) -> int:
    """What one rank sends in a step so that all copies agree.

    Args:
        weight, gradient: bytes of each number on the wire.
        num_micro: micro-batches of a step.

    Raises:
        ValueError: no such stage.
    """
    _check(stage)
    passes = {
        0: 2 * gradient,
        1: gradient + weight,
        2: num_micro * gradient + weight,
        3: num_micro * (gradient + 2 * weight),
    }[stage]
    count, ranks = part
    return (ranks - 1) * -(-count // ranks) * passes


def of_gpu(plan: Plan, stage: int) -> list[Copies]:
    """What a GPU at that place of the pipeline holds: what all share, and experts.

    With two pipelines through the same ranks it holds two stages, and so do those at
    the other end: twice as many ranks hold each of them.
    """
    held, here = plan.held(stage), plan.layout
    rank = stage * here.gpus_per_stage
    ranks = [len(plan.stage_copies(rank, step)) for step in (1, here.num_expert_ranks)]
    return [
        Copies(sum(chunk.shared_parameters for chunk in held), ranks[0]),
        Copies(sum(chunk.expert_parameters for chunk in held), ranks[1]),
    ]


def _check(stage: int) -> None:
    require(stage in STAGES, f"stage must be one of {STAGES}, got {stage}")
