"""Pictures of latent attention: directions, the two projections, what is cached.

Chapter: 03_mla/latent_attention
Source: course
"""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from tiny_lm.course.figures.diagrams import arrow, box
from tiny_lm.course.figures.style import (
    FAINT,
    GREEN,
    GREY,
    INK,
    MIDDLE,
    Drawing,
    finish,
    new_figure,
)


def cloud(points: Sequence[tuple[float, float]], along: tuple[float, float]) -> Drawing:
    """Two heads' keys, a dot a token: how far are the dots from one line?

    Args:
        points: one number of head 0 and one of head 1, for each token.
        along: the line's direction, of length 1.
    """
    figure, ax = new_figure(3.0)
    far = 1.1 * max(abs(x) for point in points for x in point)
    ax.plot([-far * along[0], far * along[0]], [-far * along[1], far * along[1]], GREEN)
    for x, y in points:
        on = x * along[0] + y * along[1]
        foot = (on * along[0], on * along[1])
        ax.plot([x, foot[0]], [y, foot[1]], color=FAINT, lw=1)
        ax.plot(*foot, "o", color=GREEN, ms=4)
        ax.plot(x, y, "o", color=GREY, ms=5)
    ax.set(xlabel="key of head 0", ylabel="key of head 1", xlim=(-far, far))
    return finish(figure)


def energies(
    trained: Sequence[Sequence[float]],
    untrained: Sequence[Sequence[float]],
    noise: Sequence[float],
) -> Drawing:
    """How much of keys and values lies outside the first directions? A line a layer."""
    figure, ax = new_figure(3.4)
    kinds = (
        ("noise", [noise], GREY, ":"),
        ("untrained", untrained, GREY, "--"),
        ("trained", trained, GREEN, "-"),
    )
    for _, layers, color, dashes in kinds:
        for shares in layers:
            rest = [max(1 - share, 1e-6) for share in shares]
            ax.plot(range(1, len(rest) + 1), rest, color=color, ls=dashes, lw=1.6)
    ax.set_yscale("log")
    ax.set(xlabel="directions kept", ylabel="share left out", ylim=(1e-4, 1.2))
    ax.set_xlim(0, len(noise))
    for name, layers, color, side in (
        ("trained", trained, GREEN, "right"),
        ("untrained", untrained, GREY, "left"),
        ("noise", [noise], GREY, "right"),
    ):
        falls = [next(n for n, e in enumerate(of) if 1 - e < 1e-3) for of in layers]
        gap = 0.02 * len(noise)
        x = min(falls) - gap if side == "right" else max(falls) + gap
        ax.text(x, 1e-3, name, color=color, ha=side, fontweight="bold")
    return finish(figure)


def loss_by_rank(
    ranks: Sequence[int], losses: Sequence[float], whole: float
) -> Drawing:
    """What does the model lose if only the first directions are kept?"""
    figure, ax = new_figure(3.0)
    ax.plot(ranks, losses, "o-", color=GREEN, lw=2, ms=4)
    ax.axhline(whole, color=GREY, ls=":", lw=1.2)
    ax.text(ranks[0], whole, "all of them", color=GREY, va="bottom", fontsize=9.5)
    ax.set_xscale("log", base=2)
    ax.set_xticks([r for r in ranks if r & (r - 1) == 0])
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:.0f}")
    ax.set(xlabel="directions kept", ylabel="loss, nats per byte")
    return finish(figure)


def projections(widths: Mapping[str, int]) -> Drawing:
    """What is made from what? Down to the latent, up to all heads; green is cached.

    Args:
        widths: by "state", "latent", "rotary key", "keys" and "values".
    """
    figure, ax = new_figure(3.5)
    boxes = {  # centre, width, colour
        "state": ((1.1, 1.5), 1.5, FAINT),
        "latent": ((4.3, 2.1), 1.7, GREEN),
        "rotary key": ((4.3, 0.6), 1.7, GREEN),
        "keys": ((8.2, 2.7), 2.3, FAINT),
        "values": ((8.2, 1.5), 2.3, FAINT),
    }
    arrows = (
        ("state", "latent", "down"),
        ("state", "rotary key", "narrow, rotated"),
        ("latent", "keys", "up"),
        ("latent", "values", "up"),
    )
    for start, end, word in arrows:
        (x0, y0), w0 = boxes[start][:2]
        (x1, y1), w1 = boxes[end][:2]
        arrow(ax, (x0 + w0 / 2, y0), (x1 - w1 / 2, y1), GREY)
        side = 0.2 if y1 > y0 else -0.24
        middle = ((x0 + w0 / 2 + x1 - w1 / 2) / 2 - 0.1, (y0 + y1) / 2 + side)
        ax.text(*middle, word, ha="right", va="center", fontsize=9.5, color=INK)
    for name, ((x, y), width, color) in boxes.items():
        words = f"{name}, {widths[name]:,}"
        box(ax, (x - width / 2, y - 0.25), (width, 0.5), words, color)
    ax.text(8.2, 0.6, "every head's query\nsees this one too", fontsize=9.5, **MIDDLE)
    arrow(ax, (5.15, 0.6), (7.0, 0.6), GREY)
    ax.set(xlim=(0.2, 9.5), ylim=(0.1, 3.2))
    ax.set_axis_off()
    return finish(figure, narrow=False)


def seeds(groups: Mapping[str, Sequence[float]], xlabel: str, lit: str) -> Drawing:
    """How far apart do seeds lie? A row a kind of attention, a dot a run."""
    figure, ax = new_figure(0.36 * len(groups) + 0.9)
    for row, (name, values) in enumerate(groups.items()):
        color = GREEN if name.startswith(lit) else GREY
        ax.plot(values, [row] * len(values), "o", color=color, ms=5, alpha=0.7)
        ax.plot([fmean(values)] * 2, [row - 0.3, row + 0.3], color=color, lw=2)
    ax.set_yticks(range(len(groups)), list(groups))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set(xlabel=xlabel, ylim=(len(groups) - 0.5, -0.5))
    return finish(figure)


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and standard deviation over the runs."""
    return fmean(values), stdev(values)
