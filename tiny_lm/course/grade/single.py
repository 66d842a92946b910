"""Grade one submission: read it, judge it, and write down what came of it.

Chapter: appendix/teaching
Source: course
"""

import contextlib
import hashlib
import tempfile
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import torch

from tiny_lm.course.checks.comm.ranks import gpus
from tiny_lm.course.checks.task import Task, tasks_of
from tiny_lm.course.grade import labrun, notebook, records, spaces
from tiny_lm.course.grade.compare import Submission, compare
from tiny_lm.course.grade.judge import Court, Verdict, judge, silence
from tiny_lm.course.grade.notebook import Notebook, Unreadable
from tiny_lm.course.grade.submissions import Found
from tiny_lm.course.grade.zygote import Zygote


@contextlib.contextmanager
def opened(
    lab: str,
    seed: int = 0,
    timeout_s: float = 30.0,
    reference: bool = False,
    hidden: list[str] | None = None,
    only: Collection[str] = (),
    lab_run: str = labrun.NONE,
) -> Iterator[Court]:
    """All that is needed to judge submissions of a lab, and warm.

    Args:
        only: tasks; all of the lab's where none is named.
        lab_run: whether to run the whole lab, too: "short", with one step in each
            training, "full" or "none".
    """
    torch.set_num_threads(1)
    measures = spaces.measures()
    spaces.prctl(spaces.DUMPABLE, 0)
    with Zygote(lab, reference, lab_run != labrun.NONE) as zygote:
        tasks = [t for t in tasks_of(lab) if not only or t.id in only]
        court = Court(
            lab,
            tasks,
            zygote,
            measures,
            seed,
            timeout_s,
            reference,
            hidden or [],
            lab_run,
        )
        with silence():
            odd = [t.id for t in tasks if not _accepts_ours(t, seed)]
        if odd:
            raise RuntimeError(
                f"with seed {seed} the checks of {', '.join(odd)} refuse our own "
                "answers: take another --seed, and tell the course's authors"
            )
        if lab == "05_comm":  # ranks would go along into every copy of this process
            gpus().close()
            gpus.cache_clear()
        zygote.wait()
        yield court


def _accepts_ours(task: Task, seed: int) -> bool:
    """Whether a check holds of the reference; what it needs is warm afterwards."""
    return task.outcome(task.reference, seed, explain=False).holds


def grade_one(path: Path, court: Court, slot: int = 0) -> dict[str, Any]:
    """The record of one submission; nothing is written.

    Args:
        court: as `opened` gives it.
    """
    found = Found(path.stem, path)
    with silence():
        return record_of(court, notebook.pristine(court.lab), found, slot)


def record_of(court: Court, lab: Notebook, one: Found, slot: int) -> dict[str, Any]:
    """Read a submission, judge it, and write down what came of it."""
    start = time.monotonic()
    where = one.path.name if one.path else ""
    record = records.frame(court, one.learner, where, "")
    try:
        if one.path is None:
            raise Unreadable(one.trouble)
        raw = notebook.read_bytes(one.path)
        record["sha256"] = hashlib.sha256(raw).hexdigest()
        submission = compare(notebook.parse(raw), lab, court.tasks)
    except Unreadable as error:
        return records.refused(record, court.tasks, str(error))
    verdicts = judge(court, submission, slot)
    record["tasks"] = [records.of_verdict(v) for v in verdicts]
    record["points"] = sum(task["earned"] for task in record["tasks"])
    for verdict in verdicts:
        _notes_of(verdict, submission)
    if court.lab_run != labrun.NONE:
        _run_lab(court, submission, record, slot)
    record["notes"] = [
        {k: records.clean(v, 300) for k, v in note.items()} for note in submission.notes
    ]
    record["seconds"] = round(time.monotonic() - start, 2)
    return record


def _run_lab(
    court: Court, submission: Submission, record: dict[str, Any], slot: int
) -> None:
    """Run the whole lab, and compare what its checks said with what the judge found."""
    full = court.lab_run == labrun.FULL
    limit_s = (10 if full else 4) * court.timeout_s
    with tempfile.TemporaryDirectory(
        prefix="grade-", ignore_cleanup_errors=True
    ) as folder:
        order = court.order(slot, folder)
        try:
            told = labrun.run(court, submission, order, 0 if full else 1, limit_s)
        except Exception as error:  # points do not depend on this
            told = labrun.NOTHING | {"says": f"{type(error).__name__}", "checks": {}}
    checks = told.pop("checks")
    record["lab_run"] = told
    for task in record["tasks"]:
        task["lab"] = checks.get(task["id"], "")
        name = f"check_{task['id'].replace('.', '_')}"
        if task["lab"] == "passed" and not task["earned"]:
            says = (
                f"In the lab the check of task {task['id']} passed, with fresh inputs "
                "it does not: it fits the lab's examples alone, or the check was "
                "changed while it ran."
            )
            submission.note("suspicious", name, says)
        elif task["lab"] == "failed" and task["earned"]:
            says = (
                f"Task {task['id']} has its points, but in the whole lab its check "
                "failed: it depends on something that another cell does."
            )
            submission.note("suspicious", name, says)


def _notes_of(verdict: Verdict, submission: Submission) -> None:
    task = verdict.task
    for what in verdict.noted:
        says = f"While it ran it asked for {what}, which is not there for it."
        submission.note("suspicious", f"answer_{task.id.replace('.', '_')}", says)
    if task.id in submission.claims and not verdict.passed:
        says = (
            f"Its stored output says that task {task.id} passed; with fresh inputs it "
            "does not. It was edited, made by another answer, or fits the lab's "
            "examples alone."
        )
        submission.note("edited output", f"check_{task.id.replace('.', '_')}", says)
