"""Tables of points that spreadsheets, Moodle and Canvas take.

Chapter: appendix/teaching
Source: course

A cell that begins with =, +, - or @ is a formula to a spreadsheet, and a learner
chooses what a notebook is called. Such a cell gets an apostrophe in front.
"""

import csv
import datetime
import io
import re
from collections.abc import Iterable, Sequence

from tiny_lm.course.grade.results import CANVAS, MOODLE, STATUS, Result, clean, shown

# The last four are the wide forms of the first, which some spreadsheets take for them.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")

CANVAS_COLUMNS = ("Student", "ID", "SIS User ID", "SIS Login ID", "Section")
MOODLE_COLUMNS = (
    *("Identifier", "Full name", "Username", "Grade", "Maximum grade"),
    *("Last modified (grade)", "Feedback comments"),
)


def cell(value: object) -> str:
    """A value that no spreadsheet takes for a formula."""
    text = clean(value).replace("\n", " ")
    return "'" + text if text.lstrip(" ").startswith(FORMULA) else text


def table(rows: Iterable[Sequence[object]]) -> str:
    """Rows as CSV, every cell guarded."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(map(cell, row) for row in rows)
    return buffer.getvalue()


def task_ids(results: Sequence[Result]) -> list[str]:
    """The tasks of a lab, in order."""
    ids = {task.id for one in results for task in one.tasks}
    return sorted(ids, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])


def grades(results: Sequence[Result]) -> str:
    """A row a learner: points of each task, and their sum."""
    ids = task_ids(results)
    rows: list[list[object]] = [
        ["learner", "status", "points", "max_points", *ids, "reason", "notes"]
        + ["submission", "sha256"]
    ]
    for one in results:
        earned = {task.id: shown(task.earned) for task in one.tasks}
        rows.append(
            [one.learner, one.status, shown(one.points), shown(one.max_points)]
            + [earned.get(name, "0") for name in ids]
            + [one.reason, "; ".join(dict.fromkeys(kind for kind, *_ in one.notes))]
            + [one.submission, one.sha256]
        )
    return table(rows)


def canvas(results: Sequence[Result]) -> str:
    """What Canvas imports: it finds a student by ID, else by login, else by name."""
    lab = results[0].lab
    highest = max(one.max_points for one in results)
    rows: list[list[object]] = [[*CANVAS_COLUMNS, lab]]
    rows.append(["    Points Possible", "", "", "", "", shown(highest)])
    for one in results:
        packed = CANVAS.fullmatch(one.learner)
        who = [packed["name"], packed["id"], "", ""] if packed else None
        rows.append([*(who or [one.learner, "", "", one.learner]), "", _points(one)])
    return table(rows)


def moodle(results: Sequence[Result]) -> str:
    """What Moodle imports, as an assignment's worksheet or into the grade book.

    The worksheet knows a participant by number; the grade book by user name, which is
    what the submission was called.
    """
    rows: list[Sequence[object]] = [MOODLE_COLUMNS]
    for one in results:
        packed = MOODLE.fullmatch(one.learner)
        who = (f"Participant {packed['id']}", packed["name"], "") if packed else None
        rows.append(
            [*(who or ("", one.learner, one.learner)), _points(one)]
            + [shown(one.max_points), _moment(one.written), feedback(one)]
        )
    return table(rows)


def feedback(one: Result) -> str:
    """A learner's result in a sentence or two, for a column of comments."""
    if not one.graded:
        return f"Not graded: {one.reason}"
    waiting = [task.id for task in one.tasks if task.status == "not done"]
    said = [f"{shown(one.points)} of {shown(one.max_points)} points."]
    for task in one.tasks:
        if not task.holds and task.status != "not done":
            at = f": {task.refused_at}" if task.refused_at else ""
            said.append(f"{task.id} {STATUS[task.status][1]}{at}.")
    if waiting:
        said.append(f"Not done: {', '.join(waiting)}.")
    return " ".join(said if len(said) > 1 else [*said, "All tasks passed."])


def _points(one: Result) -> str:
    """Nothing for what could not be graded: a person decides, not an import."""
    return shown(one.points) if one.graded else ""


def _moment(seconds: float) -> str:
    """A time that PHP's `strtotime` reads, in every time zone alike."""
    moment = datetime.datetime.fromtimestamp(int(seconds), tz=datetime.UTC)
    return moment.isoformat()
