"""What all pictures share: colours, type, and an SVG on a light plate.

Chapter: index
"""

import io
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

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
INK, FAINT = "#222222", "#D0D0D0"
WIDTH = 5.0  # inches: fills most of a page, and stays legible on a phone
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "svg.hashsalt": "tiny_lm",  # equal figures are equal files
}


@dataclass(frozen=True)
class Drawing:
    """An SVG that notebooks and the book show by themselves."""

    svg: str

    def _repr_svg_(self) -> str:
        return self.svg


def finish(figure: Figure) -> Drawing:
    """The figure as an SVG, the same bytes every time."""
    buffer = io.StringIO()
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None})
    return Drawing(buffer.getvalue())


def new_figure(height: float, columns: int = 1) -> tuple[Figure, Any]:
    """An empty figure of the page's width, and its axes."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        return figure, figure.subplots(1, columns)
