"""Drawings of collectives: what is on which rank, step by step, and what it costs.

Chapter: 05_comm/collectives
"""

from collections.abc import Mapping, Sequence
from math import log10

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from tiny_lm.course.figures.diagrams import arrow, blank
from tiny_lm.course.figures.exchanges import COMM, SHADES
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

Held = list[list[int]]  # for each rank and part, how many ranks' numbers are in it


def ring_states(num_ranks: int = 4) -> list[tuple[Held, list[tuple[int, int]]]]:
    """Before and after each step of both rounds: what is held, and what is new."""
    everyone = range(num_ranks)
    held = [[1] * num_ranks for _ in everyone]
    states = [([row[:] for row in held], [])]
    for step in range(2 * (num_ranks - 1)):
        first = step < num_ranks - 1
        new = []
        before = [row[:] for row in held]
        for rank in everyone:
            part, left = (rank - step - 1) % num_ranks, (rank - 1) % num_ranks
            came = before[left][part]
            held[rank][part] = came + before[rank][part] if first else came
            new.append((rank, part))
        states.append(([row[:] for row in held], new))
    return states


def ring_rounds(num_ranks: int = 4) -> Drawing:
    """How far is each part of the sum on each rank, after each step of a ring?"""
    states = ring_states(num_ranks)
    wide, high = num_ranks + 1.2, 1.75
    figure, ax = blank(5.2, (-3.3, num_ranks * wide), (-high * len(states) + 0.6, 2.1))
    for row, (held, new) in enumerate(states):
        y = -high * row
        words = "before" if not row else f"step {row}"
        ax.text(-0.4, y + 0.5, words, ha="right", va="center", fontsize=9.5)
        for rank in range(num_ranks):
            for part, count in enumerate(held[rank]):
                at = rank * wide + part, y
                _part(ax, at, count, framed=(rank, part) in new)
        for rank, part in new:
            if rank:  # the arrow home would cross the whole picture
                start = (rank - 1) * wide + part + 0.8, y + high - 0.02
                arrow(ax, start, (rank * wide + part + 0.1, y + 1.0), GREY, 0.8)
    for rank in range(num_ranks):
        middle = rank * wide + num_ranks / 2
        ax.text(middle, 1.55, f"rank {rank}", **MIDDLE, fontsize=10)
    return finish(figure)


def _part(ax: Axes, at: tuple[float, float], count: int, framed: bool) -> None:
    color = SHADES[min(count, len(SHADES)) - 1]
    edge = {"ec": INK, "lw": 1.4, "zorder": 3} if framed else {"ec": "white", "lw": 1}
    ax.add_patch(Rectangle(at, 0.92, 0.92, fc=color, **edge))
    ink = "white" if color in SHADES[2:] else INK
    ax.text(at[0] + 0.46, at[1] + 0.44, str(count), **MIDDLE, color=ink, fontsize=8.5)


def before_and_after(num_ranks: int = 4) -> Drawing:
    """What does each rank have before a collective, and what after it?"""
    everyone = range(num_ranks)
    own = [[(rank, "") for _ in everyone] for rank in everyone]
    pieces = [[(r, "") if part == r else None for part in everyone] for r in everyone]
    sums = [[(-1, "Σ") if part == r else None for part in everyone] for r in everyone]
    whole = [[(part, "") for part in everyone] for _ in everyone]
    goes = [[(rank, str(to)) for to in everyone] for rank in everyone]
    came = [[(source, str(source)) for source in everyone] for _ in everyone]
    panels = {
        "reduce-scatter": (own, sums),
        "all-gather": (pieces, whole),
        "all-to-all": (goes, came),
    }
    high = num_ranks + 2.0
    figure, ax = blank(5.6, (-2.6, 13.2), (-high * len(panels) + 1.2, 2.0))
    for place, (name, sides) in enumerate(panels.items()):
        top = -high * place
        ax.text(6.1, top + 1.35, name, **MIDDLE, fontsize=10.5, fontweight="bold")
        for left, rows in zip((0.0, 8.6), sides, strict=True):
            for rank, row in enumerate(rows):
                for part, piece in enumerate(row):
                    _piece(ax, (left + part, top - rank), piece)
        for rank in everyone:
            words = f"rank {rank}"
            ax.text(-0.3, top - rank + 0.42, words, ha="right", va="center", fontsize=9)
        middle = top - num_ranks / 2 + 0.9
        arrow(ax, (4.9, middle), (7.6, middle), INK, 1.4)
    return finish(figure)


def _piece(ax: Axes, at: tuple[float, float], piece: tuple[int, str] | None) -> None:
    """A box in its owner's shade; nothing there, an empty one; -1, a sum of all."""
    if piece is None:
        ax.add_patch(Rectangle(at, 0.92, 0.84, fc="white", ec=FAINT, lw=0.8))
        return
    owner, text = piece
    color = INK if owner < 0 else SHADES[owner]
    ax.add_patch(Rectangle(at, 0.92, 0.84, fc=color, ec="white"))
    ink = "white" if color in (INK, *SHADES[2:]) else INK
    ax.text(at[0] + 0.46, at[1] + 0.4, text, **MIDDLE, color=ink, fontsize=8.5)


def sums_by_size(
    num_bytes: Sequence[float], times_s: Mapping[str, Sequence[float]]
) -> Drawing:
    """How long does a sum take, by its size and by the way it takes?"""
    figure, ax = new_figure(3.7)
    colors = dict(zip(times_s, (COMM, COLORS["moe"], COLORS["mla"]), strict=True))
    for name, times in times_s.items():
        ax.plot(num_bytes, [1e6 * t for t in times], color=colors[name], lw=2)
    ax.set(xscale="log", yscale="log", xlabel="bytes of the sum", ylabel="time in µs")
    ax.set_xlim(num_bytes[0], num_bytes[-1])
    last = {name: log10(1e6 * times[-1]) for name, times in times_s.items()}
    y, gap = None, 0.34  # in powers of ten
    for name, end in sorted(last.items(), key=lambda item: item[1]):
        y = end if y is None else max(end, y + gap)
        look = {"color": colors[name], "va": "center", "fontweight": "bold"}
        ax.text(1.15 * num_bytes[-1], 10**y, name, **look)
    return finish(figure)
