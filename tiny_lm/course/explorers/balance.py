"""What a bias rate does to the load of experts that are not equally liked.

Chapter: 02_moe/balance
Source: deepseek_v3, eq. 16 and section 2.1.2; aux_free_balancing

The same 1,024 tokens arrive at every update, so all that changes is the bias.
`balance_model.js` repeats this in a browser, and has to end at the same integers. So
nothing here may hang on the last bit of a float: noise comes from an integer hash,
scores lie on a grid, and each expert has grid points of its own, so that no two tie.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiny_lm.config import MoEConfig, tiny
from tiny_lm.counts import expert_parameters
from tiny_lm.course.figures.style import COLORS, FAINT, Drawing, finish, new_figure
from tiny_lm.parts import require
from tiny_lm.router import Router, expert_load, max_violation, route

NUM_TOKENS = 1024
NUM_UPDATES = 300
BALANCED = 0.2  # MaxVio: nobody has over 20 % more than an even share
LASTING = 20  # updates at the end that tell what a run came to
NUM_EXPERTS = (4, 8, 16, 32, 64)
TOP_K = tuple(range(1, 9))
SKEWS = tuple(half / 2 for half in range(13))
BIAS_RATES = (0.0, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2)
MOST = 64  # experts
GRID = 2**20  # score = grid point / GRID; expert e owns those with remainder e by MOST


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where the sliders stand.

    Raises:
        ValueError: a slider has no such place.
    """

    num_experts: int = 16
    top_k: int = 4
    skew: float = 2.0  # logits between the best and the least liked expert
    bias_rate: float = 0.005
    step: int = 20  # updates of the bias before the load is looked at

    def __post_init__(self) -> None:
        places = {
            "num_experts": NUM_EXPERTS,
            "top_k": [k for k in TOP_K if k <= self.num_experts],
            "skew": SKEWS,
            "bias_rate": BIAS_RATES,
            "step": range(NUM_UPDATES + 1),
        }
        for name, allowed in places.items():
            value = getattr(self, name)
            shown = allowed if isinstance(allowed, range) else list(allowed)
            require(value in allowed, f"{name} must be one of {shown}, got {value!r}")


def mix(x: Int[Tensor, "*rows"]) -> Int[Tensor, "*rows"]:
    """A 32-bit hash without a pattern that the eye can find."""
    low = 0xFFFFFFFF
    x = x ^ (x >> 16)
    x = (x * 0x7FEB352D) & low
    x = x ^ (x >> 15)
    x = (x * 0x846CA68B) & low
    return x ^ (x >> 16)


def affinities(num_experts: int, skew: float) -> Float[Tensor, "N E"]:
    """Scores before they are put on the grid: sigmoid of liking plus noise.

    The noise is a sum of four 16-bit numbers: near enough to a normal distribution,
    and an integer. Experts stand in order, the best liked first.
    """
    experts = torch.arange(num_experts)
    pair = torch.arange(NUM_TOKENS).unsqueeze(1) * MOST + experts
    halves = [n for k in (1, 2) for h in [mix(2 * pair + k)] for n in (h >> 16, h)]
    noise = sum(n & 0xFFFF for n in halves) - 131_070  # the mean of the sum
    last = num_experts - 1
    liking = (last - 2 * experts).double() / (2 * last)
    return torch.sigmoid(noise.double() / 32_768 + skew * liking)


def scores(num_experts: int, skew: float) -> Float[Tensor, "N E"]:
    """Affinity of each token to each expert, on the grid."""
    coarse = torch.floor(affinities(num_experts, skew) * (GRID // MOST))
    return (MOST * coarse + torch.arange(num_experts)) / GRID


@dataclass(frozen=True)
class Course:
    """One run: `loads` [updates + 1, experts] are the tokens each expert got."""

    loads: list[list[int]]
    violations: list[float]

    @property
    def settled(self) -> int | None:
        """From which update on MaxVio stays below `BALANCED`; None: it does not."""
        first = len(self.violations)
        while first and self.violations[first - 1] < BALANCED:
            first -= 1
        return first if first <= len(self.violations) - LASTING else None

    @property
    def swings(self) -> bool:
        """Whether each expert has met an even share at the end, from both sides.

        An expert that did not is still on its way there: more updates would help.
        """
        late = list(zip(*self.loads[-LASTING:], strict=True))
        mean = sum(self.loads[0]) / len(late)
        return all(min(counts) <= mean <= max(counts) for counts in late)

    @property
    def outcome(self) -> int | str:
        """The update of balance, "later" if it is on the way, "never" if it swings."""
        settled = self.settled
        if settled is not None:
            return settled
        return "never" if self.swings else "later"


def simulate(s: Setting) -> Course:
    """Route, count, move the bias by the sign rule; again and again."""
    settings = MoEConfig(
        num_experts=s.num_experts,
        num_shared=0,
        top_k=s.num_experts,  # not asked: `route` below is told how many
        d_expert=1,
        bias_rate=s.bias_rate,
    )
    router = Router(settings, d_model=1).double()
    affinity = scores(s.num_experts, s.skew)
    loads, violations = [], []
    for _ in range(NUM_UPDATES + 1):
        _, experts = route(affinity, router.bias, s.top_k)
        load = expert_load(experts, s.num_experts)
        loads.append(load.tolist())
        violations.append(max_violation(load))
        router.update_bias(load)
    return Course(loads, violations)


def parameters(num_experts: int, top_k: int) -> tuple[int, int]:
    """Total and active parameters of one expert layer as wide as `tiny`'s.

    Counted here and not from a config, which refuses the one choice that the slider
    has: alone it balances, but its router would learn nothing.
    """
    c = tiny()
    router, each = num_experts * c.d_model, expert_parameters(c)
    total, active = (
        (c.moe.num_shared + routed) * each + router for routed in (num_experts, top_k)
    )
    return total, active


def fixed() -> dict[str, Any]:
    """All that the browser needs and must not know by itself."""
    c = tiny()
    return {
        "num_tokens": NUM_TOKENS,
        "num_updates": NUM_UPDATES,
        "balanced": BALANCED,
        "lasting": LASTING,
        "num_experts": NUM_EXPERTS,
        "top_k": TOP_K,
        "skews": SKEWS,
        "bias_rates": BIAS_RATES,
        "most": MOST,
        "grid": GRID,
        "expert_parameters": expert_parameters(c),
        "num_shared": c.moe.num_shared,
        "d_model": c.d_model,
        "color": COLORS["moe"],
    }


def picture(s: Setting) -> Drawing:
    """Where the sliders stand, for a page without JavaScript."""
    course = simulate(s)
    figure, (bars, curve) = new_figure(2.9, columns=2)
    experts = range(s.num_experts)
    bars.bar(experts, course.loads[0], color=FAINT)
    bars.bar(experts, course.loads[s.step], 0.5, color=COLORS["moe"])
    bars.set(xlabel="expert", ylabel=f"tokens of {NUM_TOKENS:,}")
    bars.set_title(f"grey: no update, blue: {s.step}", fontsize=10.5)
    curve.plot(course.violations, color=COLORS["moe"], lw=2)
    curve.plot(s.step, course.violations[s.step], "o", color=COLORS["moe"])
    curve.set(xlabel="updates", ylabel="MaxVio", ylim=(0, None))
    curve.set_title(f"bias rate {s.bias_rate}", fontsize=10.5)
    return finish(figure)


def alternative(s: Setting) -> str:
    """What `picture` shows, in words."""
    course = simulate(s)
    load, mean = course.loads[s.step], NUM_TOKENS * s.top_k / s.num_experts
    return (
        f"Tokens that each of {s.num_experts} experts gets, top {s.top_k}, skew "
        f"{s.skew:g}: after {s.step} updates at bias rate {s.bias_rate:g} the busiest "
        f"gets {max(load)}, the idlest {min(load)}; an even share is {mean:g}. MaxVio "
        f"falls from {course.violations[0]:.2f} to {course.violations[-1]:.2f} within "
        f"{NUM_UPDATES} updates."
    )
