"""What stands below a picture and above a table, in a notebook and on a page.

Chapter: index
Source: course

The book numbers captions when it builds a page; a notebook shows them without a number.
"""

import html
import re
from dataclasses import dataclass

CODE = re.compile(r"`([^`]+)`")
STRESSED = re.compile(r"\*([^*\s][^*]*)\*")


def inline(text: str) -> str:
    """Words as HTML; `code` and *stress* as in Markdown, all else as it is."""
    text = CODE.sub(r"<code>\1</code>", html.escape(text, quote=False))
    return STRESSED.sub(r"<em>\1</em>", text)


def anchor(name: str) -> str:
    """The attribute that `{fig}` on a page looks for, or nothing without a name."""
    return f' id="fig-{html.escape(name)}"' if name else ""


def figcaption(kind: str, text: str) -> str:
    """A caption with a place for its number; `kind` is Figure or Table."""
    place = f'<span class="caption-number" data-kind="{kind}"></span>'
    return f"<figcaption>{place}{inline(text)}</figcaption>"


@dataclass(frozen=True, repr=False)
class Sample:
    """What a model wrote, with a word on how."""

    text: str
    caption: str

    def __repr__(self) -> str:
        return f"{self.text}\n({self.caption})"

    def _repr_html_(self) -> str:
        written = f"<pre>{html.escape(self.text)}</pre>"
        words = f"<figcaption>{inline(self.caption)}</figcaption>"
        return f'<figure class="sample">{written}{words}</figure>'
