"""Pictures of lab 5's pipelines: what each rank does when, and when it waits.

Chapter: 05_comm/pipelines
Source: course
"""

from collections.abc import Sequence

from tiny_lm.course.figures.style import (
    COLORS,
    INK,
    MIDDLE,
    Drawing,
    finish,
    new_figure,
)
from tiny_lm.parallel.bubbles import Bar

FILLS = {  # of a kind of action, with the ink on it
    "F": (COLORS["baseline"], "white"),
    "BW": (COLORS["comm"], INK),
    "B": (COLORS["comm"], INK),
    "W": ("#EBCFDF", INK),
}


def boxes(rows: Sequence[Sequence[Bar]], until: float | None = None) -> Drawing:
    """When does each rank do what? A row a rank; what is left white, it waits.

    Args:
        until: end of the time axis, where pictures are to be compared.
    """
    last = until or max(bar.end for row in rows for bar in row)
    figure, ax = new_figure(0.8 + 0.34 * len(rows))
    for rank, row in enumerate(rows):
        for (kind, _, micro, *_), start, end in row:
            fill, ink = FILLS[kind]
            box = {"color": fill, "edgecolor": "white", "linewidth": 0.8}
            ax.barh(rank, end - start, 0.86, start, **box)
            middle = (start + end) / 2, rank
            ax.text(*middle, micro, color=ink, fontsize=8, **MIDDLE)
    ax.set(xlim=(0, last), ylim=(len(rows) - 0.5, -0.5), xlabel="units of time")
    ax.set(yticks=range(len(rows)))
    ax.set_yticklabels([f"rank {rank}" for rank in range(len(rows))])
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return finish(figure)
