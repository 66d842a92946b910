"""What a folder of results says, read as data that nobody promised to be in order.

Chapter: appendix/teaching
Source: course

A record holds text that came from a learner. `clean` makes it harmless to look at: no
control characters, none that turn the direction of writing, none that no file may
hold. Whoever writes HTML, CSV or XML of it still has to escape it in their own way.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tiny_lm.files import read_json

# Control characters but tab and line feed; marks and overrides of direction; halves of
# surrogate pairs, and the two numbers that are no characters: XML takes none of them.
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069"
    "\ud800-\udfff\ufeff\ufffe\uffff]"
)
# `lovelaceada_LATE_1234_5678_02_moe`: sortable name, user, file, as Canvas packs them.
CANVAS = re.compile(r"(?P<name>\w+?)(?:_LATE)?_(?P<id>\d+)_\d+_.+")
# `Ada Lovelace_1234_assignsubmission_file`, a folder or the beginning of a file.
MOODLE = re.compile(r"(?P<name>.+)_(?P<id>\d+)_assignsubmission_file(?:_.*)?")
REPLACEMENT = "\ufffd"
LONGEST = 4000  # characters of one field that anybody reads
STATUS = {  # what a task came to: a sign, and words for a learner
    "passed": ("✓", "passed"),
    "failed": ("✗", "not passed"),
    "not done": ("–", "not done"),
    "missing": ("?", "not found"),
    "error": ("!", "does not run"),
    "timeout": ("…", "took too long"),
    "stopped": ("■", "was stopped"),
    "refused": ("×", "not graded"),
}


def clean(value: object) -> str:
    """Any value as text without characters that hide, turn or break what is shown."""
    text = "" if value is None else str(value)
    text = UNSEEN.sub(REPLACEMENT, text.replace("\r\n", "\n"))
    return text if len(text) <= LONGEST else text[:LONGEST] + " …"


@dataclass(frozen=True, kw_only=True)
class TaskResult:
    """What one answer came to."""

    id: str
    name: str = ""
    title: str = ""
    status: str = "refused"
    points: float = 0.0
    earned: float = 0.0
    passed: int = 0
    properties: tuple[str, ...] = ()
    refused_at: str = ""  # the property that does not hold
    on: str = ""
    wanted: str = ""
    got: str = ""
    words: str = ""
    printed: str = ""
    hint: str = ""
    report: str = ""
    lab: str = ""
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether all points were earned."""
        return self.status == "passed"


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one submission came to.

    Args:
        stem: name of its file of results: that of its page too.
        notes: (kind, cell, sentence) of each thing that was noticed.
        written: when, in seconds since 1970.
    """

    stem: str
    learner: str
    lab: str = ""
    submission: str = ""
    sha256: str = ""
    seed: str = ""
    status: str = "refused"
    reason: str = ""
    points: float = 0.0
    max_points: float = 0.0
    tasks: tuple[TaskResult, ...] = ()
    notes: tuple[tuple[str, str, str], ...] = ()
    grader: Mapping[str, Any] = field(default_factory=dict)
    written: float = 0.0

    @property
    def name(self) -> str:
        """Of the learner, without what Moodle and Canvas pack around it."""
        packed = MOODLE.fullmatch(self.learner) or CANVAS.fullmatch(self.learner)
        return packed["name"] if packed else self.learner

    @property
    def graded(self) -> bool:
        """Whether it could be read at all."""
        return self.status == "graded"


def number(value: object) -> float:
    """A count of points; what is no number is none."""
    good = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if good and abs(value) < 1e9 else 0.0  # type: ignore[arg-type]


def shown(points: float) -> str:
    """Points as a person writes them: 13, or 12.5."""
    return f"{points:.2f}".rstrip("0").rstrip(".")


def task_result(record: Mapping[str, Any]) -> TaskResult:
    """One task of a record."""
    words = ("id", "name", "title", "on", "wanted", "got", "words")
    words += ("printed", "hint", "report", "lab")
    status = str(record.get("status"))
    return TaskResult(
        **{name: clean(record.get(name)) for name in words},
        refused_at=clean(record.get("property")),
        status=status if status in STATUS else "refused",
        points=number(record.get("points")),
        earned=number(record.get("earned")),
        passed=int(number(record.get("passed"))),
        properties=tuple(map(clean, record.get("properties") or ())),
        seconds=number(record.get("seconds")),
    )


def result(record: Mapping[str, Any], stem: str, written: float = 0.0) -> Result:
    """One record."""
    words = ("lab", "submission", "sha256", "seed", "reason")
    notes = record.get("notes") or ()
    return Result(
        **{name: clean(record.get(name)) for name in words},
        stem=stem,
        learner=clean(record.get("learner")) or clean(stem),
        status="graded" if record.get("status") == "graded" else "refused",
        points=number(record.get("points")),
        max_points=number(record.get("max_points")),
        tasks=tuple(map(task_result, record.get("tasks") or ())),
        notes=tuple(
            (clean(n.get("kind")), clean(n.get("cell")), clean(n.get("says")))
            for n in notes
        ),
        grader=record.get("grader") or {},
        written=written,
    )


def read_results(out: Path) -> list[Result]:
    """All records below `out/results`, by learner.

    Raises:
        ValueError: there is none, one is no record, or they are of several labs.
    """
    found = sorted(_each(out / "results"), key=lambda r: (r.learner, r.stem))
    if not found:
        raise ValueError(f"{out} holds no results: grade a folder into it first")
    labs = sorted({r.lab for r in found})
    if len(labs) > 1:
        raise ValueError(f"{out} holds results of {', '.join(labs)}: one folder a lab")
    return found


def _each(folder: Path) -> Iterator[Result]:
    for path in folder.glob("*.json"):
        if path.name.startswith("."):
            continue
        record = read_json(path)
        try:
            yield result(record, path.stem, path.stat().st_mtime)
        except (AttributeError, TypeError) as error:
            raise ValueError(f"{path} is no record of the grader: {error}") from error
