"""Pictures of training in FP8: what a layer rounds, and how far recipes stray.

Chapter: 04_fp8/training_in_fp8
Source: course
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

from tiny_lm.course.figures.diagrams import arrow, blank, box
from tiny_lm.course.figures.style import (
    COLORS,
    FAINT,
    GREY,
    INK,
    Drawing,
    finish,
    new_figure,
)

ORANGE, PALE = COLORS["fp8"], "#F6D5BF"
WIDE, HIGH = 0.8, 0.62  # of a box; places on the grid are 1 apart
SMALL = 9.5
Place = tuple[float, float]

TENSORS = {  # held in 16 or 32 bits
    (0, 3): "X",
    (4, 3): "W\nmaster",
    (2, 0): "dY",
    (2, 2): "Y",
    (0, 1): "dW",
    (4, 1): "dX",
}
ROUNDED = {
    (1, 3): "tiles\n1 × 128",
    (3, 3): "square\nblocks",
    (1, 2): "again\n128 × 1",
    (1, 0): "tiles\n128 × 1",
    (3, 0): "tiles\n1 × 128",
}
PRODUCTS = {(2, 3): "X Wᵀ", (1, 1): "dYᵀ X", (3, 1): "dY W"}
WAYS: tuple[tuple[Place, Place], ...] = (
    ((0, 3), (1, 3)),
    ((1, 3), (2, 3)),
    ((4, 3), (3, 3)),
    ((3, 3), (2, 3)),
    ((2, 3), (2, 2)),
    ((1, 3), (1, 2)),
    ((1, 2), (1, 1)),
    ((2, 0), (1, 0)),
    ((1, 0), (1, 1)),
    ((1, 1), (0, 1)),
    ((2, 0), (3, 0)),
    ((3, 0), (3, 1)),
    ((3, 3), (3, 1)),
    ((3, 1), (4, 1)),
)


def one_layer() -> Drawing:
    """What does a layer round in a step, and for which of its three products?"""
    figure, ax = blank(3.5, (-0.45, 4.45), (-0.4, 3.4))
    for places, color in ((TENSORS, FAINT), (ROUNDED, PALE), (PRODUCTS, ORANGE)):
        for (x, y), words in places.items():
            corner = x - WIDE / 2, y - HIGH / 2
            box(ax, corner, (WIDE, HIGH), words, color, fontsize=SMALL)
    for start, end in WAYS:
        _between(ax, start, end)
    return finish(figure)


def _between(ax, start: Place, end: Place) -> None:
    """An arrow from the edge of one box to the edge of another, level or upright."""
    ends = []
    for here, there in ((start, end), (end, start)):
        x, y = (_sign(b - a) for a, b in zip(here, there, strict=True))
        ends.append((here[0] + x * (WIDE / 2 + 0.03), here[1] + y * (HIGH / 2 + 0.05)))
    arrow(ax, *ends)


def _sign(x: float) -> int:
    return (x > 0) - (x < 0)


def gaps(
    rows: Mapping[str, Mapping[str, Sequence[float]]],
    floor: float,
    twins: Sequence[str] = (),
) -> Drawing:
    """How far is each run from its twin? A row a recipe, a dot a seed, a stroke a mean.

    Args:
        rows: name to measure to the gaps of all seeds; the first measure is filled. The
            last row has all measures.
        floor: what noise alone does, in both directions; it is shaded.
        twins: names of the rows that are noise, which are grey.
    """
    figure, ax = new_figure(0.27 * len(rows) + 1.3)
    ax.axvspan(-100 * floor, 100 * floor, color=FAINT, lw=0, alpha=0.6)
    ax.axvline(0, color=GREY, lw=0.8)
    for row, (name, found) in enumerate(rows.items()):
        color = GREY if name in twins else ORANGE
        for n, (measure, each) in enumerate(found.items()):
            y = row + (n - (len(found) - 1) / 2) * 0.36
            per_cent = [100 * gap for gap in each]
            fill = color if n == 0 else "white"
            label = measure if row == len(rows) - 1 else None
            look = {"ms": 4.5, "mec": color, "mfc": fill, "label": label}
            ax.plot(per_cent, [y] * len(per_cent), "o", **look)
            ax.plot([fmean(per_cent)] * 2, [y - 0.17, y + 0.17], color=INK, lw=1.4)
    ax.set_yticks(range(len(rows)), list(rows))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set(xlabel="gap, per cent", ylim=(len(rows) - 0.4, -0.6))
    if len(found) > 1:  # of the last row
        figure.legend(loc="outside upper left", frameon=False, fontsize=SMALL, ncols=2)
    return finish(figure)
