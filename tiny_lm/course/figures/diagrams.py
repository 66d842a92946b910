"""Drawings of how things are arranged: boxes, arrows, and what moves along them.

Chapter: index
"""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from tiny_lm.course.figures.style import (
    COLORS,
    FAINT,
    INK,
    Drawing,
    finish,
    new_figure,
)

DARK = {COLORS["moe"], COLORS["mla"], COLORS["baseline"], COLORS["fp8"]}
Place = tuple[float, float]


def box(
    ax: Axes, at: Place, size: Place, text: str, color: str, fontsize: float = 9.5
) -> None:
    """A filled box with its words in the middle."""
    look = {"boxstyle": "round,pad=0.02", "fc": color, "ec": "none"}
    ax.add_patch(FancyBboxPatch(at, *size, **look))
    middle = at[0] + size[0] / 2, at[1] + size[1] / 2
    ink = "white" if color in DARK else INK
    ax.text(*middle, text, ha="center", va="center", color=ink, fontsize=fontsize)


def arrow(ax: Axes, start: Place, end: Place, color: str = INK, lw: float = 1) -> None:
    """From one place to another."""
    look = {"arrowstyle": "->", "color": color, "lw": lw, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", end, start, arrowprops=look)


def blank(height: float, x: Place, y: Place, columns: int = 1) -> tuple:
    """A figure without axes, from x[0] to x[1] and from y[0] to y[1]."""
    figure, axes = new_figure(height, columns)
    for ax in [axes] if columns == 1 else axes:
        ax.set(xlim=x, ylim=y)
        ax.axis("off")
    return figure, axes


def model_picture(lit: str | None = None, ranks: int = 4) -> Drawing:
    """The whole model on its emulated GPUs; `lit` keeps the colour of one technique.

    Raises:
        ValueError: `lit` is not a technique.
    """
    if lit not in (None, "moe", "mla", "fp8", "comm"):
        raise ValueError(f"no technique is called {lit!r}")
    color = {name: c if lit in (None, name) else FAINT for name, c in COLORS.items()}
    figure, ax = blank(4.6, (-0.15, ranks - 0.05), (-0.45, 5.6))
    for rank in range(ranks):
        _rank_column(ax, rank, color)
    for y, words in (
        (2.42, "tokens travel to the GPUs of their experts"),
        (3.94, "and back"),
    ):
        box(ax, (0, y), (ranks - 0.2, 0.3), words, color["comm"])
    ink = INK if color["fp8"] == FAINT else "#A84900"
    words = "framed: products of 8-bit numbers (FP8)"
    ax.text(ranks / 2 - 0.1, 5.35, words, ha="center", color=ink, fontsize=10)
    return finish(figure)


def _rank_column(ax: Axes, rank: int, color: Mapping[str, str]) -> None:
    first = 4 * rank
    layers = [
        (0.0, 0.42, "bytes", FAINT),
        (0.72, 0.42, "embedding", FAINT),
        (1.46, 0.6, "MLA\nattention", color["mla"]),
        (3.02, 0.6, f"experts\n{first} to {first + 3}", color["moe"]),
        (4.56, 0.42, "next byte", FAINT),
    ]
    for y, height, text, fill in layers:
        if height == 0.6:
            frame = {"boxstyle": "round,pad=0.04", "fc": "none", "lw": 2.2}
            around = (rank - 0.03, y - 0.03), 0.86, height + 0.06
            ax.add_patch(FancyBboxPatch(*around, ec=color["fp8"], **frame))
        box(ax, (rank, y), (0.8, height), text, fill)
    for start, end in (
        *((0.45, 0.7), (1.17, 1.38), (2.15, 2.4)),
        *((2.75, 2.94), (3.71, 3.92), (4.27, 4.54)),
    ):
        arrow(ax, (rank + 0.4, start), (rank + 0.4, end))
    ax.text(rank + 0.4, -0.33, f"GPU {rank}", ha="center", fontsize=10)


def three_products() -> Drawing:
    """What does training ask of a matrix of 12 weights? Three products, not one."""
    figure, axes = blank(2.7, (-1.2, 4.5), (-1.7, 5.6), columns=3)
    panels = (
        ("forward", "which\noutput?", (INK, FAINT, COLORS["moe"])),
        ("backward", "how should the\ninput change?", (COLORS["moe"], FAINT, INK)),
        ("backward", "how should the\nweights change?", (INK, COLORS["moe"], INK)),
    )
    for ax, (title, question, (bottom, middle, side)) in zip(axes, panels, strict=True):
        for row in range(4):
            _cell(ax, 3.4, row, side)
            for column in range(3):
                _cell(ax, column, row, middle)
        for column in range(3):
            _cell(ax, column, -1.5, bottom)
        ax.set_title(title, fontsize=10.5, fontweight="bold")
        ax.text(1.2, 4.35, question, ha="center", fontsize=9)
    return finish(figure)


def _cell(ax: Axes, x: float, y: float, color: str) -> None:
    ax.barh(y + 0.5, 0.9, 0.9, left=x, color=color)


def transformer(text: str = "def f") -> Drawing:
    """How do bytes become a bet? Each looks back, thinks, bets on the next."""
    last = len(text) - 1
    figure, ax = blank(4.3, (-1.75, last + 0.6), (-0.35, 6.15))
    ink = COLORS["baseline"]
    for place, byte in enumerate(text):
        shown = byte if byte != " " else "space"
        for y, words, fill in (
            (0.0, shown, FAINT),
            (1.1, "vector", FAINT),
            (2.75, "look\nback", ink),
            (3.85, "think", ink),
        ):
            box(ax, (place - 0.36, y), (0.72, 0.5), words, fill, 8.5)
        following = (text + "?")[place + 1].replace(" ", "space")
        bet = f"next:\n{following}" if following != "?" else "next:\n?"
        box(ax, (place - 0.36, 4.95), (0.72, 0.75), bet, "white", 9)
        for start, end in ((0.53, 1.08), (3.28, 3.83), (4.38, 4.93)):
            arrow(ax, (place, start), (place, end))
        for earlier in range(place + 1):
            arrow(ax, (earlier, 1.63), (place, 2.72), ink, 0.8)
    for y, words in (
        (0.25, "the bytes so far"),
        (1.35, "embedding"),
        (3.0, "attention"),
        (4.1, "feed-forward"),
        (5.3, "probabilities\nof the next byte"),
    ):
        ax.text(-0.5, y, words, ha="right", va="center", fontsize=9.5)
    return finish(figure)


def agreements(ranks: int = 4) -> Drawing:
    """What do ranks have to agree on in a step? Three exchanges, in this order."""
    figure, ax = blank(4.4, (-0.1, ranks + 0.02), (-0.35, 6.25))
    rows = (
        (5.2, "tokens of this rank", FAINT),
        (3.55, "the experts here", COLORS["moe"]),
        (1.9, "gradients", FAINT),
        (0.25, "weights, biases", FAINT),
    )
    for rank in range(ranks):
        for y, words, fill in rows:
            box(ax, (rank, y), (0.9, 0.6), words.replace(" ", "\n", 1), fill, 8.5)
        for y in (5.15, 4.43, 3.5, 2.78, 1.85, 1.13):
            arrow(ax, (rank + 0.45, y), (rank + 0.45, y - 0.25))
        ax.text(rank + 0.45, 5.95, f"rank {rank}", ha="center", fontsize=10)
    for y, words in (
        (4.47, "1  rows travel to their experts and back (all-to-all)"),
        (2.82, "2  gradients of shared weights are added; an expert's stay"),
        (1.17, "3  loads are added, and every rank moves its biases alike"),
    ):
        box(ax, (0, y), (ranks - 0.1, 0.38), words, COLORS["comm"], 9)
    return finish(figure)


def bars_of_surprise(
    word: str, alone: Sequence[float], with_one: Sequence[float]
) -> Drawing:
    """How surprising is each letter? Grey: shares alone; black: one letter seen."""
    figure, ax = new_figure(2.4)
    for side, values, color in ((-0.2, alone, "#9A9A9A"), (0.2, with_one, INK)):
        places = [place + side for place in range(len(word))]
        ax.bar(places, values, 0.38, color=color)
        for place, value in zip(places, values, strict=True):
            ax.text(place, value + 0.05, f"{value:.1f}", ha="center", fontsize=9)
    ax.set_xticks(range(len(word)), list(word), fontfamily="DejaVu Sans Mono")
    ax.tick_params(axis="x", length=0)
    ax.set(ylabel="bits", ylim=(0, 1.2 * max(alone)))
    return finish(figure)


def kept_by_top_p(odds: Mapping[str, float], top_p: float) -> Drawing:
    """Which bytes does top-p keep? Black: kept; grey: the tail that is dropped."""
    figure, ax = new_figure(2.9)
    ranked = sorted(odds.items(), key=lambda item: -item[1])
    before = 0.0
    for place, (_, p) in enumerate(ranked):
        kept = before < top_p
        ax.bar(place, p, 0.85, bottom=before, color=INK if kept else FAINT)
        before += p
    ax.axhline(top_p, color=COLORS["fp8"], lw=1.2, ls="--")
    names = [name.replace(" ", "space").replace("\n", "\\n") for name, _ in ranked]
    ax.set_xticks(range(len(names)), names, fontfamily="DejaVu Sans Mono")
    ax.text(-0.4, top_p + 0.02, f"top-p {top_p}", color="#A84900", fontsize=10)
    ax.set(ylabel="probability, stacked", ylim=(0, 1.08), xlim=(-0.6, len(names) - 0.4))
    return finish(figure)


def stored_and_used(
    models: Mapping[str, tuple[int, int]], per_row: int = 40
) -> Drawing:
    """How much of what a model stores does one token use? A square a billion.

    models: name to (parameters, those that a token uses), in billions.
    """
    rows = [-(-total // per_row) for total, _ in models.values()]
    figure, ax = blank(0.14 * sum(rows) + 0.55 * len(rows), (-0.3, per_row), (0, 1))
    top = 0.0
    for (name, (total, used)), count in zip(models.items(), rows, strict=True):
        words = f"{name}: stores {total:,}, uses {used:,}"
        ax.text(-0.2, top + 0.8, words, fontsize=10, va="center", fontweight="bold")
        for square in range(total):
            row, column = divmod(square, per_row)
            color = COLORS["moe"] if square < used else FAINT
            ax.barh(top + 2.3 + row, 0.8, 0.8, left=column, color=color)
        top += count + 3.4
    ax.set_ylim(top - 1, -0.3)
    return finish(figure)
