"""Pictures of the rotary key: who shares it, and what lies in the cache beside it.

Chapter: 03_mla/latent_attention
Source: course
"""

import math

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from tiny_lm.course.figures.diagrams import arrow, blank, box
from tiny_lm.course.figures.style import (
    FAINT,
    GREEN,
    GREY,
    INK,
    MIDDLE,
    Drawing,
    finish,
)

TURN = math.radians(35)  # a position, in the pictures


def two_parts(num_heads: int) -> Drawing:
    """What does a score compare? Content head by head, and one rotary key for all."""
    figure, ax = blank(0.55 * num_heads + 1.3, (-1.0, 7.3), (-0.75, num_heads + 0.85))
    for head in range(num_heads):
        y = num_heads - head - 0.8
        ax.text(-0.1, y + 0.3, f"head {head}", ha="right", va="center", fontsize=9.5)
        box(ax, (0.0, y), (1.5, 0.6), f"q{head}", FAINT)
        box(ax, (1.62, y), (0.6, 0.6), "", GREEN)
        box(ax, (5.0, y), (1.5, 0.6), f"k{head}", FAINT)
        arrow(ax, (2.3, y + 0.3), (4.14, y + 0.3), GREEN, 1.6)
        around = [0.75, 0.75, 4.9], [y + 0.62, y + 0.7, y + 0.7]
        ax.plot(*around, color=GREY, lw=1, zorder=0)  # behind the rotary key
        arrow(ax, (4.86, y + 0.7), (5.06, y + 0.7), GREY)
    box(ax, (4.2, 0.2), (0.6, num_heads - 0.3), "", GREEN)
    for x, words in ((1.1, "queries, a row a head"), (5.3, "keys of one token")):
        ax.text(x, num_heads + 0.55, words, fontsize=10, fontweight="bold", **MIDDLE)
    for x, words, color in (
        (0.75, "content", INK),
        (1.92, "rotary", GREEN),
        (4.5, "rotary,\nfor all heads", GREEN),
        (5.75, "content", INK),
    ):
        ax.text(x, 0.0, words, fontsize=9.5, color=color, ha="center", va="top")
    return finish(figure)


def rows(prefix: int, new: int) -> Drawing:
    """What lies in the cache? A latent and a turned key for each position.

    Args:
        prefix: positions that were there before.
        new: positions that one call adds.
    """
    total = prefix + new
    figure, ax = blank(2.6, (-1.9, total + 0.2), (-1.35, 3.1))
    for position in range(total):
        color = GREEN if position >= prefix else GREY
        ax.add_patch(Rectangle((position + 0.08, 1.0), 0.84, 1.6, fc=color))
        ax.add_patch(Rectangle((position + 0.08, 0.08), 0.84, 0.84, fc=color))
        _hand(ax, position + 0.5, 0.5, position * TURN)
        ax.text(position + 0.5, 2.8, str(position), fontsize=9.5, **MIDDLE)
    ax.text(-0.15, 2.8, "position", fontsize=9.5, ha="right", va="center")
    ax.text(-0.15, 1.8, "latent,\nnormalised", fontsize=9.5, ha="right", va="center")
    ax.text(-0.15, 0.5, "rotary key,\nturned", fontsize=9.5, ha="right", va="center")
    for start, end, words in (
        (0, prefix, "there before"),
        (prefix, total, f"new, start = {prefix}"),
    ):
        if end > start:
            ax.plot([start + 0.1, end - 0.1], [-0.25, -0.25], color=INK, lw=1)
            ax.text((start + end) / 2, -0.6, words, fontsize=9.5, **MIDDLE)
    return finish(figure)


def _hand(ax: Axes, x: float, y: float, angle: float) -> None:
    """A white hand of a clock that turns against the clock, from pointing right."""
    dx, dy = 0.3 * math.cos(angle), 0.3 * math.sin(angle)
    arrow(ax, (x - dx, y - dy), (x + dx, y + dy), "white", 1.4)
