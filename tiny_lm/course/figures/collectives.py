"""Drawings of collectives: what is on which rank, step by step, and what it costs.

Chapter: 05_comm/emulated_gpus
"""

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from tiny_lm.course.figures.diagrams import arrow, blank
from tiny_lm.course.figures.exchanges import SHADES
from tiny_lm.course.figures.style import GREY, INK, MIDDLE, Drawing, finish

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
