"""What is written down of a submission: one JSON file a learner.

Chapter: appendix/teaching
Source: course

Some of its texts come from a learner. They are cut and without control characters, and
still a learner's: whoever shows them escapes them.
"""

import hashlib
import importlib.metadata
import re
from functools import cache
from pathlib import Path
from typing import Any

from tiny_lm.course.checks.expect import Mismatch
from tiny_lm.course.checks.task import Task
from tiny_lm.course.grade.judge import Court, Verdict

FORMAT = 1
LONG = 4_000
CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u202a-\u202e\u2066-\u2069]"
)


def clean(text: str, most: int = LONG) -> str:
    """A text that can be written down and shown."""
    text = CONTROL.sub("\ufffd", text.replace("\r\n", "\n"))
    return text if len(text) <= most else text[:most] + " …"


@cache
def digest() -> str:
    """Of the checks, so that a record says by which it was made."""
    folder = Path(__file__).resolve().parents[1] / "checks"
    found = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        found.update(path.relative_to(folder).as_posix().encode())
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def frame(court: Court, learner: str, submission: str, sha256: str) -> dict[str, Any]:
    """What every record begins with."""
    return {
        "format": FORMAT,
        "lab": court.lab,
        "learner": clean(learner, 200),
        "submission": clean(submission, 300),
        "sha256": sha256,
        "seed": court.seed,
        "grader": {
            "version": importlib.metadata.version("tiny_lm"),
            "checks": digest(),
            "reference": court.reference,
            "protected_by": court.measures.words(),
        },
        "status": "graded",
        "reason": "",
        "points": 0,
        "max_points": sum(task.points for task in court.tasks),
        "seconds": 0.0,
        "tasks": [],
        "notes": [],
        "lab_run": {"status": "skipped", "cells": 0, "failed": [], "says": ""},
    }


def refused(record: dict[str, Any], tasks: list[Task], reason: str) -> dict[str, Any]:
    """The record of what could not be read."""
    record["status"], record["reason"] = "refused", clean(reason, 400)
    record["tasks"] = [_task(task) | {"status": "refused"} for task in tasks]
    return record


def _task(task: Task) -> dict[str, Any]:
    return {
        "id": task.id,
        "name": task.name,
        "title": task.title,
        "points": task.points,
        "earned": 0,
        "status": "refused",
        "passed": 0,
        "properties": [one.text for one in task.properties],
        "property": "",
        "on": "",
        "wanted": "",
        "got": "",
        "words": "",
        "printed": "",
        "hint": " ".join(task.hints[0].split()),
        "report": "",
        "seconds": 0.0,
        "lab": "",
    }


def of_verdict(verdict: Verdict) -> dict[str, Any]:
    """One task's part of a record."""
    task, outcome = verdict.task, verdict.outcome
    mismatch = outcome.mismatch or Mismatch("")
    told = {
        "on": mismatch.on,
        "wanted": mismatch.wanted,
        "got": mismatch.got,
        "words": mismatch.because or verdict.says,
        "printed": outcome.printed,
        "report": _report(verdict),
    }
    return {
        **_task(task),
        "earned": task.points if verdict.passed else 0,
        "status": verdict.status,
        "passed": outcome.passed,
        "property": outcome.failed,
        **{name: clean(text) for name, text in told.items()},
        "seconds": round(verdict.seconds, 2),
    }


def _report(verdict: Verdict) -> str:
    """As the lab prints it; where nothing was checked, why not."""
    if verdict.outcome.mismatch or not verdict.says:
        return verdict.task.report(verdict.outcome)
    return f"Task {verdict.task.id}  {verdict.task.name}\n  {verdict.says}"
