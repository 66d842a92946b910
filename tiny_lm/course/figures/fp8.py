"""Pictures of eight-bit numbers: a byte, codes on a line, a scale and who shares it.

Chapter: 04_fp8/eight_bits
Source: course
"""

from collections.abc import Mapping, Sequence

from matplotlib.patches import Rectangle

from tiny_lm.course.figures.style import (
    COLORS,
    FAINT,
    INK,
    Drawing,
    finish,
    new_figure,
)
from tiny_lm.formats import E4M3, Format, all_codes, decode

ORANGE, GREY = COLORS["fp8"], COLORS["baseline"]
PALE = "#F6D5BF"  # the orange of subnormals, and of what shares a scale
MIDDLE = {"ha": "center", "va": "center"}
SMALL = 9.5


def positive_values(of: Format) -> list[float]:
    """Every positive number of the format, in order."""
    values = decode(all_codes(of), of)
    return sorted(v for v in values.tolist() if 0 < v < float("inf"))


def byte(bits: str, meanings: Mapping[str, str]) -> Drawing:
    """What do the bits of a byte say? One box a bit, in fields.

    Args:
        bits: fields of zeros and ones with a space between them: sign, exponent and
            fraction.
        meanings: name of each field to what its bits say.
    """
    figure, ax = new_figure(1.6)
    place = 0.0
    for field, color, (name, meaning) in zip(
        bits.split(), (GREY, ORANGE, PALE), meanings.items(), strict=True
    ):
        ink = INK if color == PALE else "white"
        for n, bit in enumerate(field):
            box = Rectangle((place + n, 0), 0.92, 0.9, color=color)
            ax.add_patch(box)
            ax.text(place + n + 0.46, 0.45, bit, color=ink, fontsize=14, **MIDDLE)
        middle = place + len(field) / 2 - 0.04
        ax.text(middle, 1.3, name, fontweight="bold", **MIDDLE)
        ax.text(middle, -0.45, meaning, fontsize=SMALL, **MIDDLE)
        place += len(field) + 0.7
    ax.set(xlim=(-1.2, place + 0.5), ylim=(-0.8, 1.7))
    ax.set_axis_off()
    return finish(figure)


def code_lines(formats: Sequence[Format], marks: Mapping[float, str]) -> Drawing:
    """Where do the numbers of a format lie? A stroke a code; each doubling is as wide.

    Args:
        marks: places on the axis to what is written there.
    """
    figure, ax = new_figure(0.8 * len(formats) + 0.8)
    for row, of in enumerate(formats):
        for values, color in _halves(of):
            ax.vlines(values, row - 0.28, row + 0.28, color=color, lw=0.9)
    ax.set_xscale("log", base=2)
    ax.set_yticks(range(len(formats)), [of.name.upper() for of in formats])
    ax.set_xticks(list(marks), list(marks.values()))
    ax.minorticks_off()
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set(ylim=(len(formats) - 0.5, -0.5))
    return finish(figure)


def _halves(of: Format) -> list[tuple[list[float], str]]:
    """Normal numbers in the technique's colour, subnormal ones in grey."""
    values = positive_values(of)
    normal = [v for v in values if v >= of.smallest_normal]
    return [(normal, ORANGE), ([v for v in values if v < of.smallest_normal], GREY)]


def near_zero(of: Format = E4M3, doublings: int = 2) -> Drawing:
    """How do the numbers of a format reach zero? On an axis of equal steps."""
    figure, ax = new_figure(1.5)
    step = of.smallest_subnormal
    last = of.smallest_normal / step * 2**doublings
    normal, small = (
        [v / step for v in values if v / step <= last] for values, _ in _halves(of)
    )
    ax.vlines([0, *small], 0, 0.6, color=GREY, lw=1.6)
    ax.vlines(normal, 0, 0.6, color=ORANGE, lw=1.6)
    first = of.smallest_normal / step
    ax.text(first / 2, 0.8, "subnormal", color=GREY, **MIDDLE)
    ax.text((first + last) / 2, 0.8, "normal", color=ORANGE, **MIDDLE)
    places = [0, *(first * 2**n for n in range(doublings + 1))]
    ax.set_xticks(places, [f"{p:.0f}" for p in places])
    ax.set_yticks([])
    ax.spines["left"].set_visible(False)
    ax.set(xlabel="in steps of 1/512", ylim=(0, 1), xlim=(-0.5, last + 0.5))
    return finish(figure)


def errors_by_size(
    sizes: Sequence[float], errors: Mapping[str, Sequence[float]]
) -> Drawing:
    """How large is a rounding's relative error? Against the size of the number."""
    figure, ax = new_figure(3.2)
    looks = ((ORANGE, "-", 2.2), (GREY, "--", 1.6), (GREY, ":", 1.8))
    for (label, shares), (color, dashes, width) in zip(
        errors.items(), looks, strict=False
    ):
        ax.plot(sizes, shares, dashes, color=color, lw=width, label=label)
    ax.set(xscale="log", yscale="log", xlabel="size of the number")
    ax.set(ylabel="relative error", ylim=(0.004, 1.5))
    ax.set_yticks([0.01, 0.1, 1], ["1 %", "10 %", "100 %"])
    ax.legend(frameon=False, loc="upper center", ncols=len(errors), fontsize=SMALL)
    ax.set_ylim(0.004, 5)
    return finish(figure)


def windows(rows: Mapping[str, Sequence[float]], of: Format = E4M3) -> Drawing:
    """Do the values lie where the format has numbers? A row a set, a dot a value.

    Hollow dots become zero, or are cut off.
    """
    figure, ax = new_figure(0.55 * len(rows) + 1.25)
    lost, small, end = of.smallest_subnormal / 2, of.smallest_normal, of.largest
    ax.axvspan(lost, small, color=FAINT, lw=0)
    ax.axvspan(small, end, color=PALE, lw=0)
    for row, values in enumerate(rows.values()):
        for value in map(abs, values):
            filled = lost < value <= end
            fill = ORANGE if filled else "white"
            ax.plot(value, row, "o", ms=8, mec=ORANGE, mfc=fill)
    top = -0.95
    for left, right, word in (
        (lost, small, "subnormal"),
        (small, end, "four significant bits"),
    ):
        ax.text((left * right) ** 0.5, top, word, fontsize=SMALL, **MIDDLE)
    every = [abs(v) for values in rows.values() for v in values]
    ax.set_xscale("log")
    ax.set_yticks(range(len(rows)), list(rows))
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    ax.set(xlim=(min(*every, lost) / 3, max(*every, end) * 3))
    ax.set(ylim=(len(rows) - 0.5, -1.3), xlabel="size")
    return finish(figure)


def shared_windows(
    row: Sequence[float],
    lost: Sequence[bool],
    scales: Sequence[float],
    of: Format = E4M3,
) -> Drawing:
    """A row of numbers, and the window that each scale opens for its part of the row.

    Hollow dots become zero, or are cut off.
    """
    figure, ax = new_figure(3.4)
    group = len(row) // len(scales)
    for place, scale in enumerate(scales):
        ends = (place * group - 0.5, (place + 1) * group - 0.5)
        edges = (of.smallest_subnormal / 2, of.smallest_normal, of.largest)
        zero, small, end = (edge * scale for edge in edges)
        ax.fill_between(ends, zero, small, color=FAINT, lw=0)
        ax.fill_between(ends, small, end, color=PALE, lw=0)
    for hollow in (False, True):
        places = [at for at, gone in enumerate(lost) if gone is hollow]
        fill = "white" if hollow else ORANGE
        sizes = [row[at] for at in places]
        ax.plot(places, sizes, "o", ms=4, mec=ORANGE, mfc=fill)
    ax.set_yscale("log")
    ax.set(xlabel="place in the row", ylabel="size", ylim=(min(row) / 4, max(row) * 4))
    return finish(figure)


def who_shares() -> Drawing:
    """Whose scale does one outlier set? The same matrix under four groupings."""
    figure, ax = new_figure(2.3)
    side, unit, row, column = 4, 32, 40, 70  # blocks, cells a block, the outlier
    wide = side * unit
    ways = {  # the outlier's region: left, bottom, width, height
        "one scale\nfor all": (0, 0, wide, wide),
        "a row": (0, row, wide, 2),
        "a tile\n1 × 128": (64, row, unit, 2),
        "a block\n128 × 128": (64, 32, unit, unit),
    }
    for n, (name, (x, y, width, height)) in enumerate(ways.items()):
        left = n * (wide + 40)
        ax.add_patch(Rectangle((left, 0), wide, wide, fc="white", ec=GREY, lw=0.8))
        ax.add_patch(Rectangle((left + x, y), width, height, color=ORANGE, alpha=0.45))
        for cut in range(unit, wide, unit):
            ax.plot([left + cut] * 2, [0, wide], color=FAINT, lw=0.8)
            ax.plot([left, left + wide], [cut] * 2, color=FAINT, lw=0.8)
        ax.plot(left + column, row + 1, "o", color=INK, ms=5)
        ax.text(left + wide / 2, -14, name, ha="center", va="top", fontsize=SMALL)
    ax.set(xlim=(-4, 4 * wide + 3 * 40 + 4), ylim=(-70, wide + 6))
    ax.set_axis_off()
    return finish(figure)


def by_group(
    names: Sequence[str],
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    ylabel: str,
    floor: float,
) -> Drawing:
    """What is lost, the fewer values share a scale? A panel a format, a line a kind.

    Args:
        names: of the groupings, coarsest first.
        panels: format to kind of tensor to one share for each grouping.
        floor: what is smaller is drawn at it.
    """
    figure, axes = new_figure(3.0, len(panels))
    looks = {"gradients": "-", "activations": "--", "weights": ":"}
    top = 2 * max(max(v) for lines in panels.values() for v in lines.values())
    places = range(len(names))
    for ax, (title, lines) in zip(axes, panels.items(), strict=True):
        for kind, shares in lines.items():
            color = ORANGE if kind == "gradients" else GREY
            heights = [max(share, floor) for share in shares]
            ax.plot(places, heights, looks[kind], color=color, lw=2, marker="o", ms=4)
        ax.set_yscale("log")
        ax.set_xticks(places, names, fontsize=SMALL)
        ax.set(title=title, ylim=(floor / 1.5, top), xlabel="who shares a scale")
        ax.set_yticks([1e-4, 1e-2, 1], ["0.01 %", "1 %", "100 %"])
    axes[0].set_ylabel(ylabel)
    axes[-1].legend(axes[-1].lines, list(lines), frameon=False, fontsize=SMALL)
    return finish(figure)
