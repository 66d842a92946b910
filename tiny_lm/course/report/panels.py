"""The capstone report's four pictures: on a page of HTML, and on the picture to share.

Chapter: 06_together/full_model
Source: course

Each is drawn into axes that it is given. In HTML the ink is the page's own, so that a
dark page needs no light plate.
"""

import io
import math
import re
from collections.abc import Callable
from statistics import fmean

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tiny_lm.course.figures.style import COLORS, INK, MIDDLE, NAMES, STYLE, end_labels
from tiny_lm.course.report.facts import Report

LN2 = math.log(2)
MEAN_OF = 5  # steps that a point of a curve stands for
PARTS = (("computes", 1.0), ("waits for bytes", 0.55), ("waits for others", 0.25))
SIZE = (4.6, 2.9)
LOOK = STYLE | {"font.size": 10, "xtick.color": INK, "ytick.color": INK}


def curves(ax: Axes, report: Report) -> None:
    """What did each rung learn? Means of a few steps, in bits per byte."""
    ends = {}
    longest = max(len(rung.losses) for rung in report.rungs)
    for rung in report.rungs:
        width = max(1, min(MEAN_OF, len(rung.losses)))
        steps = range(width, len(rung.losses) + 1)
        bits = [fmean(rung.losses[end - width : end]) / LN2 for end in steps]
        color = COLORS[rung.technique]
        ax.plot(steps, bits, color=color, lw=1.8)
        ends[rung.name] = bits[-1], color
    ax.margins(y=0.08)
    low, high = ax.get_ylim()
    end_labels(ax, ends, 1.02 * longest, gap=(high - low) / 12)
    ax.set(xlabel="training steps", ylabel="bits per byte", xlim=(0, longest))


def times(ax: Axes, report: Report) -> None:
    """What does a token's emulated time go to, rung by rung?"""
    longest = max(rung.token_us for rung in report.rungs)
    for row, rung in enumerate(report.rungs):
        left = 0.0
        for (_, shade), length in zip(PARTS, rung.parts_us, strict=True):
            color = COLORS[rung.technique]
            ax.barh(row, length, 0.68, left, color=color, alpha=shade, lw=0)
            left += length
        ax.text(left + 0.015 * longest, row, f"{left:.0f}", va="center")
    ax.set_yticks(range(len(report.rungs)), [rung.name for rung in report.rungs])
    ax.set(xlim=(0, 1.12 * longest), ylim=(len(report.rungs) - 0.5, -0.5))
    ax.set_xlabel("emulated µs a token; pale: waits for bytes, or for others")
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)


def load(ax: Axes, report: Report) -> None:
    """How much does each expert have to do? A row a layer, in even shares."""
    shares = report.load or [[0.0]]
    most = max(2.0, *(x for layer in shares for x in layer))
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1.25 * most, aspect="auto")
    for row, layer in enumerate(shares):
        for column, share in enumerate(layer):
            ink = "white" if share > 0.75 * most else "#222223"  # on blue, in any mode
            number = f"{share:.1f}" if share < 9.95 else f"{share:.0f}"
            ax.text(column, row, number, color=ink, fontsize=7.5, **MIDDLE)
    ax.set_yticks(range(len(shares)), [f"layer {n + 1}" for n in range(len(shares))])
    ax.set_xticks(range(0, len(shares[0]), 5))
    ax.set_xlabel("experts; 1 is an even share")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def credit(ax: Axes, report: Report) -> None:
    """By how many times does each technique cut a token's price, over all orders?"""
    names = list(report.credits)
    factors = [math.log2(report.credits[name]) for name in names]
    reach = max(0.3, *(abs(x) for x in factors)) * 1.35
    for row, (name, factor) in enumerate(zip(names, factors, strict=True)):
        ax.barh(row, factor, 0.62, color=COLORS[name])
        side = 1 if factor >= 0 else -1
        ax.text(
            factor + side * 0.03 * reach,
            row,
            f"× {report.credits[name]:.2f}",
            va="center",
            ha="left" if side > 0 else "right",
        )
    ax.axvline(0, color=INK, lw=1)
    ax.set_yticks(range(len(names)), [NAMES[name] for name in names])
    ax.set(xlim=(-1.3 * reach, reach), ylim=(len(names) - 0.4, -0.6), xticks=[])
    ax.set_xlabel("dearer  ←  a token's price  →  cheaper")
    ax.tick_params(axis="y", length=0)
    ax.spines[["left", "bottom"]].set_visible(False)


def svg(draw: Callable[[Axes, Report], None], report: Report) -> str:
    """One picture as part of a page, in the page's own ink and typeface."""
    with mpl.rc_context(LOOK):
        figure = Figure(figsize=SIZE, layout="constrained")
        draw(figure.subplots(), report)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    box = re.search(r'viewBox="[^"]*"', text)[0]
    body = text[text.index("<svg") :].split(">", 1)[1]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.S)
    body = re.sub(r'\bid="', f'id="{draw.__name__}-', body)
    body = re.sub(r'(url\(|href=")#', rf"\1#{draw.__name__}-", body)
    body = re.sub(rf"{INK}\b", "currentColor", body, flags=re.IGNORECASE)
    words = draw.__doc__.splitlines()[0].replace('"', "")
    look = "stroke-linejoin: round; stroke-linecap: butt; white-space: pre"
    return (
        f'<svg {box} role="img" aria-label="{words}" fill="currentColor" '
        f'style="{look}">{body}'
    )
