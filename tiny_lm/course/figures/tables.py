"""Results as tables: rows with units and a caption, instead of printed columns.

Chapter: index
Source: course

Plain HTML: it is there without JavaScript, is copied as text, and moves sideways inside
its box where a phone is too narrow.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from tiny_lm.course.figures.captions import anchor, figcaption, inline

NOTHING = "–"


@dataclass(frozen=True, repr=False)
class Table:
    """Rows of text, ready to be shown; the first column names each row."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numeric: Sequence[bool]
    caption: str
    name: str = ""

    def _repr_html_(self) -> str:
        body = "".join(
            "<tr>" + "".join(self._cell(*cell) for cell in enumerate(row)) + "</tr>"
            for row in self.rows
        )
        head = "".join(self._heading(*column) for column in enumerate(self.columns))
        return (
            f'<figure class="result"{anchor(self.name)}>'
            f"{figcaption('Table', self.caption)}"
            f'<div class="table-box" tabindex="0" role="region" '
            f'aria-label="{escape(self.caption)}"><table>'
            f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></figure>"
        )

    def _heading(self, place: int, text: str) -> str:
        if not text:  # an empty heading would be read aloud as one
            return "<td></td>"
        return f'<th scope="col"{self._side(place)}>{inline(text)}</th>'

    def _cell(self, place: int, text: str) -> str:
        kind = 'th scope="row"' if place == 0 else "td"
        side = self._side(place)
        return f"<{kind}{side}>{inline(text)}</{kind.split()[0]}>"

    def _side(self, place: int) -> str:
        return ' class="number"' if self.numeric[place] else ""

    def _repr_markdown_(self) -> str:
        lines = [self.columns, ["--:" if n else ":--" for n in self.numeric]]
        table = "\n".join(f"| {' | '.join(line)} |" for line in [*lines, *self.rows])
        return f"{self.caption}\n\n{table}"

    def __repr__(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        return "\n".join(
            [self.caption, *("  ".join(self._pad(line, widths)) for line in lines)]
        )

    def _pad(self, line: Sequence[str], widths: Sequence[int]) -> list[str]:
        sides = zip(line, widths, self.numeric, strict=True)
        return [text.rjust(w) if number else text.ljust(w) for text, w, number in sides]


def table(
    rows: Iterable[Sequence[Any]],
    columns: Mapping[str, str],
    *,
    caption: str,
    name: str = "",
) -> Table:
    """A table of results.

    Args:
        rows: one value for each column; None is shown as a dash. The first names the
            row. Text in a column of numbers stays as it is.
        columns: heading, with its unit, to the format of its numbers (",d", ".2f",
            ".0%"); nothing for a column of words. `code` and *stress* work.
        caption: what to read from it, in a sentence.
        name: of the place that ``{fig}`name` `` in the text leads to.

    Raises:
        ValueError: a row has more or fewer values than there are columns.
    """
    formats = list(columns.values())
    lines = []
    for row in rows:
        if len(row) != len(formats):
            raise ValueError(f"{len(formats)} columns, but a row of {len(row)}: {row}")
        lines.append([_text(*pair) for pair in zip(row, formats, strict=True)])
    return Table(list(columns), lines, list(map(bool, formats)), caption, name)


def _text(value: Any, format_spec: str) -> str:
    if value is None:
        return NOTHING
    if isinstance(value, str):
        return value
    text = format(value, format_spec)
    # What rounds to nothing has no sign.
    return text if re.search("[1-9]", text) else text.lstrip("+-")
