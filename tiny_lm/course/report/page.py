"""The capstone report as a page: one file that needs no other, no script, no network.

Chapter: 06_together/full_model
Source: course

`write` makes two of one `Report`: `my_report.html`, and `my_report.png` for whoever
wants a picture.
"""

import base64
import html
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tiny_lm.course.report import panels, picture
from tiny_lm.course.report.facts import NOTES, Report, machine
from tiny_lm.files import write_whole


@dataclass(frozen=True)
class Pages:
    """Where both pages lie; a notebook shows the picture."""

    page: Path
    picture: Path

    def __repr__(self) -> str:
        return f"{self.page} and {self.picture}"

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.picture.read_bytes()).decode()
        return (
            f"<p>{html.escape(repr(self))}</p><img alt='The report as a picture; the "
            "page beside it has the same as text.' style='width: 46rem; max-width: "
            f"100%' src='data:image/png;base64,{data}'>"
        )


def write(report: Report, folder: Path) -> Pages:
    """Both pages, each whole or not at all; those that were there are replaced.

    Where the folder cannot be written they go into a temporary one.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "my_report.html", as_html(report))
    except OSError:
        return write(report, Path(tempfile.mkdtemp()))
    picture.save(report, folder / "my_report.png")
    return Pages(folder / "my_report.html", folder / "my_report.png")


def as_html(report: Report) -> str:
    """The page: one file, no script, nothing from elsewhere."""
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    bar = "".join(f'<i class="{rung.technique}"></i>' for rung in report.rungs)
    parts = [
        f"<header><p class='course'>Large models on weaker chips</p>"
        f"<h1>{escape(report.title)}</h1><p class='bar'>{bar}</p>"
        f"<p>{escape(report.setting)}</p></header>",
        f"<section class='tiles'>{''.join(_tile(*tile) for tile in report.tiles())}"
        "</section>",
        f"<h2>The ladder</h2>{_table(report)}",
        "<div class='pair'>",
        _figure("What each rung learnt", panels.svg(panels.curves, report)),
        _figure("Where a token's time goes", panels.svg(panels.times, report)),
        _figure("How busy experts are", panels.svg(panels.load, report)),
        _figure("Credit, whatever the order", panels.svg(panels.credit, report)),
        "</div>",
        f"<h2>It writes</h2><pre><b>{escape(report.prompt)}</b>{escape(report.text)}"
        "</pre>",
        f"<h2>Its pieces</h2><ul class='pieces'>{_pieces(report)}</ul>",
        f"<footer><p>{escape(machine())}</p><p>{escape(NOTES)}</p></footer>",
    ]
    title = escape(report.title)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}</title>\n<style>\n{style}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(parts)
        + "\n</main>\n</body>\n</html>\n"
    )


def escape(text: str) -> str:
    """Any text as HTML: no tag, and nothing that a page cannot hold."""
    kept = "".join(c if c.isprintable() or c == "\n" else "·" for c in text)
    return html.escape(kept)


def _tile(name: str, number: str, beside: str) -> str:
    return (
        f"<div><span>{escape(name)}</span><b>{escape(number)}</b>"
        f"<small>{escape(beside)}</small></div>"
    )


def _figure(title: str, picture: str) -> str:
    return f"<figure><figcaption>{title}</figcaption>{picture}</figure>"


def _table(report: Report) -> str:
    head, rows = report.columns()
    top = "".join(f"<th scope='col'>{escape(x)}</th>" for x in head)
    body = ""
    for rung, (name, *cells) in zip(report.rungs, rows, strict=True):
        inner = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        row = f"<th scope='row'><i class='{rung.technique}'></i>{escape(name)}</th>"
        body += f"<tr>{row}{inner}</tr>"
    return (
        "<div class='wide' tabindex='0' role='region' aria-label='The ladder'><table>"
        f"<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _pieces(report: Report) -> str:
    return "".join(
        f"<li{' class=own' if own else ''}>{escape(name)}"
        f"{'' if own else ' <small>tiny_lm’s</small>'}</li>"
        for name, own in report.pieces
    )
