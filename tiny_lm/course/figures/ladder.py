"""Pictures of the cost ladder: what a loss costs, and where a line reaches it.

Chapter: 06_together/cost_ladder
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from matplotlib.ticker import NullFormatter, NullLocator, ScalarFormatter

from tiny_lm.course.experiments.ladder_results import Findings
from tiny_lm.course.figures.style import (
    COLORS,
    FAINT,
    INK,
    Drawing,
    end_labels,
    finish,
    new_figure,
)
from tiny_lm.ladder import ORDER
from tiny_lm.parallel.v3_ladder import PUBLISHED_SHARES

BARS, THICK = 0.42, 0.36  # of a rung: how far its two bars lie apart, how thick


class Rung(NamedTuple):
    """One rung of a ladder, in shares of the first.

    Args:
        color: of the technique that was added.
        here: measured and priced at our scale.
        there: lowest and highest, at DeepSeek-V3's.
    """

    name: str
    color: str
    here: float
    there: tuple[float, float]


# Name: colour of what was added; in the order of `ladder.ORDER`, unbroken in tables.
RUNGS = {
    "dense": "baseline",
    "+\u00a0experts": "moe",
    "+\u00a0latent": "mla",
    "+\u00a0FP8": "fp8",
    "+\u00a0overlap": "comm",
}


def rungs_of(found: Findings) -> list[Rung]:
    """The recorded ladder beside V3's replayed step.

    The latter says what a token costs. How much less compute a mixture needs to be as
    good is what DeepSeek published of theirs, at both ends.
    """
    v3_s = {name: by_hops["pipelined"] for name, by_hops in found.v3_step_s.items()}

    def there(techniques: tuple[str, ...]) -> tuple[float, float]:
        time = v3_s[" ".join(techniques)] / v3_s[""]
        low, high = PUBLISHED_SHARES if "moe" in techniques else (1.0, 1.0)
        return time * low, time * high

    return [
        Rung(name, color, found.cost(some).value, there(some))
        for (name, color), some in zip(RUNGS.items(), ORDER, strict=True)
    ]


def rungs(some: Sequence[Rung]) -> Drawing:
    """What does a loss cost with ever more techniques? Two bars a rung."""
    figure, ax = new_figure(0.9 + 0.62 * len(some))
    for row, rung in enumerate(some):
        low, high = (100 * share for share in rung.there)
        upper, lower = row - BARS / 2, row + BARS / 2
        color = COLORS[rung.color]
        ax.barh(upper, 100 * rung.here, THICK, color=color)
        ax.barh(lower, low, THICK, color=color, alpha=0.45)
        if high > low:
            edge = {"edgecolor": color, "facecolor": "white", "linewidth": 1}
            ax.barh(lower, high - low, THICK, low, hatch="///", alpha=0.6, **edge)
        ours, theirs = ("", "") if row else (" at our scale", " at DeepSeek-V3's")
        _say(ax, 100 * rung.here, upper, f"{rung.here:.0%}{ours}", bold=True)
        spread = f"{low:.0f}-{high:.0f}%" if high - low > 0.5 else f"{low:.0f}%"
        _say(ax, high, lower, spread + theirs)
    ax.axvline(100, color=FAINT, linewidth=1, zorder=0)
    widest = 100 * max(rung.here for rung in some)
    ax.set(xlim=(0, 1.17 * widest), ylim=(len(some) - 0.45, -0.55))
    ax.set(yticks=range(len(some)), yticklabels=[rung.name for rung in some])
    ax.set_xlabel("cost of the dense model's loss, % of its own")
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return finish(figure)


def _say(ax, x: float, y: float, words: str, bold: bool = False) -> None:
    weight = "bold" if bold else "normal"
    ax.annotate(
        words,
        (x, y),
        (4, 0),
        textcoords="offset points",
        va="center",
        fontsize=10,
        fontweight=weight,
    )


class Line(NamedTuple):
    """The ends of one model's schedules.

    Args:
        color: of its technique.
        points: steps and loss, in bits.
        style: of the line, as matplotlib has it.
    """

    color: str
    points: Sequence[tuple[int, float]]
    style: str = "-"


def lines(some: Mapping[str, Line], level: float, reached: Iterable[float]) -> Drawing:
    """Where does each model's line come to the level? Both axes are logarithmic.

    Args:
        reached: steps at which a line comes there.
    """
    figure, ax = new_figure(3.6)
    last = {}
    for name, line in some.items():
        steps, losses = zip(*sorted(line.points), strict=True)
        ax.plot(steps, losses, line.style, color=line.color, marker="o", markersize=4)
        last[name] = losses[-1], line.color
    for steps in reached:
        ax.plot(steps, level, "o", markersize=9, fillstyle="none", color=INK, zorder=5)
    ax.axhline(level, color=INK, linewidth=0.8, linestyle=":")
    points = [point for line in some.values() for point in line.points]
    lengths = sorted({n for n, _ in points})
    low, high = (f(loss for _, loss in points) for f in (min, max))
    ax.set(xscale="log", yscale="log", xlabel="steps of the schedule")
    ax.set(ylabel="bits per byte at its end", ylim=(0.98 * low, 1.02 * high))
    ax.set_xlim(0.93 * lengths[0], 1.9 * lengths[-1])
    ax.set_xticks(lengths, [f"{n:,}" for n in lengths])
    ax.set_yticks([x / 10 for x in range(5, 80) if 0.98 * low < x / 10 < 1.02 * high])
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_minor_formatter(NullFormatter())
        axis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(ScalarFormatter())
    end_labels(ax, last, 1.05 * lengths[-1], 0.03 * low)
    return finish(figure)
