"""Pictures of emulated time: who does what when, and where each rank's step goes.

Chapter: 05_comm

Communication has its own colour, a kernel the colour of its technique, waiting none.
"""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from tiny_lm.course.figures.style import (
    COLORS,
    FAINT,
    INK,
    MIDDLE,
    Drawing,
    finish,
    new_figure,
)
from tiny_lm.replay.timeline import COMM, KERNEL, WAIT, Span, Timeline
from tiny_lm.replay.trace import FIRST

UNITS = ((10**12, "s"), (10**9, "ms"), (10**6, "µs"), (10**3, "ns"), (1, "ps"))
CHARACTERS = 75  # that fit side by side into the width of a figure, in small type
PALE = "#F0F0F0"


def unit_of(duration_ps: int) -> tuple[int, str]:
    """The largest unit of which the duration holds at least one, in picoseconds."""
    return next((u for u in UNITS if duration_ps >= u[0]), UNITS[-1])


def gantt(
    timeline: Timeline,
    ranks: Sequence[int] | None = None,
    window_ps: tuple[int, int] | None = None,
    colors: Mapping[str, str] | None = None,
) -> Drawing:
    """What does each stream of each rank do when? A row a stream, a bar a span.

    Args:
        ranks: those to show, from the top; all where none are named.
        window_ps: start and end of what is shown; the whole step where none is given.
        colors: names in `COLORS`, by the name of a span or its first word; a kernel
            that is not among them is grey.

    Raises:
        ValueError: a rank that the timeline lacks, or a window of no length.
    """
    start, end = window_ps or (0, max(timeline.step_ps, 1))
    if start >= end:
        raise ValueError(f"the window must have a length, got {start} to {end}")
    spans = [s for s in timeline.spans if s.end_ps > start and s.start_ps < end]
    lanes = _lanes(timeline, ranks)
    scale, unit = unit_of(end - start)
    figure, ax = new_figure(0.75 + 0.36 * len(lanes))
    width = (end - start) / scale
    for span in spans:
        if (span.rank, span.stream) in lanes:
            left, right = max(span.start_ps, start), min(span.end_ps, end)
            box = (
                (left / scale),
                lanes[span.rank, span.stream],
                (right - left) / scale,
            )
            _bar(ax, span, box, width, colors or {})
    ax.set(xlim=(start / scale, end / scale), xlabel=f"emulated time in {unit}")
    ax.set(ylim=(len(lanes) - 0.4, -0.6), yticks=range(len(lanes)))
    ax.set_yticklabels([f"rank {rank} {stream}" for rank, stream in lanes], fontsize=9)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    figure.suptitle(f"emulated: {timeline.machine}", fontsize=9.5, color=INK)
    return finish(figure, narrow=False)


def _lanes(
    timeline: Timeline, ranks: Sequence[int] | None
) -> dict[tuple[int, str], int]:
    """Row of each stream that has anything to show, from the top."""
    found = {(span.rank, span.stream) for span in timeline.spans}
    there = sorted({rank for rank, _ in found})
    shown = list(there if ranks is None else ranks)
    absent = [rank for rank in shown if rank not in there]
    if absent:
        raise ValueError(f"no spans of rank {absent[0]}; there are ranks {there}")
    order = sorted(
        (lane for lane in found if lane[0] in shown),
        key=lambda lane: (shown.index(lane[0]), FIRST.get(lane[1], 2), lane[1]),
    )
    return {lane: row for row, lane in enumerate(order)}


def _bar(
    ax: Axes,
    span: Span,
    box: tuple[float, int, float],
    width: float,
    colors: Mapping[str, str],
) -> None:
    left, row, length = box
    first_word = span.name.partition(" ")[0]
    kernel = COLORS[colors.get(span.name, colors.get(first_word, "baseline"))]
    fill = {KERNEL: kernel, COMM: COLORS["comm"], WAIT: PALE}[span.kind]
    hatch = {"hatch": "////", "edgecolor": FAINT} if span.kind == WAIT else {}
    line = {"edgecolor": "white", **hatch}
    ax.barh(row, length, 0.72, left, color=fill, linewidth=0.6, **line)
    name = "waits" if span.kind == WAIT else span.name
    color = "white" if span.kind == KERNEL else INK
    _label(ax, name, (left + length / 2, row), length / width, color)


def _label(
    ax: Axes, text: str, at: tuple[float, float], room: float, color: str
) -> None:
    """The text where it fits into this share of the width, else its first word."""
    for candidate in (text, text.partition(" ")[0]):
        if len(candidate) <= CHARACTERS * room:
            ax.text(*at, candidate, color=color, fontsize=8, **MIDDLE)
            return


def where_time_goes(timelines: Mapping[str, Timeline]) -> Drawing:
    """What does each variant spend its step on? Means over its ranks, a bar each."""
    longest = max(timeline.step_ps for timeline in timelines.values())
    scale, unit = unit_of(longest)
    figure, ax = new_figure(0.9 + 0.5 * len(timelines))
    parts = (
        ("compute", COLORS["baseline"]),
        ("exposed", COLORS["comm"]),
        ("bubble", PALE),
    )
    for row, timeline in enumerate(timelines.values()):
        left, times = 0.0, timeline.summary()
        for name, color in parts:
            total = sum(getattr(time, f"{name}_ps") for time in times)
            length = total / len(times) / scale
            ax.barh(row, length, 0.7, left, color=color)
            text = "communication" if name == "exposed" else name
            label = INK if color != COLORS["baseline"] else "white"
            room = length * scale / (1.2 * longest)
            _label(ax, text, (left + length / 2, row), room, label)
            left += length
        ax.text(left, row, f" {timeline.step_ps / scale:.3g} {unit}", va="center")
    ax.set(xlim=(0, 1.2 * longest / scale), xlabel=f"emulated time in {unit}")
    ax.set(ylim=(len(timelines) - 0.5, -0.5), yticks=range(len(timelines)))
    ax.set_yticklabels(list(timelines))
    machines = dict.fromkeys(timeline.machine for timeline in timelines.values())
    figure.suptitle(f"emulated: {', '.join(machines)}", fontsize=9.5, color=INK)
    return finish(figure, narrow=False)
