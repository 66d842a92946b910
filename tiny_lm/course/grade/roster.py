"""Points put into the very table that Moodle or Canvas exported.

Chapter: appendix/teaching
Source: course

That table knows its learners better than a file's name does, in the words of the
instructor's own language. So its columns and rows stay as they are, and one column is
filled in: where a submission is found in exactly one row.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tiny_lm.course.grade.gradebook import cell, feedback
from tiny_lm.course.grade.results import CANVAS, MOODLE, Result, shown

# Headings under which a learner may be found: as written, or by the letters of a name.
EXACT = {
    *("id", "sis user id", "sis login id", "identifier", "email address", "email"),
    *("username", "id number", "login", "learner"),
}
NAMES = {"student", "full name", "name"}


@dataclass(frozen=True)
class Filled:
    """A table with points in it.

    Args:
        column: the heading under which they stand.
        lost: learners who were found in no row, or in several.
    """

    text: str
    column: str
    lost: tuple[str, ...]


def fill(text: str, results: Sequence[Result], column: str = "") -> Filled:
    """Write points into an exported table, and what is said about them.

    Args:
        column: heading of the column to fill; without it, one that has the lab's name
            in it, else `Grade`.

    Raises:
        ValueError: the table has no such column, or none that says who a row is.
    """
    heads, *rows = _read(text)
    at = _column(heads, results[0].lab, column)
    who = [i for i, head in enumerate(heads) if _plain(head) in EXACT | NAMES]
    if not who:
        raise ValueError(f"no column of the list says who is who: {', '.join(heads)}")
    comments = next(
        (i for i, head in enumerate(heads) if head == "Feedback comments"), None
    )
    lost = []
    for one in results:
        row = _row(one, heads, rows, who)
        if row is None:
            lost.append(one.learner)
        elif one.graded:
            row[at] = shown(one.points)
            if comments is not None:
                row[comments] = cell(feedback(one))
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([heads, *rows])
    return Filled(buffer.getvalue(), heads[at], tuple(lost))


def _read(text: str) -> list[list[str]]:
    """Rows of equal length; the separator is the commoner one of the first line."""
    text = text.removeprefix("\ufeff")
    first = text.partition("\n")[0]
    separator = ";" if first.count(";") > first.count(",") else ","
    rows = [r for r in csv.reader(io.StringIO(text), delimiter=separator) if any(r)]
    if not rows:
        raise ValueError("the list is empty")
    return [row + [""] * (len(rows[0]) - len(row)) for row in rows]


def _column(heads: Sequence[str], lab: str, wanted: str) -> int:
    fits = [i for i, head in enumerate(heads) if head.strip() == wanted]
    if not wanted:
        fits = [i for i, head in enumerate(heads) if lab in head]
        fits = fits or [i for i, head in enumerate(heads) if head == "Grade"]
    if len(fits) != 1:
        raise ValueError(
            f"which column takes the points of {lab}? Name one by --column: "
            + ", ".join(heads)
        )
    return fits[0]


def _row(
    one: Result, heads: Sequence[str], rows: Sequence[list[str]], who: Sequence[int]
) -> list[str] | None:
    """The one row that is this learner's."""
    keys = _keys(one)
    for fits in (_is_exactly, _is_by_name):
        found = [
            row
            for row in rows
            if any(fits(_plain(heads[i]), row[i], keys) for i in who)
        ]
        if found:
            return found[0] if len(found) == 1 else None
    return None


def _keys(one: Result) -> Mapping[str, str]:
    """What a submission's name says about its learner."""
    if packed := CANVAS.fullmatch(one.learner):
        return {"id": packed["id"], "name": packed["name"]}
    if packed := MOODLE.fullmatch(one.learner):
        return {"identifier": f"participant {packed['id']}", "name": packed["name"]}
    return {"any": _plain(one.learner), "name": one.learner}


def _is_exactly(head: str, value: str, keys: Mapping[str, str]) -> bool:
    wanted = {keys.get(head), keys.get("any") if head in EXACT else None} - {None}
    return head in EXACT and _plain(value) in wanted


def _is_by_name(head: str, value: str, keys: Mapping[str, str]) -> bool:
    return head in NAMES and _letters(value) == _letters(keys["name"]) != ""


def _plain(text: str) -> str:
    return text.strip().casefold()


def _letters(text: str) -> str:
    return re.sub(r"[\W_]", "", text).casefold()
