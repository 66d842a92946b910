"""Pictures of sums in a short accumulator: bits lined up and cut, errors that grow.

Chapter: 04_fp8/adding_up
Source: course
"""

from collections.abc import Mapping, Sequence
from math import floor, frexp

from matplotlib.patches import Rectangle

from tiny_lm.course.figures.style import (
    COLORS,
    FAINT,
    INK,
    Drawing,
    end_labels,
    finish,
    new_figure,
)

ORANGE, GREY = COLORS["fp8"], COLORS["baseline"]
MIDDLE = {"ha": "center", "va": "center"}
SMALL = 9.5


def bits_of(x: float, high: int, low: int) -> list[str]:
    """The binary digits of a positive number from 2^high to 2^low, blank before it."""
    top = frexp(x)[1] - 1
    digits = [str(floor(x / 2.0**place) % 2) for place in range(high, low - 1, -1)]
    return [d if high - n <= top else "" for n, d in enumerate(digits)]


def lined_up(rows: Mapping[str, float], fraction_bits: int, low: int) -> Drawing:
    """What of each number is added? The largest sets the columns, the rest is cut.

    Args:
        rows: names to numbers; the first is the largest.
        low: the exponent of the last column that is drawn.
    """
    figure, ax = new_figure(0.42 * len(rows) + 0.9)
    high = frexp(next(iter(rows.values())))[1] - 1
    last = fraction_bits  # number of the last column that is kept
    kept = Rectangle((-0.5, -0.5), last + 1, len(rows), color="#F6D5BF", lw=0)
    ax.add_patch(kept)
    for row, (_, x) in enumerate(rows.items()):
        for column, digit in enumerate(bits_of(x, high, low)):
            color = INK if column <= last else GREY
            ax.text(column, row, digit, color=color, **MIDDLE)
    point = high + 0.5
    ax.plot([point, point], [-0.5, len(rows) - 0.5], color=INK, lw=0.8)
    ax.text(last / 2, -0.95, f"added: 1 + {fraction_bits} columns", **MIDDLE)
    ax.text((last + 1 + high - low) / 2, -0.95, "cut off", color=GREY, **MIDDLE)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.tick_params(axis="both", length=0)
    ax.set_xticks([0, high, last], [f"{2**high}", "1", f"1/{2 ** (last - high)}"])
    for side in ("left", "bottom"):
        ax.spines[side].set_visible(False)
    ax.set(xlim=(-1, high - low + 1), ylim=(len(rows) - 0.4, -1.4))
    return finish(figure)


def growing_errors(
    added: Sequence[int], errors: Mapping[str, Sequence[float]]
) -> Drawing:
    """How far is a sum from the exact one, product after product?"""
    figure, ax = new_figure(3.0)
    looks = ((GREY, "-"), (ORANGE, "-"))
    ends = {}
    for (label, shares), (color, dashes) in zip(errors.items(), looks, strict=True):
        per_cent = [100 * share for share in shares]
        ax.plot(added, per_cent, dashes, color=color, lw=2)
        ends[label] = (per_cent[-1], color)
    ax.plot([0, added[-1]], [0, 0], color=FAINT, lw=1, zorder=0)
    low = min(y for y, _ in ends.values())
    end_labels(ax, ends, x=added[-1] * 1.02, gap=-low / 8)
    ax.set(xlabel="products added", ylabel="error of the sum, per cent")
    ax.set(xlim=(0, added[-1] * 1.42))
    ax.set_xticks([t for t in ax.get_xticks() if 0 <= t <= added[-1]])
    return finish(figure)


def by_offset(
    offsets: Sequence[float], errors: Mapping[str, Sequence[float]], level: float
) -> Drawing:
    """What do signs do to the error? From both alike to one alone, left to right."""
    figure, ax = new_figure(3.0)
    looks = ((GREY, "-"), (ORANGE, "-"))
    ends = {}
    for (label, shares), (color, dashes) in zip(errors.items(), looks, strict=True):
        ax.plot(offsets, shares, dashes, color=color, lw=2, marker="o", ms=4)
        ends[label] = (shares[-1], color)
    ax.axhline(level, color=GREY, ls=":", lw=1.2)
    ax.text(offsets[0], level * 1.1, "2 %", color=GREY, va="bottom", fontsize=SMALL)
    ax.set_yscale("log")
    for label, (y, color) in ends.items():
        ax.text(
            offsets[-1] * 1.03, y, label, color=color, va="center", fontweight="bold"
        )
    ax.set(xlabel="mean of the inputs, in standard deviations", ylabel="error")
    ax.set_yticks([1e-4, 1e-3, 1e-2, 1e-1], ["0.01 %", "0.1 %", "1 %", "10 %"])
    ax.set(xlim=(-0.1, offsets[-1] * 1.5))
    ax.set_xticks([t for t in ax.get_xticks() if 0 <= t <= offsets[-1]])
    return finish(figure)
