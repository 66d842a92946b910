"""Pictures of hidden communication: two streams of a rank, and what stays exposed.

Chapter: 05_comm/hiding
"""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from tiny_lm.course.figures.style import (
    COLORS,
    GREY,
    INK,
    MIDDLE,
    Drawing,
    end_labels,
    finish,
    new_figure,
)
from tiny_lm.replay.hidden import Hiding, is_exchange
from tiny_lm.replay.timeline import COMM, KERNEL, Span, Timeline

PS_PER_MS = 10**9
EXPERTS = (".experts", ".shared")


def turns(rows: Mapping[str, Sequence[tuple[str, int]]]) -> Drawing:
    """Who computes what while what travels? A row a stream, a box a piece.

    Args:
        rows: by name of the stream, pieces and how long they take; a piece without a
            name is a pause.
    """
    figure, ax = new_figure(0.5 + 0.42 * len(rows))
    ends = []
    for row, pieces in enumerate(rows.values()):
        left = 0
        for name, length in pieces:
            if name:
                color = COLORS["comm"] if name[0] in "DC" else _of_micro(name)
                ax.barh(row, length, 0.74, left, color=color, edgecolor="white")
                ink = INK if name[0] in "DC" else "white"
                ax.text(left + length / 2, row, name, color=ink, fontsize=9, **MIDDLE)
            left += length
        ends.append(left)
    ax.set(xlim=(0, max(ends)), ylim=(len(rows) - 0.5, -0.5), xlabel="time")
    ax.set(xticks=range(max(ends) + 1), yticks=range(len(rows)), yticklabels=rows)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return finish(figure)


def _of_micro(name: str) -> str:
    return {"a": COLORS["moe"], "b": COLORS["mla"]}.get(name[-1], GREY)


def layer(
    timelines: Mapping[str, Timeline], rank: int, name: str, backward: bool = False
) -> Drawing:
    """One layer of a recorded step on one rank, a pair of streams for each timeline.

    Args:
        name: of the layer's modules, as `blocks.2`.
        backward: its way back instead of its way there.
    """
    figure, ax = new_figure(0.9 + 0.78 * len(timelines))
    labels, longest = [], 0.0
    for place, (label, timeline) in enumerate(timelines.items()):
        spans = timeline.of(rank)
        inside = [s for s in spans if _belongs(s, name, backward)]
        start, end = min(s.start_ps for s in inside), max(s.end_ps for s in inside)
        longest = max(longest, (end - start) / PS_PER_MS)
        for span in _joined(spans):
            if span.end_ps > start and span.start_ps < end:
                _bar(ax, span, 2 * place, start, end)
        labels += [f"{label}: compute", "exchanges"]
    ax.set(xlim=(0, longest), ylim=(len(labels) - 0.5, -0.5))
    ax.set(xlabel="emulated ms", yticks=range(len(labels)), yticklabels=labels)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    colors = {"attention and the rest": GREY, "experts": COLORS["moe"]}
    for number, (word, color) in enumerate(colors.items()):
        ax.text(
            0.01 + 0.65 * number,
            1.02,
            word,
            color=color,
            transform=ax.transAxes,
            fontweight="bold",
        )
    return finish(figure)


def _belongs(span: Span, name: str, backward: bool) -> bool:
    return (
        span.name.startswith(f"{name}.") and span.name.endswith("backward") is backward
    )


def _of_experts(span: Span) -> bool:
    return any(part in span.name for part in EXPERTS)


def _joined(spans: Sequence[Span]) -> list[Span]:
    """Kernels of one colour that follow each other without a pause, as one."""
    joined: list[Span] = []
    for span in spans:
        last = joined[-1] if joined else span
        alike = last.kind == span.kind == KERNEL
        alike = alike and _of_experts(last) is _of_experts(span)
        if joined and alike and span.start_ps == last.end_ps:
            joined[-1] = last._replace(end_ps=span.end_ps)
        else:
            joined.append(span)
    return joined


def _bar(ax: Axes, span: Span, row: int, start: int, end: int) -> None:
    left, right = max(span.start_ps, start), min(span.end_ps, end)
    box = (right - left) / PS_PER_MS, 0.74, (left - start) / PS_PER_MS
    if span.kind == KERNEL:
        ax.barh(row, *box, color=COLORS["moe"] if _of_experts(span) else GREY)
    elif span.kind == COMM and is_exchange(span.name):
        ax.barh(row + 1, *box, color=COLORS["comm"], edgecolor="white", linewidth=0.6)


def exposed(lines: Mapping[str, tuple[Mapping[float, Hiding], str]]) -> Drawing:
    """How much of the exchanges is exposed, by how long they take.

    Args:
        lines: by label, a sweep and a name in `COLORS`; dotted is the last one's bound.
    """
    figure, ax = new_figure(3.2)
    ends = {}
    for label, (found, color) in lines.items():
        ratios = list(found)
        ax.plot(ratios, [r.exposed_ms for r in found.values()], color=COLORS[color])
        ends[label] = found[ratios[-1]].exposed_ms, COLORS[color]
    bound = [r.bound_ms for r in found.values()]
    ax.plot(ratios, bound, color=COLORS[color], linestyle=":")
    ax.set_xscale("log", base=2)
    ticks = ratios[::2] if len(ratios) > 5 else ratios
    ax.set_xticks(ticks, [f"{_ratio(by)}" for by in ticks])
    ax.set(xlabel="compute : communication", ylabel="exposed, emulated ms", ylim=0)
    top = max(height for height, _ in ends.values())
    end_labels(ax, ends, ratios[-1] * 1.06, top / 11)
    return finish(figure)


def _ratio(by: float) -> str:
    return f"1 : {by:g}" if by >= 1 else f"{1 / by:g} : 1"
