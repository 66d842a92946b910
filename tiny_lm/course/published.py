"""Published figures beside what this course computes for them, each by one call.

Chapter: 07_beyond/paper_against_book
Source: deepseek_v3; deepseek_isca; deepseek_v2; deepseek_moe; deepseek_v32; deepseek_v4

The figures stand in `published.toml`, as printed, each with the unit of its last digit
and with the call that gives our value: the text that a page shows is the text that is
run. A figure that does not come out within half of that unit carries a note: the
reason, or that we do not know.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tiny_lm import context_costs, costs, counts, formats
from tiny_lm.config import deepseek_v2, deepseek_v3, llama_405b, qwen_72b
from tiny_lm.hardware import H800
from tiny_lm.parallel import bubbles, intensity, whole_schedules

FIGURES = Path(__file__).with_name("published.toml")


@dataclass(frozen=True, kw_only=True)
class Published:
    """One figure.

    Args:
        value: as printed.
        digit: unit of the last printed digit; 0 for a count that must be equal.
        call: an expression over `names()` that gives our value.
        source: key of the bibliography, and the place.
        shown: how ours is formatted.
        note: why ours differs by more than rounding.
    """

    topic: str
    what: str
    value: float
    digit: float
    call: str
    source: str
    shown: str = ",.10g"
    note: str = ""

    @property
    def ours(self) -> float:
        """Our value, computed now."""
        return float(eval(self.call, dict(names())))

    @property
    def printed(self) -> str:
        """The published figure, with the digits that it was printed with."""
        decimals = max(0, -math.floor(math.log10(self.digit))) if self.digit else 0
        return f"{self.value:,.{decimals}f}"

    @property
    def comes_out(self) -> bool:
        """Whether ours, rounded as the figure is, is the figure."""
        return abs(self.ours - self.value) <= self.digit / 2 + 1e-9 * abs(self.value)

    @property
    def deviation(self) -> float:
        """Ours over the published one, less 1."""
        return self.ours / self.value - 1


@dataclass(frozen=True, kw_only=True)
class Missing:
    """A figure that no call computes, and why."""

    what: str
    source: str
    why: str


@cache
def names() -> Mapping[str, Any]:
    """What calls may name."""
    return {
        "bubbles": bubbles,
        "comb": math.comb,
        "context_costs": context_costs,
        "costs": costs,
        "counts": counts,
        "formats": formats,
        "intensity": intensity,
        "schedules": whole_schedules,
        "run": costs.V3_RUN,
        "v2": deepseek_v2(),
        "v3": deepseek_v3(),
        "qwen": qwen_72b(),
        "llama": llama_405b(),
        "h800": H800,
    }


@cache
def figures() -> tuple[Published, ...]:
    """All that are recomputed, by topic, in the order of the file."""
    return tuple(Published(**row) for row in _read()["figure"])


@cache
def missing() -> tuple[Missing, ...]:
    """All that are not."""
    return tuple(Missing(**row) for row in _read()["missing"])


def _read() -> dict[str, list[dict[str, Any]]]:
    return tomllib.loads(FIGURES.read_text(encoding="utf-8"))
