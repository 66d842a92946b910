"""Pictures of lab 4's products: whose scale meets whose, and which way tiles lie.

Chapter: 04_fp8/scaling
Source: course
"""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from tiny_lm.course.figures.diagrams import blank
from tiny_lm.course.figures.style import (
    COLORS,
    FAINT,
    INK,
    Drawing,
    end_labels,
    finish,
    new_figure,
)

ORANGE, GREY, PALE = COLORS["fp8"], COLORS["baseline"], "#F6D5BF"
MIDDLE = {"ha": "center", "va": "center"}
SMALL = 9.5
Place = tuple[float, float]


def one_block(size: int = 3, rows_x: int = 2, rows_w: int = 6) -> Drawing:
    """Which codes and scales make one partial sum? The dark ones."""
    width = 3 * size
    figure, ax = blank(0.3 * rows_w + 1.1, (-1.0, 2 * width + 4.0), (0, 1))
    lit = 1  # the second block of the inner dim
    for left, rows, high, name in (
        (0, rows_x, 1, "x"),
        (width + 3, rows_w, size, "w"),
    ):
        for top in range(0, rows, high):
            for block in range(3):
                color = ORANGE if block == lit else PALE
                at = (left + block * size, top)
                _region(ax, at, (size, high), color)
        ax.text(left - 0.5, rows / 2, name, ha="right", va="center")
        for block in range(3):
            middle = left + (block + 0.5) * size
            ax.text(middle, -0.5, f"block {block}", fontsize=SMALL, **MIDDLE)
    ax.set_ylim(rows_w + 0.2, -1.1)
    return finish(figure)


def three_products() -> Drawing:
    """Which way do the tiles lie? A row a product; strokes are tiles."""
    N, K, M = 6, 4, 2
    rows = (
        ("forward", ("x", N, K, "rows"), ("weight.T", K, M, "blocks")),
        ("gradient by x", ("grad", N, M, "rows"), ("weight", M, K, "blocks")),
        ("gradient by weight", ("grad.T", M, N, "rows"), ("x", N, K, "columns")),
    )
    figure, ax = blank(6.2, (-0.3, 19.5), (0, 1))
    top = 0.0
    for name, first, second in rows:
        height = max(first[1], second[1])
        middle = top + height / 2
        ax.text(0, top - 1.5, name, ha="left", va="center", fontweight="bold")
        left = _factor(ax, 0, middle, first)
        ax.text(left + 1.0, middle, "·", fontsize=14, **MIDDLE)
        left = _factor(ax, left + 2.0, middle, second)
        ax.text(left + 1.0, middle, "=", fontsize=12, **MIDDLE)
        _factor(ax, left + 2.0, middle, ("", first[1], second[2], ""))
        top += height + 2.6
    ax.set_ylim(top - 2.2, -2.1)
    return finish(figure)


def _factor(ax: Axes, left: float, middle: float, of: tuple) -> float:
    """A matrix with its regions and its name above it; where it ends."""
    name, rows, columns, regions = of
    top = middle - rows / 2
    sizes = {"rows": (2, 1), "columns": (1, 2), "blocks": (2, 2), "": (columns, rows)}
    wide, high = sizes[regions]
    for y in range(0, rows, high):
        for x in range(0, columns, wide):
            color = {"": GREY, "blocks": ORANGE}.get(regions, PALE)
            _region(ax, (left + x, top + y), (wide, high), color)
    ax.text(left + columns / 2, top - 0.5, name, fontsize=SMALL, **MIDDLE)
    return left + columns


def _region(ax: Axes, at: Place, size: Place, color: str) -> None:
    gap = 0.07
    at = (at[0] + gap, at[1] + gap)
    inner = (size[0] - 2 * gap, size[1] - 2 * gap)
    ax.add_patch(Rectangle(at, *inner, fc=color, ec=INK, lw=0.4))


def gaps(lines: Mapping[str, Sequence[float]]) -> Drawing:
    """How far do runs stray from their twins? Those of FP8, and those of chance.

    Args:
        lines: names to gaps in per cent, step by step; FP8's begin with "FP8".
    """
    figure, ax = new_figure(3.2)
    ends = {}
    for name, gap in lines.items():
        color = ORANGE if name.startswith("FP8") else GREY
        ax.plot(range(1, len(gap) + 1), gap, color=color, lw=1.6)
        ends[name] = (gap[-1], color)
    ax.axhline(0, color=FAINT, lw=1, zorder=0)
    steps = max(len(gap) for gap in lines.values())
    low, high = ax.get_ylim()
    end_labels(ax, ends, x=steps * 1.02, gap=(high - low) / 10)
    ax.set(xlabel="steps", ylabel="gap, per cent", xlim=(0, steps * 1.45))
    ax.set_xticks([t for t in ax.get_xticks() if 0 <= t <= steps])
    return finish(figure)
