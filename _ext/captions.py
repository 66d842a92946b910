"""Numbers on figures and tables, and words that lead to them: "as {fig}`name` shows".

Pictures come out of executed cells, so they are numbered where a page is written, in
the order in which they stand there.
"""

import re
from collections import Counter
from html import escape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError

PLACE = re.compile(
    r'(?:<figure class="[^"]*" id="(?P<id>[^"]*)")'
    r'|<span class="caption-number" data-kind="(?P<kind>\w+)"></span>'
)
LINK = re.compile(r'<a class="to-figure" data-name="([^"]*)"></a>')


class figure_link(nodes.Inline, nodes.Element):
    """A place for the words "figure 3"."""


def fig_role(name, rawtext, text, lineno, inliner, options=None, content=None):  # noqa: D103
    return [figure_link(target=text)], []


def number(body: str, page: str) -> str:
    """The page with its figures and tables numbered and the links to them filled.

    Raises:
        ExtensionError: a link to a figure that the page does not have.
    """
    counts: Counter[str] = Counter()
    known: dict[str, str] = {}
    waiting = ""

    def fill(place: re.Match[str]) -> str:
        nonlocal waiting
        if place["id"] is not None:
            waiting = place["id"]
            return place[0]
        counts[place["kind"]] += 1
        words = f"{place['kind']} {counts[place['kind']]}"
        known[waiting], waiting = words.lower(), ""
        return f'<span class="caption-number">{words}.</span> '

    def link(place: re.Match[str]) -> str:
        anchor = f"fig-{place[1]}"
        if anchor not in known:
            raise ExtensionError(f"{page} has no figure or table named {place[1]!r}")
        return f'<a class="to-figure" href="#{anchor}">{known[anchor]}</a>'

    return LINK.sub(link, PLACE.sub(fill, body))


def number_page(
    app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any
) -> None:
    """Number what the page shows."""
    if "body" in context:
        context["body"] = number(context["body"], page)


def open_link(writer: Any, node: nodes.Element) -> None:
    writer.body.append(f'<a class="to-figure" data-name="{escape(node["target"])}">')


def close_link(writer: Any, node: nodes.Element) -> None:
    writer.body.append("</a>")


def setup(app: Sphinx) -> None:
    app.add_node(figure_link, html=(open_link, close_link))
    app.add_role("fig", fig_role)
    app.connect("html-page-context", number_page)
