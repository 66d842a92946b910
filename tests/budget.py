"""How long the tests of each part took, beside what a part may take."""

import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PART_S = 60  # of tests, for a part of the book; two files run at a time
MANY_FILES = 30  # a run of fewer files says nothing of parts
COURSE = "the course"  # what belongs to no single part


def _chapters() -> dict[str, str]:
    """The part that each module names, by the module's own name."""
    found = {}
    for path in sorted((ROOT / "tiny_lm").rglob("*.py")):
        chapter = re.search(r"^Chapter: (\w+)", path.read_text(), re.MULTILINE)
        if chapter and chapter[1] not in ("index", "appendix"):
            found[path.stem] = chapter[1]
    return found


def part_of(file: str, chapters: dict[str, str]) -> str:
    """The part of the module that a file of tests is named after."""
    words = f"_{Path(file).stem.removeprefix('test_')}_"
    named = [name for name in chapters if f"_{name}_" in words]
    return chapters[max(named, key=len)] if named else COURSE


def seconds_by_part(reports: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Seconds of each part.

    Args:
        reports: a test's file, and how long its set-up, its call or its end took.
    """
    chapters, seconds = _chapters(), defaultdict(float)
    for file, duration in reports:
        seconds[part_of(file, chapters)] += duration
    return dict(sorted(seconds.items()))


def lines(seconds: dict[str, float]) -> list[str]:
    """A table; a part over its budget is marked."""
    rows = []
    for part, value in seconds.items():
        over = part != COURSE and value > PART_S
        rows.append(f"{part:16}{value:7.0f} s{'  over its budget' if over else ''}")
    return rows


def report(terminal: Any) -> None:
    """Print the table at the end of a run of many files.

    Args:
        terminal: pytest's reporter.
    """
    reports = [
        (one.nodeid.split("::")[0], one.duration)
        for some in terminal.stats.values()
        for one in some
        if hasattr(one, "duration")
    ]
    if len({file for file, _ in reports}) < MANY_FILES:
        return
    terminal.section(f"seconds of tests by part, at most {PART_S} each")
    for line in lines(seconds_by_part(reports)):
        terminal.write_line(line)
