"""The whole lab with a learner's answers in it: does it run, from top to bottom?

Chapter: appendix/teaching
Source: course

The lab is ours, as it is handed out; answers and cells that were added are theirs. It
runs under nbval, which compares what the checks print with what they print for ours.
No points hang on it: a learner's code runs in the same kernel and could print anything.
"""

import json
import time
from typing import Any

from tiny_lm.course.grade.channel import Channel, Gone
from tiny_lm.course.grade.compare import Submission
from tiny_lm.course.grade.judge import Court
from tiny_lm.course.grade.notebook import CELLS
from tiny_lm.course.grade.sandbox import Limits
from tiny_lm.course.labs.generator import ROOT, SOLUTIONS

SHORT, FULL, NONE = "short", "full", "none"
KINDS = (SHORT, FULL, NONE)
HIDDEN = ("solutions", "tests", "chapters", ".git")
LIMITS = Limits(
    memory_bytes=6_000_000_000,
    file_bytes=200_000_000,
    processes=400,
    files=2048,
    cpu_s=1200,
)
NOTHING = {"status": "skipped", "cells": 0, "failed": [], "says": "", "seconds": 0.0}


def assembled(lab: str, submission: Submission) -> bytes:
    """Our notebook with their answers, and with cells that they added."""
    whole = json.loads((SOLUTIONS / f"{lab}.ipynb").read_text(encoding="utf-8"))
    added: dict[int, list[dict]] = {}
    for (after, _), cell in submission.added:
        made = {"cell_type": "code", "source": cell.source, "metadata": {}}
        made |= {"outputs": [], "execution_count": None}
        added.setdefault(after, []).append(made)
    cells = [*added.get(-1, [])]
    for place, cell in enumerate(whole["cells"]):
        task = cell["id"].removeprefix("answer_").replace("_", ".")
        if cell["id"].startswith("answer_"):
            mine = submission.answers.get(task)
            stub = f'raise NotImplementedError("Task {task}: no answer")'
            cell["source"] = mine.source if mine else stub
        cells += [cell, *added.get(place, [])]
    names = (f"added-{n}" for n in range(len(cells)))
    whole["cells"] = [
        cell if "id" in cell else cell | {"id": next(names)} for cell in cells
    ]
    return json.dumps(whole, allow_nan=False).encode()


def run(
    court: Court, submission: Submission, order: Any, steps: int, limit_s: float
) -> dict[str, Any]:
    """How the lab went; each check's end under "checks".

    Args:
        order: for the sandbox; its folders and limits are set here.
        steps: of every training in the lab; 0 for all of them.
    """
    start = time.monotonic()
    order.kind = "lab"
    order.hidden = [*court.hidden, *(str(ROOT / name) for name in HIDDEN)]
    order.keep = [str(ROOT / "tiny_lm")]
    order.limits = vars(LIMITS)
    ends: dict[str, str] = {}
    status, says = "ran", ""
    try:
        with court.zygote.start(order) as channel:
            head = {"kind": "lab", "steps": steps, "cell_s": int(limit_s / 2)}
            channel.send(head, [assembled(court.lab, submission)], start + limit_s)
            _listen(channel, start + limit_s, ends)
    except Gone as gone:
        status, says = "stopped", "It ended before its last cell."
        if gone.why == "timeout":
            says = f"It was still at work after {limit_s:.0f} seconds."
            status = "timeout"
    checks = {c: end for c, end in ends.items() if c.startswith("check_")}
    failed = [c for c in ends if c not in checks and ends[c] != "passed"]
    if status == "ran" and failed:
        status, says = "failed", f"{len(failed)} cells besides the checks did not run."
    return {
        "status": status,
        "cells": len(ends),
        "failed": failed[:50],
        "says": says,
        "seconds": round(time.monotonic() - start, 2),
        "checks": {
            c[6:].replace("_", "."): "passed" if end == "passed" else "failed"
            for c, end in checks.items()
        },
    }


def _listen(channel: Channel, until: float, ends: dict[str, str]) -> None:
    """How each cell ended, until all are through."""
    while len(ends) < CELLS:
        told, _ = channel.receive(until)
        if not isinstance(told, dict) or told.get("kind") != "cell":
            return
        ends[str(told.get("cell"))[:80]] = str(told.get("is"))[:20]
