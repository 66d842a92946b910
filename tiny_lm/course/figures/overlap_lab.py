"""Pictures of lab 5's two micro-batches: whose part runs when, and what travels.

Chapter: 05_comm/hiding
Source: course
"""

from collections.abc import Mapping

from matplotlib.axes import Axes

from tiny_lm.course.figures.style import (
    COLORS,
    INK,
    MIDDLE,
    Drawing,
    finish,
    new_figure,
)
from tiny_lm.course.labs.hidden import PS_PER_MS, Gap, bars
from tiny_lm.replay.timeline import COMM, KERNEL, Span, Timeline

FILLS = {  # of kind and micro-batch, with the ink on it
    (KERNEL, "a"): (COLORS["baseline"], "white"),
    (KERNEL, "b"): ("#C4C4C4", INK),
    (COMM, "a"): (COLORS["comm"], INK),
    (COMM, "b"): ("#EBCFDF", INK),
}
ROWS = {KERNEL: "computes", COMM: "sends"}
SHORTEST = 0.004  # of the width; what is shorter is not drawn
PER_INCH = 15  # letters in small type
ROOM = 5.6  # inches that the bars have


def compared(
    timelines: Mapping[str, Timeline], ms: float, rank: int = 0, gap: Gap | None = None
) -> Drawing:
    """What does one rank do in each of the timelines? Two rows each, from the start.

    Args:
        ms: how much of the time is shown, at least; where there is a gap, it is in it.
        gap: of the last timeline, which gets a mark.
    """
    start = 0.0
    if gap is not None:
        rank = gap.rank
        start = max(0.0, gap.end_ps / PS_PER_MS - 0.75 * ms)
    figure, ax = new_figure(0.9 + 0.95 * len(timelines))
    labels = []
    for place, (name, timeline) in enumerate(timelines.items()):
        for row, kind in enumerate(ROWS):
            labels.append((2.4 * place + row, f"{name} {ROWS[kind]}"))
            for span in bars(timeline, rank):
                if span.kind == kind:
                    _bar(ax, span, labels[-1][0], start, ms)
    if gap is not None:
        _mark(ax, gap, labels[-2][0])
    bottom = labels[-1][0] + 0.55
    ax.set(xlim=(start, start + ms), ylim=(bottom, -0.55))
    ax.set(yticks=[at for at, _ in labels], xlabel=f"emulated ms, rank {rank}")
    ax.set_yticklabels([label for _, label in labels], fontsize=9)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    machines = dict.fromkeys(timeline.machine for timeline in timelines.values())
    figure.suptitle(f"emulated: {', '.join(machines)}", fontsize=9.5, color=INK)
    return finish(figure, narrow=False)


def _bar(ax: Axes, span: Span, row: float, start: float, ms: float) -> None:
    batch, part, layer = span.name.split()
    left = max(span.start_ps / PS_PER_MS, start)
    length = min(span.end_ps / PS_PER_MS, start + ms) - left
    if length < SHORTEST * ms:
        return
    fill, ink = FILLS[span.kind, batch]
    ax.barh(row, length, 0.86, left, color=fill, edgecolor="white", linewidth=0.6)
    room = length / ms * ROOM * PER_INCH
    for text in (f"{part}\n{batch}{layer}", f"{batch}{layer}"):
        if len(text.partition("\n")[0]) <= room:
            at = left + length / 2, row
            ax.text(*at, text, color=ink, fontsize=7.5, linespacing=1.05, **MIDDLE)
            return


def _mark(ax: Axes, gap: Gap, row: float) -> None:
    """The gap: a frame of its own, in the row of what is computed."""
    left, length = gap.start_ps / PS_PER_MS, gap.length_ps / PS_PER_MS
    frame = {
        "fill": False,
        "edgecolor": INK,
        "linewidth": 1.4,
        "linestyle": (0, (2, 1)),
    }
    ax.barh(row, length, 0.9, left, **frame)
    ax.text(left + length / 2, row, "gap", fontsize=8, color=INK, **MIDDLE)
