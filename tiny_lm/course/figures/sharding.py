"""Pictures of what data-parallel ranks keep once: halves of an update, and buckets.

Chapter: 05_comm/sharding
"""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from tiny_lm.course.figures.diagrams import arrow, blank
from tiny_lm.course.figures.style import (
    COLORS,
    FAINT,
    GREY,
    INK,
    MIDDLE,
    Drawing,
    end_labels,
    finish,
    new_figure,
)

COMM = COLORS["comm"]
HALVES = ("#EAD0DE", COMM)  # of rank 0, of rank 1


def two_halves(
    gradients: Sequence[Sequence[float]],
    sums: Sequence[float],
    moments: Sequence[float],
    weights: Sequence[float],
) -> Drawing:
    """Who holds what in a step of two ranks with four parameters?

    Args:
        gradients: a row a rank; the other three are of the whole, a half each rank.
    """
    figure, ax = blank(2.9, (-1.9, 12.3), (-1.75, 2.8))
    for rank in (0, 1):
        y, mine = 1.4 - 1.6 * rank, slice(2 * rank, 2 * rank + 2)
        ax.text(-0.2, y + 0.3, f"rank {rank}", ha="right", va="center", fontsize=9)
        _cells(ax, (0, y), gradients[rank], [FAINT] * 4)
        _cells(ax, (5.1, y), sums[mine], [HALVES[rank]] * 2)
        _cells(ax, (5.1, y - 0.66), moments[mine], ["white"] * 2, HALVES[rank])
        shades = [HALVES[0], HALVES[0], HALVES[1], HALVES[1]]
        _cells(ax, (8.2, y), weights, shades)
        for x in (4.1, 7.2):
            arrow(ax, (x, y + 0.29), (x + 0.9, y + 0.29), COMM, 2)
    for x, text in ((1.97, "gradients"), (6.07, "sum, moment"), (10.17, "weights")):
        ax.text(x, 2.4, text, ha="center", fontsize=9)
    ax.text(5.0, -1.45, "reduce-scatter ↑", ha="right", fontsize=9)
    ax.text(7.2, -1.45, "↑ all-gather", ha="left", fontsize=9)
    return finish(figure)


def _cells(
    ax: Axes,
    at: tuple[float, float],
    values: Sequence[float],
    fills: Sequence[str],
    edge: str = "white",
) -> None:
    x, y = at
    for place, (value, fill) in enumerate(zip(values, fills, strict=True)):
        cell = Rectangle((x + place, y), 0.94, 0.58, fc=fill, ec=edge, lw=1.2)
        ax.add_patch(cell)
        words = f"{value:g}".replace("-", "−")
        ax.text(x + place + 0.47, y + 0.29, words, color=INK, fontsize=9, **MIDDLE)


def exposed_by_buckets(
    counts: Sequence[int], exposed_ms: Mapping[str, Sequence[float]]
) -> Drawing:
    """How long is waited for bytes, in so many buckets? A line for each variant.

    Args:
        counts: buckets, from few to many.
        exposed_ms: by variant; its first word says the colour: `ZeRO-1` or another.
    """
    figure, ax = new_figure(3.0)
    ends = {}
    for label, times in exposed_ms.items():
        color = COMM if label.startswith("ZeRO") else GREY
        dashes = "--" if "α" in label else "-"
        ax.plot(counts, times, dashes, marker="o", color=color, markersize=4)
        ends[label] = (times[-1], color)
    ax.set(xscale="log", xlabel="buckets", ylabel="exposed, ms", ylim=(0, None))
    ax.set_xticks(counts, [f"{count}" for count in counts])
    ax.minorticks_off()
    top = max(max(times) for times in exposed_ms.values())
    end_labels(ax, ends, counts[-1] * 1.12, top / 11)
    ax.set_xlim(counts[0] * 0.9, counts[-1] * 3.2)
    return finish(figure)
