"""The pictures of the chapter on balance: who gets the tokens, and how unevenly.

Chapter: 02_moe/balance
"""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from tiny_lm.course.figures.style import COLORS, FAINT, INK, Drawing, finish, new_figure

LOOKS = [  # one a line, in the order of the lines
    (COLORS["baseline"], "-"),
    (COLORS["moe"], "-"),
    (INK, "--"),
    (INK, ":"),
]


def shares(load: Sequence[int]) -> list[float]:
    """The busiest expert's share of all choices, then the next one's, and so on."""
    total = sum(load)
    return sorted((n / total if total else 0.0 for n in load), reverse=True)


def load_over_steps(panels: Mapping[str, Sequence[Sequence[int]]]) -> Drawing:
    """Who gets the tokens? Shares of all choices at each step, stacked, busiest first.

    panels: title to [steps, experts], the choices that each expert got.
    """
    figure, axes = new_figure(2.8, columns=len(panels))
    axes = [axes] if len(panels) == 1 else list(axes)
    for ax, (title, loads) in zip(axes, panels.items(), strict=True):
        layers = list(zip(*map(shares, loads), strict=True))
        fills = [COLORS["moe"], *(["#C4C4C4", "#E4E4E4"] * len(layers))]
        steps = range(1, len(loads) + 1)
        ax.stackplot(steps, layers, colors=fills[: len(layers)], lw=0)
        ax.set_title(title, fontsize=10.5)
        ax.set(xlim=(1, len(loads)), ylim=(0, 1), xlabel="step")
        ax.set_xticks([len(loads) // 2, len(loads)])
        ax.yaxis.set_major_formatter(PercentFormatter(1))
        if ax is not axes[0]:
            ax.set_yticklabels([])
    axes[0].set_ylabel("share of all choices")
    return finish(figure)


def violation_curves(
    runs: Mapping[str, Sequence[Sequence[float]]],
    limit: float,
    window: int = 5,
) -> Drawing:
    """How uneven is the load, step by step? A line a run, one look for each label.

    Args:
        runs: label to [seeds, steps], each step's MaxVio.
        limit: the largest value there can be, where every token chooses alike.
        window: steps that a point of a line is the mean of.
    """
    figure, ax = new_figure(3.4)
    ax.axhline(limit, color=FAINT, lw=1.5)
    ax.text(
        1, 1.02 * limit, "all tokens choose alike", va="bottom", ha="left", fontsize=10
    )
    longest = max(len(steps) for seeds in runs.values() for steps in seeds)
    ends = {}
    for (label, seeds), (color, dashes) in zip(runs.items(), LOOKS, strict=False):
        smooth = [_means(steps, window) for steps in seeds]
        for steps, values in smooth:
            ax.plot(steps, values, color=color, ls=dashes, lw=1.6)
        ends[label] = sum(values[-1] for _, values in smooth) / len(smooth), color
    for y, label, color in _apart(ends, gap=limit / 11):
        ax.text(longest * 1.02, y, label, color=color, va="center", fontsize=10)
    ax.set(xlim=(0, longest * 1.4), ylim=(0, limit * 1.12))
    ax.set(xlabel="training steps", ylabel="MaxVio", xticks=range(0, longest + 1, 50))
    return finish(figure)


def _means(values: Sequence[float], window: int) -> tuple[list[int], list[float]]:
    """The first value, then the mean of every `window` values, with their places."""
    ends = range(window, len(values) + 1, window)
    means = [sum(values[end - window : end]) / window for end in ends]
    return [1, *ends], [values[0], *means]


def _apart(
    ends: Mapping[str, tuple[float, str]], gap: float
) -> list[tuple[float, str, str]]:
    """Heights at which labels do not overlap: each at its line's end or above."""
    placed: list[tuple[float, str, str]] = []
    for label, (y, color) in sorted(ends.items(), key=lambda item: item[1][0]):
        y = max(y, placed[-1][0] + gap) if placed else y
        placed.append((y, label, color))
    return placed


def pairs(
    panels: Mapping[str, Mapping[str, Sequence[float]]], from_zero: Sequence[str] = ()
) -> Drawing:
    """Is a difference larger than the spread? A dot a run, a line through each seed.

    panels: title to label to values, one a seed, in the same order of seeds.

    Args:
        from_zero: panels whose axis starts at zero.
    """
    figure, axes = new_figure(3.0, columns=len(panels))
    axes = [axes] if len(panels) == 1 else list(axes)
    for ax, (title, groups) in zip(axes, panels.items(), strict=True):
        _pair_panel(ax, groups)
        ax.set_title(title, fontsize=10.5)
        if title in from_zero:
            ax.set_ylim(bottom=0)
    return finish(figure)


def _pair_panel(ax: Axes, groups: Mapping[str, Sequence[float]]) -> None:
    places = range(len(groups))
    for seed in zip(*groups.values(), strict=True):
        ax.plot(places, seed, color=FAINT, lw=1.5, zorder=1)
    for place, values in zip(places, groups.values(), strict=True):
        color = COLORS["moe" if place else "baseline"]
        ax.scatter([place] * len(values), values, color=color, s=28, zorder=2)
    ax.set_xticks(list(places), [label.replace(" ", "\n") for label in groups])
    ax.set_xlim(-0.4, len(groups) - 0.6)
    ax.yaxis.set_major_locator(MaxNLocator(5))
    ax.margins(y=0.15)


def shared_and_own(panels: Mapping[str, Sequence[tuple[float, float]]]) -> Drawing:
    """Can tokens change the order of experts? What all share, and how tokens differ.

    panels: title to [experts] of (mean over tokens, standard deviation).
    """
    figure, axes = new_figure(2.8, columns=len(panels))
    axes = [axes] if len(panels) == 1 else list(axes)
    low = min(m - s for experts in panels.values() for m, s in experts)
    high = max(m + s for experts in panels.values() for m, s in experts)
    for ax, (title, experts) in zip(axes, panels.items(), strict=True):
        means, spreads = zip(*sorted(experts, reverse=True), strict=True)
        places = range(1, len(means) + 1)
        lines = {"ecolor": COLORS["baseline"], "elinewidth": 2.5, "capsize": 0}
        ax.errorbar(places, means, spreads, fmt="o", ms=5, color=COLORS["moe"], **lines)
        ax.set_title(title, fontsize=10.5)
        ax.set(
            ylim=(low - 0.1, high + 0.1), xticks=[1, 8, 16], xlabel="expert, by mean"
        )
        if ax is not axes[0]:
            ax.set_yticklabels([])
    axes[0].set_ylabel("score before the sigmoid")
    return finish(figure)


def mirror(shared: Sequence[float], bias: Sequence[float]) -> Drawing:
    """Does the bias undo what all tokens share? A dot an expert."""
    figure, ax = new_figure(2.8)
    ax.scatter(shared, bias, color=COLORS["moe"], s=30)
    ax.set(xlabel="score of the mean token", ylabel="balance bias")
    return finish(figure)
