"""Pictures of what attention remembers: the cache, who shares it, what it costs.

Chapter: 03_mla/memory_of_the_context
Source: course
"""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from tiny_lm.course.figures.diagrams import box
from tiny_lm.course.figures.style import (
    FAINT,
    GREEN,
    GREY,
    INK,
    MIDDLE,
    Drawing,
    finish,
    new_figure,
)

MONO = {"fontfamily": "DejaVu Sans Mono"}
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)))


def passes(prompt: str, written: str) -> Drawing:
    """Which positions are computed to write each byte, without and with a cache?"""
    figure, axes = new_figure(0.3 * len(written) + 1.2, columns=2)
    text = prompt + written
    for ax, cached in zip(axes, (False, True), strict=True):
        for row in range(len(written)):
            seen = len(prompt) + row
            for column, byte in enumerate(text[:seen]):
                new = not cached or row == 0 or column == seen - 1
                old = row and column < seen - 1
                color = FAINT if not new else GREY if old else GREEN
                ax.add_patch(Rectangle((column, row), 0.9, 0.86, color=color))
                ink = INK if color == FAINT else "white"
                ax.text(column + 0.45, row + 0.45, byte, color=ink, **MIDDLE, **MONO)
            ax.text(seen + 0.45, row + 0.45, text[seen], color=INK, **MIDDLE, **MONO)
        ax.set(xlim=(0, len(text)), ylim=(len(written), 0))
        ax.set_title("with a cache" if cached else "without", fontsize=11)
        ax.set_axis_off()
    return finish(figure)


def who_shares(num_heads: int = 4) -> Drawing:
    """Which query head reads whose keys and values? MHA, GQA, MQA side by side."""
    figure, axes = new_figure(2.5, columns=3)
    for ax, (name, groups) in zip(
        axes, (("MHA", num_heads), ("GQA", num_heads // 2), ("MQA", 1)), strict=True
    ):
        for head in range(num_heads):
            group = head * groups // num_heads
            x = (group + 0.5) * num_heads / groups
            ax.plot([head + 0.5, x], [1.0, 0.42], color=GREY, lw=1.5, zorder=0)
            box(ax, (head + 0.15, 0.97), (0.7, 0.26), f"q{head}", FAINT)
            if head * groups % num_heads < groups:  # the first of its group
                box(ax, (x - 0.44, 0.17), (0.88, 0.26), f"k{group} v{group}", GREEN)
        kept = f"{2 * groups} vectors kept"
        ax.text(num_heads / 2, -0.15, kept, **MIDDLE)
        ax.set(xlim=(-0.1, num_heads + 0.1), ylim=(-0.3, 1.4))
        ax.set_title(name, fontsize=11)
        ax.set_axis_off()
    return finish(figure, narrow=False)


def growth(
    lengths: Sequence[int],
    lines: Mapping[str, Sequence[float]],
    ylabel: str,
    levels: Mapping[str, float] | None = None,
    lit: str = "MLA",
) -> Drawing:
    """How does something grow with the context? A line a kind; `lit` ones are green.

    Args:
        levels: limits to be drawn across, by name.
    """
    figure, ax = new_figure(3.6)
    ends = {}
    for number, (name, values) in enumerate(lines.items()):
        color = GREEN if lit in name else GREY
        ax.plot(lengths, values, color=color, ls=DASHES[number % len(DASHES)], lw=2)
        ends[name] = (values[-1], color)
    for name, height in (levels or {}).items():
        ax.axhline(height, color=INK, lw=0.8, ls=":")
        ax.text(lengths[0], height * 1.12, name, fontsize=9.5, va="bottom")
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(list(lengths), [_thousands(n) for n in lengths], fontsize=9.5)
    ax.minorticks_off()
    ax.set(xlabel="tokens of context", ylabel=ylabel)
    _name_ends(ax, lengths[-1], ends)
    return finish(figure)


def _name_ends(ax: Axes, x: float, ends: Mapping[str, tuple[float, str]]) -> None:
    """Names at the ends of lines on a logarithmic axis, a line's height apart."""
    height, last = 1.45, 0.0
    for name, (y, color) in sorted(ends.items(), key=lambda item: item[1][0]):
        last = max(y, last * height)
        ax.text(x * 1.12, last, name, color=color, va="center", fontweight="bold")


def _thousands(number: int) -> str:
    return f"{number // 1024}K" if number >= 1024 else str(number)
