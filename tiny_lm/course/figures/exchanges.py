"""Drawings of what passes between ranks: sums, exchanges, hops.

Chapter: 05_comm
"""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from tiny_lm.course.figures.diagrams import arrow, blank, box
from tiny_lm.course.figures.style import (
    COLORS,
    FAINT,
    GREY,
    INK,
    MIDDLE,
    Drawing,
    finish,
    new_figure,
)

COMM = COLORS["comm"]
SHADES = ("#EAD0DE", COMM, "#A35A80", "#6B3350")  # of one colour, by sender
WORK = {"F": FAINT, "B": COLORS["moe"], "W": COLORS["mla"]}


def sum_of_four(values: Sequence[int]) -> Drawing:
    """What does an all-reduce leave on each rank? The sum of all, everywhere."""
    count = len(values)
    figure, ax = blank(1.9, (-0.1, count), (-0.4, 2.6))
    for rank, value in enumerate(values):
        box(ax, (rank, 1.8), (0.8, 0.5), str(value), FAINT, 12)
        arrow(ax, (rank + 0.4, 1.75), (rank + 0.4, 1.42))
        arrow(ax, (rank + 0.4, 0.93), (rank + 0.4, 0.6))
        box(ax, (rank, 0.05), (0.8, 0.5), str(sum(values)), FAINT, 12)
        ax.text(rank + 0.4, -0.3, f"rank {rank}", ha="center", fontsize=10)
    box(ax, (0, 0.98), (count - 0.2, 0.4), "all-reduce: add up, tell everybody", COMM)
    return finish(figure)


def all_to_all(rows: Sequence[Sequence[int]]) -> Drawing:
    """Who has which row before an exchange and after it? The shade is the sender's.

    Args:
        rows: for each rank, the rank to which each of its rows goes.
    """
    count = len(rows)
    come = [
        [source for source in range(count) for to in rows[source] if to == target]
        for target in range(count)
    ]
    most = max(map(len, [*rows, *come]))
    figure, (left, right) = blank(2.6, (-0.1, most), (-1.0, count + 0.4), columns=2)
    for rank in range(count):
        y = count - 1 - rank
        for place, to in enumerate(rows[rank]):
            _cell(left, (place, y), SHADES[rank], str(to))
        for place, source in enumerate(come[rank]):
            _cell(right, (place, y), SHADES[source], str(source))
        left.text(-0.15, y + 0.4, f"rank {rank}", ha="right", va="center", fontsize=10)
    left.text(max(map(len, rows)) / 2, -0.7, "before: to whom", ha="center")
    right.text(most / 2, -0.7, "after: from whom", ha="center")
    left.set_xlim(-0.3 * most - 0.3, most)
    return finish(figure)


def _cell(ax: Axes, at: tuple[float, float], color: str, text: str) -> None:
    ax.add_patch(Rectangle(at, 0.94, 0.8, fc=color, ec="white"))
    ink = "white" if color in SHADES[2:] else INK
    middle = at[0] + 0.47, at[1] + 0.4
    size = 8.5
    ax.text(*middle, text, ha="center", va="center", color=ink, fontsize=size)


def two_hops() -> Drawing:
    """How does a row get to an expert in another node? One card, then NVLink."""
    figure, ax = blank(2.6, (-0.2, 8.2), (-0.75, 3.3))
    for node, left in enumerate((0.0, 4.6)):
        frame = Rectangle((left, -0.1), 3.4, 3.2, fc="none", ec=GREY, lw=1.2)
        ax.add_patch(frame)
        ax.text(left + 1.7, -0.55, f"node {node}", ha="center", fontsize=10)
        for gpu in range(3):
            lit = (node, gpu) in ((0, 1), (1, 1), (1, 0), (1, 2))
            color = COMM if lit else FAINT
            box(ax, (left + 0.9, 2.2 - gpu), (1.6, 0.6), f"GPU {gpu}", color)
    arrow(ax, (2.55, 1.5), (5.45, 1.5), INK, 2.2)
    ax.text(4.0, 1.72, "1 network", ha="center", fontsize=10)
    for end in (2.15, 0.85):
        arrow(ax, (6.3, 1.82 if end > 1 else 1.18), (6.3, end), INK, 2.2)
    ax.text(6.45, 1.98, "2 NVLink", ha="left", va="center", fontsize=10)
    return finish(figure)


def hops_in_time(network: float, nvlink: Mapping[str, float], unit: str) -> Drawing:
    """How long does an exchange take if its hops overlap, and if they do not?

    Args:
        network: time that the network is busy.
        nvlink: the same of NVLink, by machine.
    """
    figure, _ = new_figure(3.4)
    figure.clear()
    axes = figure.subplots(2, 1, sharex=True)
    longest = network + max(nvlink.values())
    for ax, series in zip(axes, (False, True), strict=True):
        for row, time in enumerate(nvlink.values()):
            ax.barh(row - 0.2, network, 0.36, color=GREY)
            ax.text(network / 2, row - 0.2, "network", color="white", **_MIDDLE)
            ax.barh(row + 0.2, time, 0.36, network if series else 0, color=COMM)
            beyond = (network if series else 0) + time + 0.015 * longest
            ax.text(beyond, row + 0.2, "NVLink", **{**_MIDDLE, "ha": "left"})
            end = network + time if series else max(network, time)
            ax.plot([end, end], [row - 0.45, row + 0.45], color=INK, lw=1)
        ax.set(xlim=(0, 1.2 * longest))
        ax.spines[["top", "right"]].set_visible(False)
        ax.set(ylim=(len(nvlink) - 0.5, -0.5), yticks=range(len(nvlink)))
        ax.set_yticklabels(list(nvlink))
        name = "in series" if series else "pipelined"
        ax.set_title(name, loc="left", fontsize=10.5, color=INK)
    axes[-1].set_xlabel(f"emulated time in {unit}")
    return finish(figure)


_MIDDLE = MIDDLE | {"fontsize": 8.5}
