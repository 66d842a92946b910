"""Pictures of lab tasks that are about an arrangement: what lies where.

Chapter: 01_baseline
"""

from collections.abc import Sequence

from tiny_lm.course.figures.diagrams import arrow, blank
from tiny_lm.course.figures.style import COLORS, FAINT, INK, Drawing, finish

HEADS = (COLORS["baseline"], "#9A9A9A", "#C4C4C4", FAINT)


def windows(
    text: str = "import torch", seq_len: int = 4, starts: Sequence[int] = (1, 6)
) -> Drawing:
    """Where do inputs and targets lie in the text? Targets are one byte further."""
    figure, ax = blank(2.9, (-2.6, len(text)), (4.4 * len(starts) - 1.0, -0.8))
    mono = {"ha": "center", "va": "center", "fontfamily": "DejaVu Sans Mono"}
    ax.text(-0.7, 0, "text", ha="right", va="center")
    for place, byte in enumerate(text):
        ax.barh(0, 0.9, 0.9, left=place - 0.45, color=FAINT)
        ax.text(place, 0, byte.replace(" ", "␣"), **mono)
    for row, start in enumerate(starts):
        for line, (name, color) in enumerate(
            (("inputs", COLORS["baseline"]), ("targets", INK))
        ):
            y = 1.9 + 3.1 * row + 1.1 * line
            ax.text(-0.7, y, f"row {row}, {name}", ha="right", va="center")
            for place in range(start + line, start + line + seq_len):
                ax.barh(y, 0.9, 0.9, left=place - 0.45, color=color)
                ax.text(place, y, text[place].replace(" ", "␣"), color="white", **mono)
    return finish(figure)


def heads(length: int = 4, width: int = 6, num_heads: int = 2) -> Drawing:
    """Which columns belong to which head, and which scores may be used?"""
    size = width // num_heads
    right = width + 2.0
    end = right + num_heads * (length + 1.2)
    figure, ax = blank(2.7, (-1.9, end), (length + 0.9, -2.0))
    ax.text(width / 2 - 0.5, -1.1, f"q: {length} × {width}", ha="center")
    for row in range(length):
        ax.text(-0.8, row, f"t = {row}", ha="right", va="center", fontsize=9.5)
        for column in range(width):
            color = HEADS[column // size]
            ax.barh(row, 0.9, 0.9, left=column - 0.45, color=color)
    for head in range(num_heads):
        left = right + head * (length + 1.2)
        ax.text(left + length / 2 - 0.5, -1.1, f"head {head}", ha="center")
        for row in range(length):
            for column in range(length):
                color = HEADS[head] if column <= row else "white"
                look = {"color": color, "edgecolor": FAINT}
                ax.barh(row, 0.9, 0.9, left=left + column - 0.45, **look)
    ax.text((right + end) / 2 - 1, length + 0.5, "scores: empty is future", ha="center")
    arrow(ax, (width - 0.2, length / 2 - 0.5), (right - 0.8, length / 2 - 0.5))
    return finish(figure)
