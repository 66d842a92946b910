"""What both kinds of HTML pages share: a frame, signs, and words made harmless.

Chapter: appendix/teaching
Source: course

The pages need no server, no script and no other file, and forbid all of them to
whatever might have slipped through: a browser that obeys the policy in the head runs
nothing and asks nobody.
"""

import html
import re
from collections.abc import Iterable
from importlib.resources import files

from tiny_lm.course.grade.results import STATUS, clean

CODE = re.compile(r"`([^`<>]+)`")
POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)


def esc(value: object) -> str:
    """A value as HTML text, for an attribute too."""
    return html.escape(clean(value))


def prose(value: object) -> str:
    """A sentence of the course as HTML, with `code` as code."""
    return CODE.sub(r"<code>\1</code>", esc(value))


def name(value: object) -> str:
    """A learner's name, whose direction of writing stays its own."""
    return f"<bdi>{esc(value)}</bdi>"


def pre(text: str) -> str:
    """Text as it was printed."""
    return f'<pre tabindex="0">{esc(text)}</pre>'


def fold(title: str, body: str) -> str:
    """What is shown on request."""
    return f"<details><summary>{esc(title)}</summary>{body}</details>"


def table(heads: str, rows: str) -> str:
    """A table that scrolls inside its box where a phone is too narrow."""
    return (
        f'<div class="box" tabindex="0"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def kind(status: str) -> str:
    """The class of a status in the style sheet."""
    return status.replace(" ", "-")


def sign(status: str) -> str:
    """The sign of a status; words stand beside it, so it is silent."""
    mark = esc(STATUS[status][0])
    return f'<span class="sign {kind(status)}" aria-hidden="true">{mark}</span>'


def share(parts: Iterable[tuple[str, float]], words: str) -> str:
    """A bar of (status, size), told in words to those who cannot see it."""
    pieces = "".join(
        f'<span class="{kind(status)}" style="flex: {size:g}"></span>'
        for status, size in parts
        if size > 0
    )
    return f'<div class="bar" role="img" aria-label="{esc(words)}">{pieces}</div>'


def page(title: str, body: str) -> str:
    """A whole page."""
    style = files(__package__).joinpath("page.css").read_text("utf-8")
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        '<meta name="robots" content="noindex">\n'
        f"<title>{esc(title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )
