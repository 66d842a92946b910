"""Pictures of lab 3's tasks: rows of a memory, who sees whom, whose numbers are whose.

Chapter: 03_mla/memory_of_the_context
Source: course
"""

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from tiny_lm.course.figures.diagrams import blank
from tiny_lm.course.figures.style import COLORS, FAINT, INK, Drawing, finish

GREEN, GREY = COLORS["mla"], COLORS["baseline"]
MIDDLE = {"ha": "center", "va": "center"}


def _cell(ax: Axes, x: float, y: float, color: str, word: str = "") -> None:
    """A square; white ones have an edge."""
    edge = FAINT if color == "white" else "none"
    ax.add_patch(Rectangle((x + 0.05, y + 0.05), 0.9, 0.9, fc=color, ec=edge))
    ink = INK if color in ("white", FAINT) else "white"
    ax.text(x + 0.5, y + 0.5, word, color=ink, fontsize=9.5, **MIDDLE)


def _span(ax: Axes, start: float, end: float, y: float, words: str) -> None:
    """A bracket below or above a row of cells, and what it says."""
    ax.plot([start + 0.1, end - 0.1], [y, y], color=INK, lw=1)
    for x in (start + 0.1, end - 0.1):
        ax.plot([x, x], [y - 0.08, y + 0.08], color=INK, lw=1)
    ax.text((start + end) / 2, y - 0.2, words, ha="center", va="top", fontsize=9.5)


def buffer(room: int, length: int, new: int) -> Drawing:
    """Which rows of a memory are filled, which come next, and what is handed back?"""
    figure, ax = blank(1.9, (-0.2, room + 0.2), (-1.9, 1.7))
    for row in range(room):
        fresh = length <= row < length + new
        color = GREY if row < length else GREEN if fresh else "white"
        _cell(ax, row, 0, color, str(row))
    ax.text(length / 2, 1.25, "there before", **MIDDLE)
    ax.text(length + new / 2, 1.25, "new", color=GREEN, **MIDDLE)
    ax.text((length + new + room) / 2, 1.25, "free", **MIDDLE)
    _span(ax, 0, length, -0.25, f"length = {length}")
    _span(ax, 0, length + new, -1.1, "what comes back, a view")
    return finish(figure)


def who_sees(num_keys: int, num_queries: int, padding: int) -> Drawing:
    """Which keys may the newest queries see? The last query stands at the last key."""
    first = num_keys - num_queries
    figure, ax = blank(0.42 * num_queries + 1.1, (-3.2, num_keys + 2.4), (-0.2, 1))
    ax.set_ylim(num_queries + 0.9, -1.0)
    for key in range(num_keys):
        ax.text(key + 0.5, -0.45, f"k{key}", **MIDDLE)
    for query in range(num_queries):
        ax.text(-0.2, query + 0.5, f"q{query}", ha="right", va="center")
        for key in range(num_keys):
            seen = padding <= key <= first + query
            color = FAINT if key < padding else GREEN if seen else "white"
            _cell(ax, key, query, color)
        words = f"stands at {first + query}"
        ax.text(num_keys + 0.2, query + 0.5, words, va="center", fontsize=9.5)
    for start, end, words in (
        (0, padding, "padding"),
        (padding, first, "past"),
        (first, num_keys, "new"),
    ):
        if end > start:
            middle = (start + end) / 2
            ax.text(middle, num_queries + 0.5, words, fontsize=9.5, **MIDDLE)
    return finish(figure)


def rows_of_up(num_heads: int, d_nope: int, d_value: int) -> Drawing:
    """Whose are the numbers that a latent is brought up to? Head by head, key first."""
    width = d_nope + d_value
    figure, ax = blank(1.6, (-0.3, num_heads * (width + 0.4)), (-1.1, 1.7))
    for head in range(num_heads):
        left = head * (width + 0.4)
        for place in range(width):
            is_key = place < d_nope
            word = f"k{place}" if is_key else f"v{place - d_nope}"
            _cell(ax, left + place, 0, GREEN if is_key else GREY, word)
        for start, end, words, color in (
            (0, d_nope, "key", GREEN),
            (d_nope, width, "value", GREY),
        ):
            middle = left + (start + end) / 2
            ax.text(middle, 1.25, words, color=color, fontsize=9.5, **MIDDLE)
        _span(ax, left, left + width, -0.25, f"head {head}")
    return finish(figure)
