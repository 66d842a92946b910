"""Pictures of lab 4's tasks: fields of a byte, steps on a line, who shares a scale.

Chapter: 04_fp8
Source: course
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from tiny_lm.course.figures.diagrams import arrow, blank
from tiny_lm.course.figures.style import COLORS, FAINT, INK, Drawing, finish
from tiny_lm.formats import E4M3, E5M2, Format, all_codes, decode

ORANGE, GREY = COLORS["fp8"], COLORS["baseline"]
PALE = "#F6D5BF"
MIDDLE = {"ha": "center", "va": "center"}
SMALL = 9.5


def fields(formats: Sequence[Format] = (E4M3, E5M2)) -> Drawing:
    """Which bits of a byte are which? A row a format, a box a bit."""
    figure, ax = blank(0.95 * len(formats), (-1.7, 9.2), (0, 1))
    for row, of in enumerate(formats):
        widths = {"sign": 1, "exponent": 7 - of.fraction_bits}
        widths["fraction"] = of.fraction_bits
        top = 1.6 * row
        ax.text(-0.4, top + 0.5, of.name.upper(), ha="right", va="center")
        place = 0.0
        for (name, width), color in zip(
            widths.items(), (GREY, ORANGE, PALE), strict=True
        ):
            for n in range(width):
                box = (place + n + 0.03, top + 0.1), 0.94, 0.8
                ax.add_patch(Rectangle(*box, color=color))
            middle = place + width / 2
            ax.text(middle, top - 0.2, name, fontsize=SMALL, **MIDDLE)
            place += width + 0.25
    ax.set_ylim(1.6 * len(formats) - 0.5, -0.6)
    return finish(figure)


def steps(
    low: float, high: float, numbers: Sequence[float], rounded: Sequence[float]
) -> Drawing:
    """Where do numbers go? A stroke a number of E4M3; above it what is rounded."""
    figure, ax = blank(2.0, (low - 0.6, high + 0.6), (-0.75, 1.75))
    ax.plot([low, high], [0, 0], color=GREY, lw=1)
    values = [v for v in decode(all_codes(E4M3)).tolist() if low <= v <= high]
    for value in values:
        ax.plot([value, value], [-0.12, 0.12], color=ORANGE, lw=2)
        ax.text(value, -0.45, f"{value:g}", fontsize=SMALL, **MIDDLE)
    for x, y in zip(numbers, rounded, strict=True):
        ax.plot(x, 1, "o", color=INK, ms=5)
        ax.text(x, 1.4, f"{x:g}", fontsize=SMALL, **MIDDLE)
        arrow(ax, (x, 0.9), (y, 0.2))
    return finish(figure)


def groups(rows: int, columns: int, group: tuple[int, int]) -> Drawing:
    """Who shares a scale? Left the numbers, right their scales, in the same order."""
    high, wide = group
    scale_rows, scale_columns = -(-rows // high), -(-columns // wide)
    right = columns + 1.6
    figure, ax = blank(0.34 * rows + 0.75, (-0.2, right + scale_columns + 0.6), (0, 1))
    for y in range(rows):
        for x in range(columns):
            place = y // high, x // wide
            _cell(ax, x, y, ORANGE if sum(place) % 2 == 0 else PALE)
    for y in range(scale_rows):
        for x in range(scale_columns):
            color = ORANGE if (x + y) % 2 == 0 else PALE
            top = y * high + (min(high, rows - y * high) - 1) / 2
            _cell(ax, right + x, top, color)
    ax.text(columns / 2, -0.5, "codes", **MIDDLE)
    ax.text(right + scale_columns / 2, -0.5, "scales", **MIDDLE)
    ax.set_ylim(rows + 0.1, -1.0)
    return finish(figure)


def _cell(ax: Axes, x: float, y: float, color: str) -> None:
    ax.add_patch(Rectangle((x + 0.05, y + 0.05), 0.9, 0.9, fc=color, ec=FAINT, lw=0.4))
