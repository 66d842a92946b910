"""The book's pictures: one visual language, no legend to look up, no plotting in pages.

Chapter: index

A colour stands for a technique wherever it appears. Every figure is an SVG on a light
plate, so that it stays readable on a dark page, and answers one question.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import matplotlib as mpl
from matplotlib.figure import Figure

from tiny_lm.course.figures.diagrams import model_picture as model_picture
from tiny_lm.course.figures.style import (
    COLORS,
    FAINT,
    INK,
    NAMES,
    STYLE,
    WIDTH,
    Drawing,
    end_labels,
    finish,
    new_figure,
)


@dataclass(frozen=True, kw_only=True)
class Bite:
    """One technique, and the bill that it cuts."""

    technique: str
    bill: str
    without: float
    with_it: float
    unit: str

    @property
    def factor(self) -> float:
        """How many times smaller the bill gets."""
        return self.without / self.with_it


def four_bites(bites: Sequence[Bite]) -> Drawing:
    """Which bill does each technique cut, and by what factor?"""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.25 * len(bites)), layout="constrained")
        rows = figure.subplots(len(bites), 1, squeeze=False)[:, 0]
    for ax, bite in zip(rows, bites, strict=True):
        color = COLORS[bite.technique]
        ax.barh([1, 0], [1, 1 / bite.factor], color=[COLORS["baseline"], color])
        ax.set(xlim=(0, 1.6), ylim=(-0.6, 1.6))
        ax.text(
            1.02, 1, f"{_short(bite.without)} {bite.unit}", va="center", fontsize=10
        )
        ax.text(
            1 / bite.factor + 0.02,
            0,
            f"{_short(bite.with_it)} {bite.unit}, {bite.factor:.2g} × less",
            va="center",
            fontsize=10,
        )
        title = f"{NAMES[bite.technique]}: {bite.bill}"
        ax.set_title(title, loc="left", fontsize=10.5, fontweight="bold")
        ax.axis("off")
    return finish(figure)


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def context_curve(train: Sequence[float], new: Sequence[float]) -> Drawing:
    """Does counting longer contexts help? Bits per byte, by bytes of context."""
    figure, ax = new_figure(3.2)
    lengths = range(len(new))
    ax.plot(lengths, train, "--o", color=COLORS["baseline"])
    ax.plot(lengths, new, "-o", color=INK)
    end = len(new) - 1
    ax.text(end + 0.12, new[-1], "files never\nseen", va="center")
    ax.text(end + 0.12, train[-1], "files that\nwere counted", va="center")
    ax.set(xlabel="bytes of context", ylabel="bits per byte", ylim=(0, None))
    ax.set(xlim=(-0.2, end + 1.5), xticks=list(lengths))
    return finish(figure)


def learning_curves(
    runs: Mapping[str, Sequence[float]],
    levels: Mapping[str, float] | None = None,
    colors: Mapping[str, str] | None = None,
    ylabel: str = "bits per byte",
) -> Drawing:
    """How fast does the loss fall? One line a run, means over ten steps.

    Args:
        levels: horizontal lines to compare with.
        colors: names in `COLORS`, by run; the baseline's grey where none is given.
    """
    figure, ax = new_figure(3.4)
    longest = max(len(losses) for losses in runs.values())
    right = 1.03 * longest
    ends = {}
    for name, level in (levels or {}).items():
        ax.axhline(level, color=FAINT, lw=1.5)
        ends[name] = level, INK
    for number, (name, losses) in enumerate(runs.items()):
        steps, means = _means_of(losses, 10)
        color = COLORS[(colors or {}).get(name, "baseline")]
        ax.plot(steps, means, color=color, lw=2, ls=("-", "--")[number % 2])
        ends[name] = means[-1], color
    ax.margins(y=0.1)
    low, high = ax.get_ylim()
    end_labels(ax, ends, right, gap=(high - low) / 13)
    ax.set(xlabel="training steps", ylabel=ylabel, xlim=(0, longest))
    return finish(figure)


def _means_of(values: Sequence[float], width: int) -> tuple[list[int], list[float]]:
    """The first value, then the mean of every `width` values, with their places."""
    ends = range(width, len(values) + 1, width)
    means = [fmean(values[end - width : end]) for end in ends]
    return [1, *ends], [values[0], *means]


def next_bytes(panels: Mapping[str, Mapping[str, float]], prompt: str) -> Drawing:
    """What does temperature do to the odds? The likeliest next bytes, a panel each."""
    figure, axes = new_figure(3.0, columns=len(panels))
    for ax, (title, odds) in zip(axes, panels.items(), strict=True):
        names = [repr(name)[1:-1].replace(" ", "space") for name in odds][::-1]
        ax.barh(names, list(odds.values())[::-1], color=COLORS["baseline"])
        ax.set(xlim=(0, 1), xticks=[0, 0.5, 1], xlabel="probability")
        ax.set_title(title, fontsize=10.5)
        ax.tick_params(labelfontfamily="DejaVu Sans Mono")
    figure.suptitle(f"next byte after “{prompt}”", fontsize=11)
    return finish(figure)


def expert_load(loads: Sequence[Sequence[Sequence[int]]], window: int = 30) -> Drawing:
    """Did balancing work? Each expert's share early and late; 1 is an even share.

    loads: [steps, layers, experts], the choices each expert got.
    """
    layers = len(loads[0])
    figure, axes = new_figure(3.2, columns=layers)
    axes = [axes] if layers == 1 else list(axes)
    for layer, ax in enumerate(axes):
        for part, color, side in (
            (loads[:window], "baseline", -0.2),
            (loads[-window:], "moe", 0.2),
        ):
            shares = relative_load([step[layer] for step in part])
            places = [expert + side for expert in range(len(shares))]
            ax.barh(places, shares, 0.4, color=COLORS[color])
        ax.axvline(1, color=INK, lw=1)
        ax.set_title(f"MoE layer {layer + 1}", fontsize=10.5)
        ax.set(xlabel="share", xlim=(0, None), yticks=[0, 5, 10, 15])
        ax.invert_yaxis()
    axes[0].set_ylabel("expert")
    figure.suptitle(f"grey: first {window} steps, blue: last {window}", fontsize=10.5)
    return finish(figure)


def relative_load(loads: Sequence[Sequence[int]]) -> list[float]:
    """Each expert's load over some steps, divided by the mean: 1 is an even share."""
    totals = [sum(step) for step in zip(*loads, strict=True)]
    mean = fmean(totals)
    return [total / mean if mean else 0.0 for total in totals]


def printable(text: str) -> str:
    """A model's text for a page: control characters but line feeds show as dots.

    A model that has learned little writes characters that no page can hold.
    """
    return "".join(c if c.isprintable() or c == "\n" else "·" for c in text)
