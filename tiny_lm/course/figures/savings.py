"""Pictures of what FP8 buys: bytes and seconds, cut into what they are made of.

Chapter: 04_fp8/what_it_buys
Source: course
"""

from collections.abc import Mapping

from matplotlib.ticker import MaxNLocator

from tiny_lm.course.figures.style import (
    COLORS,
    FAINT,
    INK,
    MIDDLE,
    Drawing,
    finish,
    new_figure,
)

# In the order of the parts: the first is what FP8 can make smaller.
FILLS = (COLORS["fp8"], COLORS["baseline"], "#9A9A9A", "#BDBDBD", FAINT)
DARK = 2  # so many fills take white letters
SMALL = 9.5
NARROWEST = 0.05  # of the longest bar: a thinner piece takes no number


def stacked(
    rows: Mapping[str, Mapping[str, float]], xlabel: str, number: str = "g"
) -> Drawing:
    """What is each whole made of? A bar a row, a piece a part, its size inside.

    Args:
        rows: name to its parts, the same parts in each row.
        number: how sizes are written.
    """
    figure, ax = new_figure(0.55 * len(rows) + 1.35)
    wholes = [sum(parts.values()) for parts in rows.values()]
    longest = max(wholes)
    for row, parts in enumerate(rows.values()):
        left = 0.0
        for n, (label, size) in enumerate(parts.items()):
            name = label if row == 0 else None
            ax.barh(row, size, 0.66, left, color=FILLS[n], label=name)
            if size > NARROWEST * longest:
                ink = "white" if n < DARK else INK
                middle = left + size / 2
                ax.text(middle, row, format(size, number), color=ink, **MIDDLE)
            left += size
        whole = format(wholes[row], number)
        gap = {"xytext": (6, 0), "textcoords": "offset points"}
        ax.annotate(whole, (left, row), **gap, va="center", fontweight="bold")
    ax.set_yticks(range(len(rows)), list(rows))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.set(xlabel=xlabel, xlim=(0, 1.14 * longest))
    ax.set_ylim(len(rows) - 0.5, -0.5)
    figure.legend(loc="outside upper left", frameon=False, fontsize=SMALL, ncols=2)
    return finish(figure)
