"""Pictures of what a checkpoint holds: rows of numbers, and who writes and reads them.

Chapter: 06_together/keep_and_resume
"""

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from tiny_lm.course.figures.diagrams import blank
from tiny_lm.course.figures.style import INK, MIDDLE, Drawing, finish

ROWS = {
    "model.blocks.1.ffn.experts.gate_up": "a matrix of all experts",
    "model.head.weight": "the head",
}
SHADES = ("#F3E3EB", "#DDA9C6")  # rank 0's file, rank 1's
READERS = 4


def rows(tensors: Mapping[str, Any]) -> Drawing:
    """Which numbers of two rows were written by whom, and are read by whom?

    Args:
        tensors: of a checkpoint that two ranks wrote, as its JSON has them.
    """
    figure, ax = blank(3.6, (-3.4, 10.1), (-0.7, 5.5))
    for number, (name, words) in enumerate(ROWS.items()):
        y, size = 3.2 - 3.1 * number, tensors[name]["size"]
        ax.text(0, y + 1.75, f"{words}: {size:,} numbers", fontsize=9, color=INK)
        _side(ax, y + 1.2, "written by 2 ranks")
        for start, length, file in tensors[name]["spans"]:
            rank = int(file.split(".")[0])
            _bar(ax, y + 0.9, start / size, length / size, SHADES[rank], f"{file}")
        shares = READERS if len(tensors[name]["spans"]) > 1 else 1
        _side(ax, y + 0.2, f"read by {READERS}")
        for reader in range(shares):
            who = f"rank {reader}" if shares > 1 else "all ranks, each the whole row"
            _bar(ax, y - 0.1, reader / shares, 1 / shares, "white", who)
    return finish(figure)


def _side(ax: Axes, y: float, words: str) -> None:
    ax.text(-0.15, y, words, ha="right", fontsize=9, color=INK, va="center")


def _bar(
    ax: Axes, y: float, start: float, length: float, fill: str, words: str
) -> None:
    bar = Rectangle((10 * start, y), 10 * length, 0.6, fc=fill, ec=INK, lw=0.8)
    ax.add_patch(bar)
    x = 10 * (start + length / 2)
    ax.text(x, y + 0.3, words, color=INK, fontsize=9, **MIDDLE)
