"""The capstone report as one picture, drawn without a browser.

Chapter: 06_together/full_model
Source: course
"""

import textwrap
from functools import cache
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.patches import FancyBboxPatch, Rectangle

from tiny_lm.course.figures.style import COLORS, FAINT, GREEN, GREY, INK
from tiny_lm.course.report import panels
from tiny_lm.course.report.facts import NOTES, Report, machine
from tiny_lm.files import replace_whole

SIZE, DPI = (11.0, 15.5), 130  # inches; about an A4 sheet
PAGE, SOFT = "#F6F7F8", "#5C6166"
LEFT, RIGHT = 0.05, 0.95
MONO = "DejaVu Sans Mono"
LINE = 66  # characters of what the model wrote
MOST_LINES = 17
# Where things stand: share of the height, from the top.
TITLE, TILES, PICTURES, LADDER, LOWER, WORDS, FOOT = (
    0.03,
    0.118,
    0.198,
    0.411,
    0.573,
    0.749,
    0.955,
)


def save(report: Report, path: Path) -> None:
    """Write the picture, whole or not at all."""
    with mpl.rc_context(panels.LOOK | {"text.parse_math": False}):
        figure = drawn(report)
        replace_whole(path, lambda draft: figure.savefig(draft, format="png", dpi=DPI))


def drawn(report: Report) -> Figure:
    """The figure, a page high."""
    figure = Figure(figsize=SIZE, facecolor=PAGE)
    FigureCanvasAgg(figure)
    _title(figure, report)
    _tiles(figure, report)
    _panel(figure, panels.curves, report, (0, PICTURES), "What each rung learnt")
    _panel(figure, panels.times, report, (1, PICTURES), "Where a token's time goes")
    _ladder(figure, report)
    _panel(figure, panels.load, report, (0, LOWER), "How busy experts are")
    _panel(figure, panels.credit, report, (1, LOWER), "Credit, whatever the order")
    _words(figure, report)
    _pieces(figure, report)
    _foot(figure)
    return figure


def _write(figure: Figure, x: float, top: float, text: str, **look) -> None:
    look = {"va": "top", "ha": "left"} | look
    family = MONO if look.get("family") == MONO else "DejaVu Sans"
    figure.text(x, 1 - top, in_font(text, family), **look)


def in_font(text: str, family: str) -> str:
    """The text with a dot for each character that the typeface lacks."""
    known = _characters(family)
    return "".join(c if ord(c) in known or c == "\n" else "·" for c in text)


@cache
def _characters(family: str) -> frozenset[int]:
    font = get_font(findfont(FontProperties(family=family)))
    return frozenset(code for code in font.get_charmap() if code >= 32)


def _title(figure: Figure, report: Report) -> None:
    _write(figure, LEFT, TITLE, "Large models on weaker chips", color=SOFT, fontsize=11)
    title = textwrap.shorten(report.title, 78, placeholder=" …")
    _write(figure, LEFT, TITLE + 0.018, title, fontsize=21, fontweight="bold")
    width = (RIGHT - LEFT) / len(report.rungs)
    for n, rung in enumerate(report.rungs):
        box = (LEFT + n * width, 1 - TITLE - 0.056, width - 0.004, 0.004)
        _box(figure, box, COLORS[rung.technique])
    setting = textwrap.fill(report.setting, 118)
    _write(figure, LEFT, TITLE + 0.062, setting, color=SOFT, fontsize=10.5)


def _box(figure: Figure, box: tuple[float, float, float, float], color: str) -> None:
    x, y, width, height = box
    figure.add_artist(Rectangle((x, y), width, height, color=color, lw=0))


def _card(figure: Figure, box: tuple[float, float, float, float]) -> None:
    """A white plate with round corners."""
    x, y, width, height = box
    plate = FancyBboxPatch(
        (x, y),
        width,
        height,
        boxstyle="round,pad=0,rounding_size=0.007",
        mutation_aspect=SIZE[0] / SIZE[1],
        facecolor="white",
        edgecolor=FAINT,
        lw=0.8,
        zorder=-1,
    )
    figure.add_artist(plate)


def _tiles(figure: Figure, report: Report) -> None:
    tiles = report.tiles()
    width = (RIGHT - LEFT) / len(tiles)
    for n, (name, number, beside) in enumerate(tiles):
        x = LEFT + n * width
        _card(figure, (x, 1 - TILES - 0.066, width - 0.01, 0.066))
        _write(figure, x + 0.01, TILES + 0.006, name, color=SOFT, fontsize=8.5)
        size = 17 if len(number) < 9 else 12.5
        _write(
            figure, x + 0.01, TILES + 0.019, number, fontsize=size, fontweight="bold"
        )
        words = textwrap.fill(beside, 24)
        _write(figure, x + 0.01, TILES + 0.042, words, color=SOFT, fontsize=7.4)


def _panel(figure: Figure, draw, report: Report, place, title: str) -> None:
    """One of the four pictures on its plate, left or right."""
    side, top = place
    width, height = (RIGHT - LEFT - 0.015) / 2, 0.2 if top == PICTURES else 0.163
    x = LEFT + side * (width + 0.015)
    _card(figure, (x, 1 - top - height, width, height))
    _write(figure, x + 0.014, top + 0.009, title, fontsize=11, fontweight="bold")
    named = draw in (panels.times, panels.credit)
    left, right = 0.155 if named else 0.058, 0.085 if draw is panels.curves else 0.02
    foot = 0.034
    ax: Axes = figure.add_axes(
        (x + left, 1 - top - height + foot, width - left - right, height - foot - 0.034)
    )
    ax.set_facecolor("none")
    draw(ax, report)
    ax.xaxis.label.set_fontsize(8.5)
    ax.yaxis.label.set_fontsize(8.5)
    ax.tick_params(labelsize=8.5)
    for text in ax.texts:
        text.set_fontsize(min(text.get_fontsize(), 8.5))


def _ladder(figure: Figure, report: Report) -> None:
    head, rows = report.columns()
    height = 0.055 + 0.0185 * len(rows)
    _card(figure, (LEFT, 1 - LADDER - height, RIGHT - LEFT, height))
    _write(
        figure, LEFT + 0.014, LADDER + 0.009, "The ladder", fontsize=11,
        fontweight="bold",
    )  # fmt: skip
    ends = [LEFT + 0.22 + 0.083 * n for n in range(len(head) - 1)]
    ends[-1] = RIGHT - 0.012
    small = {"color": SOFT, "fontsize": 8}
    for x, words in zip(ends, head[1:], strict=True):
        two = textwrap.fill(words, 11)
        _write(figure, x, LADDER + 0.018, two, ha="right", **small, linespacing=1.05)
    for n, (rung, row) in enumerate(zip(report.rungs, rows, strict=True)):
        y = LADDER + 0.048 + 0.0185 * n
        weight = "bold" if n == len(rows) - 1 else "normal"
        _box(
            figure, (LEFT + 0.014, 1 - y - 0.0085, 0.011, 0.008), COLORS[rung.technique]
        )
        _write(figure, LEFT + 0.032, y, row[0], fontsize=9.5, fontweight="bold")
        for x, cell in zip(ends, row[1:], strict=True):
            _write(figure, x, y, cell, ha="right", fontsize=9.5, fontweight=weight)


def _words(figure: Figure, report: Report) -> None:
    width, height = 0.5, FOOT - WORDS - 0.012
    _card(figure, (LEFT, 1 - WORDS - height, width, height))
    _write(
        figure, LEFT + 0.014, WORDS + 0.009, "It writes", fontsize=11, fontweight="bold"
    )
    text = report.prompt + report.text
    lines = [
        part
        for line in text.expandtabs(4).splitlines()
        for part in (textwrap.wrap(line, LINE, drop_whitespace=False) or [""])
    ]
    shown = "\n".join(lines[:MOST_LINES])
    look = {"family": MONO, "fontsize": 7.8, "linespacing": 1.25}
    _write(figure, LEFT + 0.014, WORDS + 0.029, shown, **look)


def _pieces(figure: Figure, report: Report) -> None:
    x, width, height = LEFT + 0.515, RIGHT - LEFT - 0.515, FOOT - WORDS - 0.012
    _card(figure, (x, 1 - WORDS - height, width, height))
    title = "Its pieces: ● own, ○ tiny_lm's"
    _write(figure, x + 0.014, WORDS + 0.009, title, fontsize=11, fontweight="bold")
    rows = max(1, -(-len(report.pieces) // 2))
    step = min(0.0115, (height - 0.045) / rows)
    for n, (name, own) in enumerate(report.pieces):
        column, row = divmod(n, rows)
        look = {"color": INK if own else GREY, "fontsize": 7.2}
        where = x + 0.014 + column * (width - 0.014) / 2, WORDS + 0.029 + row * step
        _write(figure, *where, "●" if own else "○", fontsize=6.5, color=GREEN)
        _write(figure, where[0] + 0.011, where[1] - 0.0005, name, **look)


def _foot(figure: Figure) -> None:
    words = f"{textwrap.fill(machine(), 140)}\n{textwrap.fill(NOTES, 152)}"
    _write(figure, LEFT, FOOT, words, color=SOFT, fontsize=7.8, linespacing=1.35)
