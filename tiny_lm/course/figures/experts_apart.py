"""Drawings of experts on different GPUs: rows that travel, hops, nodes, and placement.

Chapter: 05_comm/experts_apart
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
BY_SENDER = (FAINT, COMM)  # the shade of a row is that of the rank it came from
Row = tuple[str, int, int]  # a token, the expert that it is a copy for, whose token
LINES = (COLORS["fp8"], COLORS["moe"], COLORS["mla"], COMM, GREY)


def rows_on_ranks(stages: Mapping[str, Sequence[Sequence[Row]]]) -> Drawing:
    """What lies on each of two ranks, from the tokens to the experts' rows?

    Args:
        stages: for each stage, the rows of both ranks.
    """
    most = max(len(rows) for ranks in stages.values() for rows in ranks)
    width = most + 0.5
    figure, ax = blank(0.86 * len(stages) + 0.45, (-0.1, 2 * width), (-0.1, 1))
    ax.set_ylim(-1.05 * len(stages) + 0.2, 1.3)
    for rank in range(2):
        ax.text(rank * width + most / 2, 1.0, f"rank {rank}", ha="center")
    for step, (name, ranks) in enumerate(stages.items()):
        y = -1.05 * step
        ax.text(-0.05, y + 0.58, name, fontsize=9.5, va="bottom")
        for rank, rows in enumerate(ranks):
            for place, row in enumerate(rows):
                _row(ax, (rank * width + place, y), row)
    return finish(figure)


def _row(ax: Axes, at: tuple[float, float], row: Row) -> None:
    token, expert, sender = row
    look = {"fc": BY_SENDER[sender], "ec": "white"}
    ax.add_patch(Rectangle(at, 0.94, 0.5, **look))
    text = token if expert < 0 else f"{token} for {expert}"
    ax.text(at[0] + 0.47, at[1] + 0.25, text, fontsize=9, **MIDDLE)


def ways_to_a_node(chosen: Sequence[int], place: int = 1) -> Drawing:
    """How does a token reach its experts in another node? Once each, or once in all.

    Args:
        chosen: how many of its experts each GPU of the node holds.
        place: of the sender in its node.
    """
    figure, axes = blank(2.9, (-0.1, 4.3), (-0.75, len(chosen) + 0.1), columns=2)
    middle = {gpu: len(chosen) - 1 - gpu + 0.4 for gpu in range(len(chosen))}
    for ax, twice in zip(axes, (False, True), strict=True):
        box(ax, (0, middle[place] - 0.3), (1.0, 0.6), "token", FAINT)
        frame = Rectangle((2.6, -0.1), 1.7, len(chosen), fc="none", ec=GREY)
        ax.add_patch(frame)
        for gpu, count in enumerate(chosen):
            words = f"GPU {gpu}"
            color = COMM if count or (twice and gpu == place) else FAINT
            box(ax, (2.85, middle[gpu] - 0.3), (1.2, 0.6), words, color)
    for gpu, count in enumerate(chosen):
        for copy in range(count):
            y = middle[gpu] + 0.16 * (copy - (count - 1) / 2)
            arrow(axes[0], (1.05, middle[place]), (2.8, y), INK, 1.6)
        if count and gpu != place:
            down = 1 if middle[gpu] < middle[place] else -1
            start = middle[place] - 0.34 * down
            x = 3.1 if down > 0 else 3.8
            arrow(axes[1], (x, start), (x, middle[gpu] + 0.34 * down), INK, 1.6)
    arrow(axes[1], (1.05, middle[place]), (2.8, middle[place]), INK, 1.6)
    for ax, words in zip(axes, ("one an expert", "one a node"), strict=True):
        ax.text(2.1, -0.6, words, ha="center", fontsize=10)
    return finish(figure)


def nodes_visited(shares: Mapping[str, Sequence[float]]) -> Drawing:
    """How many nodes does a token visit, with a limit and without?

    Args:
        shares: by router, of the tokens that visit 1, 2, 3, … nodes.
    """
    figure, ax = new_figure(2.9)
    colors = dict(zip(shares, (GREY, COMM), strict=True))
    for side, (name, values) in zip((-0.2, 0.2), shares.items(), strict=True):
        places = [count + 1 + side for count in range(len(values))]
        ax.bar(places, values, 0.38, color=colors[name])
        top = max(range(len(values)), key=lambda i: values[i])
        at = places[top], values[top] + 0.03
        ink = {"color": INK, "ha": "center" if side < 0 else "right"}
        ax.text(*at, name, fontsize=10, **ink)
    ax.set(xlabel="nodes that hold an expert of the token", ylabel="share of tokens")
    ax.set(xticks=range(1, len(next(iter(shares.values()))) + 1), ylim=(0, 1.05))
    return finish(figure)


def offers_and_demands(
    offers: Mapping[str, float], demands: Mapping[str, float]
) -> Drawing:
    """Do experts compute enough for each byte? Above what they do, below what it takes.

    Args:
        offers: FLOPs that a model's experts do for each byte on a link.
        demands: FLOPs that a machine does while its link passes a byte.
    """
    rows = [*((n, x, COLORS["moe"]) for n, x in offers.items())]
    rows += [(n, x, COMM) for n, x in demands.items()]
    figure, ax = new_figure(0.36 * len(rows) + 0.9)
    ends = [value for _, value, _ in rows]
    for y, (_, value, color) in enumerate(reversed(rows)):
        ax.plot([min(ends) / 3, value], [y, y], color=color, lw=2)
        ax.plot([value], [y], "o", color=color, ms=7)
    ax.set(xscale="log", xlim=(min(ends) / 3, 2 * max(ends)))
    ax.set(yticks=range(len(rows)), xlabel="FLOPs for each byte on the link")
    ax.set_yticklabels([row[0] for row in reversed(rows)], fontsize=9.5)
    ax.tick_params(axis="y", length=0)
    ax.axhline(len(demands) - 0.5, color=FAINT, lw=1)
    return finish(figure)


def by_copies(
    lines: Mapping[str, Sequence[float]], copies: Sequence[int], before: str
) -> Drawing:
    """How long does everybody wait for the busiest GPU, with more and more copies?

    Args:
        lines: by text, the busiest over the mean: as the experts stand, and then
            placed greedily with each number of copies.
        copies: of experts, over all GPUs.
        before: the name of the first placement.
    """
    figure, ax = new_figure(3.3)
    places = range(len(copies) + 1)
    ends = {}
    for (name, values), color in zip(lines.items(), LINES, strict=False):
        ax.plot(places, values, color=color, lw=2, marker="o", ms=5)
        ends[name] = values[0], color
    top = max(value for values in lines.values() for value in values)
    last = 0.0
    for name, (y, color) in sorted(ends.items(), key=lambda item: item[1][0]):
        last = max(y, last + 0.085 * (top - 1))
        ax.text(-0.12, last, name, color=color, ha="right", va="center", fontsize=9.5)
    ax.axhline(1, color=INK, lw=0.8)
    ax.set(xlim=(-1.25, len(copies) + 0.2), ylim=(0.9, 1.05 * top), xticks=places)
    ax.set_xticklabels([before, "greedy", *(f"+ {n}" for n in copies[1:])])
    ax.set_xlabel("how experts are placed, and copies besides")
    ax.set_ylabel("busiest GPU over the mean")
    return finish(figure)
