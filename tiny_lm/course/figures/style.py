"""What all pictures share: colours, type, and an SVG on a light plate.

Chapter: index

A picture is laid out twice, for a page and for a phone, in letters of the same size.
"""

import hashlib
import html
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from tiny_lm.course.figures.captions import anchor, figcaption

COLORS = {  # Okabe and Ito: told apart by colour-blind readers too
    "moe": "#0072B2",
    "mla": "#009E73",
    "fp8": "#D55E00",
    "comm": "#CC79A7",
    "baseline": "#6E6E6E",
}
NAMES = {
    "moe": "Mixture of Experts",
    "mla": "latent attention",
    "fp8": "FP8",
    "comm": "communication",
    "baseline": "baseline",
}
GREEN, GREY = COLORS["mla"], COLORS["baseline"]
INK, FAINT = "#222222", "#D0D0D0"
MIDDLE = {"ha": "center", "va": "center"}  # where words stand at their point
WIDTH = 7.2  # inches: the page's text width, where 11 points are the text's own size
NARROW = 4.4  # a phone's, in letters that are as easy to read
STYLE = {
    "font.family": "DejaVu Sans",  # widest of the usual faces: whatever fits it fits
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.fonttype": "none",  # text stays text: it takes the page's face, and is found
    "svg.hashsalt": "tiny_lm",  # equal figures are equal files
}
SHORTEST_ALT = 20  # characters that say anything about a picture


@dataclass(frozen=True, repr=False)
class Drawing:
    """A picture that notebooks and the book show by themselves.

    Without alternative text it is a bare image, which the page has to describe.
    """

    svg: str
    narrow: str = ""  # the same for a phone; nothing: `svg` is moved sideways there
    alt: str = ""
    caption: str = ""
    name: str = ""

    def captioned(self, caption: str, *, alt: str, name: str = "") -> "Drawing":
        """The picture with a caption below and words for those who cannot see it.

        Args:
            caption: what to see in it, a sentence or two; `code` and *stress* work.
            alt: what it shows, for a screen reader.
            name: of the place that ``{fig}`name` `` in the text leads to.

        Raises:
            ValueError: `alt` is too short to say anything.
        """
        if len(alt) < SHORTEST_ALT:
            raise ValueError(f"alt must say what the picture shows, got {alt!r}")
        return replace(self, caption=caption, alt=alt, name=name)

    def __repr__(self) -> str:
        return self.alt or "a picture without alternative text"

    def _repr_svg_(self) -> str:
        return self.svg

    def _repr_html_(self) -> str | None:
        if not self.alt:
            return None
        pictures = _inline(self.svg, self.alt, "wide")
        scrolls = ' tabindex="0"' if not self.narrow else ""
        if self.narrow:
            pictures += _inline(self.narrow, self.alt, "narrow")
        return (
            f'<figure class="drawing"{anchor(self.name)} style="max-width: 46rem">'
            f'<div class="plate{" both" if self.narrow else ""}"{scrolls}>'
            f"{pictures}</div>{figcaption('Figure', self.caption)}</figure>"
        )


def _inline(svg: str, alt: str, width: str) -> str:
    """An SVG as part of a page: its own ids, no rules that reach out of it."""
    mark = "d" + hashlib.sha256((width + svg).encode()).hexdigest()[:8]
    tag, body = svg[svg.index("<svg") :].split(">", 1)
    box = re.search(r'viewBox="[^"]*"', tag)[0]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.S)
    body = re.sub(r'\bid="', f'id="{mark}-', body)
    body = re.sub(r'(url\(|href=")#', rf"\1#{mark}-", body)
    look = "stroke-linejoin: round; stroke-linecap: butt; white-space: pre"
    look += "; display: none" * (width == "narrow")
    return (
        f'<svg class="{width}" {box} role="img" aria-label="{html.escape(alt)}" '
        f'style="{look}">{body}'
    )


def finish(figure: Figure, narrow: bool = True) -> Drawing:
    """The figure as SVGs, the same bytes every time.

    Where its letters do not find room on a phone, or `narrow` forbids it because
    words were fitted to the wide one, there is the wide one alone.
    """
    height = figure.get_figheight()
    with mpl.rc_context(STYLE):
        wide = _svg(figure)
        if not narrow:
            return Drawing(wide)
        figure.set_size_inches(NARROW, height)
        figure.draw_without_rendering()
        phone = "" if crowded(figure) else _svg(figure)
        figure.set_size_inches(WIDTH, height)
    return Drawing(wide, phone)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None})
    return buffer.getvalue()


def crowded(figure: Figure) -> list[str]:
    """Texts that leave the figure or cover each other, once it has been drawn."""
    boxes = {text: text.get_window_extent().padded(-1) for text in shown_texts(figure)}
    page = figure.bbox.padded(2)
    found = [t for t, box in boxes.items() if not _inside(box, page)]
    for (one, box), (other, near) in combinations(boxes.items(), 2):
        if box.overlaps(near) and one.axes is other.axes:
            found += [one, other]
    return [text.get_text() for text in dict.fromkeys(found)]


def shown_texts(figure: Figure) -> list[Text]:
    """All words of a figure but those of ticks beyond the ends of their axis."""
    unseen = set()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
                if not (ax.axison and low <= tick.get_loc() <= high):
                    unseen |= {tick.label1, tick.label2}
    texts = (t for t in figure.findobj(Text) if t.get_text().strip())
    return [t for t in texts if t.get_visible() and t not in unseen]


def _inside(box: Bbox, page: Bbox) -> bool:
    return page.contains(box.x0, box.y0) and page.contains(box.x1, box.y1)


def new_figure(height: float, columns: int = 1) -> tuple[Figure, Any]:
    """An empty figure of the page's width, and its axes."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        return figure, figure.subplots(1, columns)


def end_labels(
    ax: Axes, ends: Mapping[str, tuple[float, str]], x: float, gap: float
) -> None:
    """Name lines at their right ends, in their colours, at least `gap` apart.

    ends: label to (height of the line's end, colour); x and gap in the axes' units.
    """
    last = None
    for label, (y, color) in sorted(ends.items(), key=lambda item: item[1][0]):
        last = y if last is None else max(y, last + gap)
        ax.text(x, last, label, color=color, va="center", fontweight="bold")


def color_key(figure: Figure, image: Any, axes: Any, label: str) -> None:
    """The scale beside a heat map that says what its colours mean."""
    bar = figure.colorbar(image, ax=axes, fraction=0.05, pad=0.02, label=label)
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=9.5)
