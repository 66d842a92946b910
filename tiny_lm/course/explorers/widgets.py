"""Explorers: figures whose sliders work in a notebook and on a page without a kernel.

Chapter: index
Source: course

In a notebook an explorer is an `anywidget`. On a page it is a box with its numbers
beside it and a picture of the start inside; `_ext/explorers.py` sends the widget's
own JavaScript along, which fills the box. Without JavaScript the picture stays.
"""

import base64
import html
import sys
from dataclasses import asdict
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import anywidget
import traitlets

from tiny_lm.course.explorers import balance, codes, context, pipeline, timeline
from tiny_lm.course.figures.style import Drawing
from tiny_lm.files import to_json

FOLDER = Path(__file__).parent
NOTE = "To move the sliders, allow JavaScript; in a notebook, run the cell."


def source(name: str) -> str:
    """One explorer's module, as anywidget wants it: a single text."""
    names = ("kit.js", f"{name}_model.js", f"{name}.js")
    files = (FOLDER / file for file in names)
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


class Explorer(anywidget.AnyWidget):
    """A figure with sliders; `choice` follows them, and moves them when it is set."""

    name = ""
    title = ""
    _css = (FOLDER / "explorer.css").read_text(encoding="utf-8")
    fixed = traitlets.Dict().tag(sync=True)
    choice = traitlets.Dict().tag(sync=True)

    def __init__(
        self, fixed: dict[str, Any], choice: dict[str, Any], still: Drawing, alt: str
    ) -> None:
        super().__init__(fixed=fixed, choice=choice)
        self._still, self._alt = still, alt

    def _repr_mimebundle_(
        self, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """The widget for a live notebook, the box for a page; one of them is shown.

        Colab has an order of its own, so it is offered the widget alone.
        """
        shown = super()._repr_mimebundle_(**kwargs)
        if shown is None:
            return None
        data, metadata = shown
        data["text/plain"] = self._alt
        if "google.colab" not in sys.modules:
            data["text/html"] = self.box()
        return data, metadata

    def box(self) -> str:
        """HTML that shows the start as a picture, and says how to go on from there."""
        state = to_json({"fixed": self.fixed, "choice": self.choice})
        picture = base64.b64encode(self._still.svg.encode()).decode()
        return (
            f'<div data-explorer="{self.name}" data-state="{html.escape(state)}">'
            f'<p class="title">{html.escape(self.title)}</p>'
            f'<img alt="{html.escape(self._alt)}" '
            f'src="data:image/svg+xml;base64,{picture}">'
            f"<p><small>{NOTE}</small></p></div>"
        )


class BalanceExplorer(Explorer):
    """Load, MaxVio and parameters of an expert layer."""

    name = "balance"
    title = "Explorer: load of experts"
    _esm = source(name)


class TimelineExplorer(Explorer):
    """Who does what when in a layer of DeepSeek-V3, as links and latency change."""

    name = "timeline"
    title = "Explorer: time of a layer"
    _esm = source(name)


class ContextExplorer(Explorer):
    """Caches, users of a card and time of a decoding step, for nine kinds."""

    name = "context"
    title = "Explorer: what a context costs"
    _esm = source(name)


class CodesExplorer(Explorer):
    """One number on the line of codes, and a row whose groups share scales."""

    name = "codes"
    title = "Explorer: numbers in few bits"
    _esm = source(name)


class PipelineExplorer(Explorer):
    """Who waits in a pipeline, in seven orders."""

    name = "pipeline"
    title = "Explorer: orders of a pipeline"
    _esm = source(name)


@cache
def _still(model: ModuleType, start: Any) -> tuple[Drawing, str]:
    return model.picture(start), model.alternative(start)


def _start(kind: type[Explorer], model: ModuleType, **places: Any) -> Explorer:
    """An explorer whose controls stand at these places."""
    start = model.Setting(**places)
    return kind(model.fixed(), asdict(start), *_still(model, start))


def balance_explorer(
    num_experts: int = 16,
    top_k: int = 4,
    skew: float = 2.0,
    bias_rate: float = 0.005,
    step: int = 20,
) -> Explorer:
    """How long does a bias take to balance unequal experts, and when does it never?

    Args:
        skew: logits between the best and the least liked expert.
        step: updates of the bias before the load is shown.

    Raises:
        ValueError: a slider has no such place.
    """
    return _start(
        BalanceExplorer,
        balance,
        num_experts=num_experts,
        top_k=top_k,
        skew=skew,
        bias_rate=bias_rate,
        step=step,
    )


def timeline_explorer(**places: Any) -> Explorer:
    """When does a layer wait for its links, and how far does overlap hide that?

    Args:
        places: where controls stand that shall not stand as in `timeline.Setting`:
            `bandwidth`, GB/s that a GPU sends, and as many that it receives;
            `latency`, µs of an exchange beside its bytes; `tokens` of one micro-batch
            on one GPU; `speed` of the chip, as a multiple of an H800's; `overlap`, two
            micro-batches are woven into each other; `hops`, `one`, or two of which the
            second, at `nvlink` GB/s, is `pipelined` or in `series`.

    Raises:
        ValueError: a slider has no such place.
    """
    return _start(TimelineExplorer, timeline, **places)


def context_explorer(**places: Any) -> Explorer:
    """Which way to keep a context is affordable, and what does decoding wait for?

    Args:
        places: where controls stand that shall not stand as in `context.Setting`.

    Raises:
        ValueError: a control has no such place.
    """
    return _start(ContextExplorer, context, **places)


def codes_explorer(**places: Any) -> Explorer:
    """Which code does a number get, and what do an outlier and its scale do to others?

    Args:
        places: where controls stand that shall not stand as in `codes.Setting`.

    Raises:
        ValueError: a control has no such place.
    """
    return _start(CodesExplorer, codes, **places)


def pipeline_explorer(**places: Any) -> Explorer:
    """Which order of a pipeline waits least, and what does it keep for that?

    Args:
        places: where controls stand that shall not stand as in `pipeline.Setting`.

    Raises:
        ValueError: a control has no such place.
    """
    return _start(PipelineExplorer, pipeline, **places)
