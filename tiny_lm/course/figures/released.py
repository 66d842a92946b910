"""Pictures of released weights: codes in blocks, and the scales that lie beside them.

Chapter: 06_together/into_the_ecosystem
Source: deepseek_v3_code
"""

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from tiny_lm.course.figures.style import (
    COLORS,
    INK,
    MIDDLE,
    Drawing,
    finish,
    new_figure,
)

FP8 = COLORS["fp8"]
BESIDE = {"ha": "right", "va": "center"}
SHOWN = 4  # columns of blocks; a weight has many more


def blocks_and_scales(num_rows: int, block: int) -> Drawing:
    """What does a scale belong to? A weight's left edge in blocks, and its scales.

    Args:
        num_rows: of the weight; where they are no multiple of `block`, the last blocks
            are lower.
    """
    figure, ax = new_figure(3.1)
    heights = [min(block, num_rows - top) / block for top in range(0, num_rows, block)]
    other, bottom = SHOWN + 1.7, -sum(heights)
    for left, words in ((0.0, "codes, a byte each"), (other, "scales, FP32")):
        ax.text(left + SHOWN / 2, 0.35, words, color=INK, fontsize=10, **MIDDLE)
        ax.text(left + SHOWN + 0.3, bottom / 2, "…", color=INK, fontsize=12, **MIDDLE)
    ax.text(SHOWN + 1.0, bottom / 2, "×", color=INK, fontsize=16, **MIDDLE)
    top = 0.0
    for height in heights:
        _row(ax, top, height, other)
        words = f"{height * block:.0f} rows"
        ax.text(-0.2, top - height / 2, words, color=INK, fontsize=9, **BESIDE)
        top -= height
    ax.set(xlim=(-1.8, other + SHOWN + 0.6), ylim=(bottom - 0.1, 0.6), aspect="equal")
    ax.axis("off")
    return finish(figure)


def _row(ax: Axes, top: float, height: float, other: float) -> None:
    for column in range(SHOWN):
        size = (0.94, height - 0.06)
        ax.add_patch(Rectangle((column, top - height), *size, fc=FP8, ec="white"))
        at = (other + column + 0.32, top - height / 2 - 0.15)
        ax.add_patch(Rectangle(at, 0.3, 0.3, fc=INK, ec="white"))
