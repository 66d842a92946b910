"""Pictures of decoding: two orders of one attention, and where each is limited.

Chapter: 03_mla/absorption
Source: course
"""

from collections.abc import Mapping

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from tiny_lm.course.figures.diagrams import arrow
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


def two_orders(latents: int) -> Drawing:
    """Where do the products with matrices happen? Expanded, then absorbed."""
    figure, axes = new_figure(3.2, columns=2)
    for ax, absorbed in zip(axes, (False, True), strict=True):
        for n in range(latents):
            _bar(ax, n, 0.0, 0.5, GREEN)
            if not absorbed:
                arrow(ax, (n + 0.3, 0.55), (n + 0.3, 1.15), GREY)
                _bar(ax, n, 1.2, 1.1, FAINT)
        middle = latents / 2
        if absorbed:
            _bar(ax, middle - 0.3, 2.2, 0.9, FAINT)
            _carry(ax, middle - 0.6, 2.1, 1.6)
            _carry(ax, middle + 1.2, 1.6, 2.1)
            _bar(ax, middle - 0.3, 0.95, 0.5, FAINT)
            ax.text(middle + 1.2, 2.35, "answer", fontsize=9.5, **MIDDLE)
        else:
            ax.text(-0.4, 0.85, "W", fontsize=9.5, **MIDDLE)
            _bar(ax, middle - 0.3, 2.65, 0.9, FAINT)
        top = 2.65 if not absorbed else 2.2
        ax.text(middle - 0.9, top + 0.45, "query", fontsize=9.5, ha="right")
        ax.text(middle, -0.25, "latents in the cache", fontsize=9.5, **MIDDLE)
        ax.set(xlim=(-0.8, latents + 0.2), ylim=(-0.45, 3.7))
        ax.set_title("absorbed" if absorbed else "expanded", fontsize=11)
        ax.set_axis_off()
    return finish(figure)


def _bar(ax: Axes, x: float, y: float, height: float, color: str) -> None:
    ax.add_patch(Rectangle((x, y), 0.6, height, color=color))


def _carry(ax: Axes, x: float, start: float, end: float) -> None:
    """An arrow with the W of a matrix beside it."""
    arrow(ax, (x, start), (x, end), GREY)
    ax.text(x - 0.3, (start + end) / 2, "W", fontsize=9.5, **MIDDLE)


def roofline(
    points: Mapping[str, float],
    flops_per_s: float,
    bytes_per_s: float,
    reached: tuple[float, float],
) -> Drawing:
    """Which limit does each way of decoding meet?

    Args:
        points: FLOPs for each byte, by name; those named MLA are green.
        reached: FLOP/s and bytes/s of real programs, drawn dashed.
    """
    figure, ax = new_figure(3.6)
    intensities = [2**x for x in range(-1, 13)]
    for peak, speed, dashes in ((flops_per_s, bytes_per_s, "-"), (*reached, "--")):
        xs = sorted([*intensities, peak / speed])
        ax.plot(xs, [min(peak, speed * x) / 1e12 for x in xs], color=INK, ls=dashes)
    for name, x in points.items():
        y = min(flops_per_s, bytes_per_s * x) / 1e12
        color = GREEN if name.startswith("MLA") else GREY
        ax.plot(x, y, "o", color=color, ms=7)
        past = x > reached[0] / reached[1]  # below both roofs, not between them
        below = {"xytext": (4 if past else 9, -30 if past else -12)}
        below["textcoords"] = "offset points"
        ax.annotate(name, (x, y), color=color, fontweight="bold", **below)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks([1, 16, 128, 1024], ["1", "16", "128", "1,024"])
    ax.minorticks_off()
    ax.set(xlabel="FLOPs for each byte that is read", ylabel="TFLOP/s at most")
    ax.set_xlim(0.5, 4096)
    return finish(figure)
