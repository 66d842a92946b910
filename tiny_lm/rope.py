"""Where a token stands: the angles of its position, and how they are stretched.

Chapter: 03_mla
Source: roformer; yarn; deepseek_v3, section 4.3

Pair i of a rotated vector turns by theta^(-2i/d) radians a position. The first pairs
turn many times in a training sequence, so each of their angles has been seen; the last
turn less than once, and beyond the trained length their angles are new. YaRN slows
those by the factor s by which the context grows, keeps the fast ones, and blends in
between. Scores then spread over more keys, so they are sharpened by m² with
m = 0.1 ln s + 1. In MLA only the narrow rotary part has angles that could be stretched;
the sharpening belongs to the joint score.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tiny_lm.parts import YarnConfig


def frequencies(
    d_rope: int, theta: float, yarn: YarnConfig | None = None
) -> Float[Tensor, " half"]:
    """Radians by which each pair turns at every position, in float64."""
    pairs = torch.arange(0, d_rope, 2, dtype=torch.float64)
    plain = theta ** (-pairs / d_rope)
    if yarn is None:
        return plain
    slowed = yarn_ramp(d_rope, theta, yarn)
    return plain * (1 - slowed) + plain / yarn.factor * slowed


def yarn_ramp(d_rope: int, theta: float, yarn: YarnConfig) -> Float[Tensor, " half"]:
    """How much each pair is slowed: 0 for the fast, 1 for the slow, a ramp between.

    The ramp lies between the pair that turns `beta_fast` times in `original_len`
    positions and the one that turns `beta_slow` times.

    Source: yarn, section 3.2; deepseek_v3_code
    """

    def pair_that_turns(times: float) -> float:
        length = yarn.original_len / (2 * math.pi * times)
        return d_rope * math.log(length) / (2 * math.log(theta))

    low = max(math.floor(pair_that_turns(yarn.beta_fast)), 0)
    high = min(math.ceil(pair_that_turns(yarn.beta_slow)), d_rope - 1)
    steps = torch.arange(d_rope // 2, dtype=torch.float64) - low
    return (steps / max(high - low, 0.001)).clamp(0, 1)


def score_boost(yarn: YarnConfig | None) -> float:
    """What the score is multiplied by: m², 1.874 for V3's factor of 40.

    Source: yarn, section 3.4; deepseek_v3, section 4.3
    """
    if yarn is None or yarn.factor <= 1:
        return 1.0
    return (0.1 * math.log(yarn.factor) + 1) ** 2


def in_force(yarn: YarnConfig | None, max_len: int) -> YarnConfig | None:
    """YaRN, where sequences may be longer than the model was trained at; else None.

    Source: deepseek_v3_code
    """
    return yarn if yarn is not None and max_len > yarn.original_len else None


@dataclass(frozen=True)
class Place:
    """Where the tokens of one call stand.

    cos, sin: of their angles; one row for all sequences, or one for each
    hidden: True at the keys that nobody may see, because they are padding
    """

    cos: Float[Tensor, "*sequences T half"]
    sin: Float[Tensor, "*sequences T half"]
    hidden: Bool[Tensor, "B S"] | None = None

    @property
    def per_head(self) -> tuple[Tensor, Tensor]:
        """The angles for vectors that have a dim of heads before that of positions."""
        return self.cos.unsqueeze(-3), self.sin.unsqueeze(-3)


def place(
    cos: Float[Tensor, "places half"],
    sin: Float[Tensor, "places half"],
    start: int,
    num: int,
    positions: Int[Tensor, "B T"] | None = None,
    hidden: Bool[Tensor, "B S"] | None = None,
) -> Place:
    """Look up the angles of `num` positions from `start`, or of given positions.

    Raises:
        ValueError: a position beyond the tables.
    """
    if start + num > len(cos):
        raise ValueError(
            f"position {start + num - 1} lies beyond max_len={len(cos)}; "
            "positions count from 0"
        )
    if positions is None:
        return Place(cos[start : start + num], sin[start : start + num], hidden)
    return Place(cos[positions], sin[positions], hidden)
