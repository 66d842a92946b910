"""Drawings of a layer of experts: who reads a token, and how rows are sorted.

Chapter: 02_moe/conditional_computation
"""

from collections.abc import Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from tiny_lm.course.figures.diagrams import arrow, blank, box
from tiny_lm.course.figures.style import (
    COLORS,
    FAINT,
    GREY,
    INK,
    Drawing,
    finish,
    new_figure,
)

BLUE = COLORS["moe"]
PALE = "#8EC1E0"  # next to blue: another expert


def layer_of_experts(
    token: str, scores: Sequence[float], gates: Sequence[float]
) -> Drawing:
    """How does a token pass the layer? Router, chosen experts, weighted sum.

    Args:
        scores: one for each routed expert.
        gates: likewise; 0 where the expert was not chosen.
    """
    last = len(scores)
    figure, ax = blank(3.5, (-0.25, last + 2.0), (-0.3, 4.1))
    middle = (last + 1.8) / 2
    box(ax, (middle - 0.5, 0.0), (1.0, 0.5), token, FAINT, 10)
    box(ax, (-0.1, 1.35), (0.8, 0.75), "router", GREY, 9.5)
    arrow(ax, (middle - 0.5, 0.35), (0.3, 1.3), GREY)
    arrow(ax, (0.75, 1.72), (0.97, 1.72), GREY)
    columns = [*zip(scores, gates, strict=True), (None, 1.0)]
    for column, (score, gate) in enumerate(columns, start=1):
        words = f"expert {column - 1}\nscore {score:.1f}" if score else "shared\nexpert"
        box(ax, (column, 1.35), (0.84, 0.75), words, BLUE if gate else FAINT, 8.5)
        if gate:
            arrow(ax, (middle, 0.55), (column + 0.42, 1.3), BLUE, 1.6)
            arrow(ax, (column + 0.42, 2.15), (middle, 3.25), BLUE, 1.6)
            ax.text(
                column + (0.5 if column > middle - 0.5 else 0.34),
                2.2,
                f"× {gate:.1f}",
                fontsize=9.5,
                color=BLUE,
                ha="left" if column > middle - 0.5 else "right",
            )
    box(ax, (middle - 0.75, 3.3), (1.5, 0.5), "weighted sum", FAINT, 10)
    return finish(figure)


def sorted_rows(tokens: Sequence[str], chosen: Sequence[Sequence[int]]) -> Drawing:
    """How does each expert get all of its rows at once? Gather, multiply, scatter.

    chosen: [N, k], the experts of each token.
    """
    pairs = sorted((e, t) for t, experts in enumerate(chosen) for e in experts)
    figure, ax = blank(0.36 * len(pairs) + 1.1, (-0.1, 6.1), (-1.0, len(pairs)))
    step = len(pairs) / len(tokens)
    heights = [len(pairs) - step * (t + 0.5) for t in range(len(tokens))]
    for t, token in enumerate(tokens):
        for x in (0.0, 5.1):
            box(ax, (x, heights[t] - 0.35), (0.9, 0.7), token, FAINT, 9.5)
    for row, (expert, t) in enumerate(pairs):
        y = len(pairs) - row - 0.5
        color = BLUE if expert % 2 == 0 else PALE
        box(ax, (2.1, y - 0.32), (0.9, 0.64), f"{expert}: {tokens[t]}", color, 9)
        for x in ((0.95, 2.05), (3.05, 5.05)):
            ends = (heights[t], y) if x[0] < 2 else (y, heights[t])
            ax.plot(x, ends, color=GREY, lw=0.9)
    _name_slices(ax, [expert for expert, _ in pairs])
    for x, words in ((1.5, "gather"), (2.55, "multiply"), (4.05, "weigh and add")):
        ax.text(x, -0.75, words, ha="center", fontsize=10, fontweight="bold")
    return finish(figure)


def _name_slices(ax: Axes, experts: Sequence[int]) -> None:
    """A line between two experts' rows; the expert's name beside its first row."""
    for row, (one, other) in enumerate(pairwise(experts), start=1):
        if one != other:
            y = len(experts) - row
            ax.plot((1.95, 3.15), (y, y), color=INK, lw=1)


def choose_and_weigh(scores: Sequence[float], bias: Sequence[float]) -> Drawing:
    """Where does the bias count? In who is chosen, not in how much each one weighs."""
    biased = [s + b for s, b in zip(scores, bias, strict=True)]
    best = sorted(range(len(scores)), key=lambda e: -biased[e])[:2]
    total = sum(scores[e] for e in best)
    figure, axes = new_figure(2.5, columns=2)
    panels = (
        ("chosen by score + bias", biased, ""),
        ("weighed by score", scores, "gate"),
    )
    for ax, (title, values, what) in zip(axes, panels, strict=True):
        colors = [BLUE if e in best else FAINT for e in range(len(scores))]
        ax.barh(range(len(scores)), values, 0.7, color=colors)
        for e, value in enumerate(values):
            gate = f" → {scores[e] / total:.2f}" if what and e in best else ""
            ax.text(value + 0.02, e, f"{value:.1f}{gate}", va="center", fontsize=9.5)
        ax.set_yticks(range(len(scores)), [f"expert {e}" for e in range(len(scores))])
        ax.set_title(title, fontsize=10.5)
        ax.set(xlim=(0, 1.3), xticks=[0, 0.5, 1])
        ax.tick_params(axis="y", length=0)
        ax.invert_yaxis()
    axes[1].set_yticks([])
    return finish(figure)


def waiting_for(load: Sequence[int]) -> Drawing:
    """Who is waited for? Each expert's tokens, and the even share."""
    mean = sum(load) / len(load)
    figure, ax = new_figure(2.0)
    busiest = load.index(max(load))
    colors = [BLUE if e == busiest else GREY for e in range(len(load))]
    ax.barh(range(len(load)), load, 0.65, color=colors)
    ax.axvline(mean, color=INK, ls="--", lw=1.2)
    ax.text(mean + 0.1, len(load) - 0.42, "even share", va="top", fontsize=10)
    ax.set_yticks(range(len(load)), [f"expert {e}" for e in range(len(load))])
    ax.set(xlabel="tokens", ylim=(len(load) + 0.1, -0.5))
    ax.tick_params(axis="y", length=0)
    return finish(figure)


def group_limit(
    scores: Sequence[float], num_groups: int, top_groups: int, top_k: int
) -> Drawing:
    """Which experts may a token choose from? Those of its best groups.

    scores: with the bias added, of all experts, group by group.
    """
    size = len(scores) // num_groups
    groups = [scores[g * size : (g + 1) * size] for g in range(num_groups)]
    best = max(top_k // top_groups, 1)
    sums = [sum(sorted(group, reverse=True)[:best]) for group in groups]
    kept = sorted(range(num_groups), key=lambda g: -sums[g])[:top_groups]
    reachable = [e for g in kept for e in range(g * size, (g + 1) * size)]
    chosen = sorted(reachable, key=lambda e: -scores[e])[:top_k]
    figure, ax = blank(1.6, (-0.1, len(scores) + 0.5), (-0.95, 1.3))
    for g, group in enumerate(groups):
        left = g * (size + 0.15)
        edge = BLUE if g in kept else FAINT
        ax.add_patch(
            Rectangle((left - 0.05, -0.1), size, 1.0, fill=False, ec=edge, lw=1.8)
        )
        for place, score in enumerate(group):
            color = BLUE if g * size + place in chosen else FAINT
            box(ax, (left + place + 0.05, 0), (0.8, 0.8), f"{score:.1f}", color, 10)
        words = f"{sums[g]:.1f}" + (", kept" if g in kept else "")
        ax.text(left + size / 2 - 0.05, -0.55, words, ha="center", color=INK)
        ax.text(left + size / 2 - 0.05, 1.05, f"group {g}", ha="center", fontsize=10)
    return finish(figure)
