"""How long a class takes to grade, beside the time that the lab itself runs.

    python -m tiny_lm.course.bench.grading

Forty copies of the solved lab are graded on two cores; before and after that the lab
runs by itself in one kernel, as a learner would run it. The ratio is what
grading costs: seconds of a core for one submission, for each second of the lab.

Chapter: appendix/teaching
Source: course
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tiny_lm import console
from tiny_lm.course.bench.turns import Result
from tiny_lm.course.checks.aid import solutions_folder

MANY, JOBS = 40, 2
LIMIT = 1.3


def lab_alone(lab: str) -> float:
    """Seconds for which the solved lab runs in a kernel, with the full training."""
    notebook = nbformat.read(solutions_folder() / f"{lab}.ipynb", as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook, timeout=600, resources={"metadata": {"path": folder}}
        )
        start = time.perf_counter()
        client.execute(env={**os.environ, "TINY_LM_PIECES": folder})
        return time.perf_counter() - start


def class_of(lab: str, many: int, folder: Path) -> None:
    """So many learners who all solved the lab."""
    folder.mkdir()
    notebook = solutions_folder() / f"{lab}.ipynb"
    for number in range(many):
        shutil.copy(notebook, folder / f"learner-{number:03}.ipynb")


def graded(lab: str, many: int, jobs: int, **options: object) -> float:
    """Seconds for the whole class.

    Raises:
        RuntimeError: a learner has lost a point.
    """
    from tiny_lm.course.grade.run import grade_folder

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place, "class")
        class_of(lab, many, folder)
        found = grade_folder(folder, lab, Path(place, "out"), jobs=jobs, **options)
    lost = [r for r in found.records if r["points"] != r["max_points"]]
    if lost or found.left or len(found.records) != many:
        raise RuntimeError(f"{len(lost)} of {many} lost points, {found.left} left")
    return found.seconds


def measure(
    lab: str,
    many: int,
    jobs: int,
    lab_run: str,
    say: Callable[[str], object] = print,
) -> list[Result]:
    """The class between two runs of the lab by itself."""
    before = lab_alone(lab)
    say(f"{lab} by itself: {before:.1f} s")
    whole = graded(lab, many, jobs, lab_run=lab_run, say=lambda *words: None)
    after = lab_alone(lab)
    say(f"{lab} by itself, once more: {after:.1f} s")
    alone = (before + after) / 2
    per = whole * jobs / many
    what = f"{many} x {lab}, lab run: {lab_run}"
    return [
        Result(f"{what}, {jobs} cores", whole, "s"),
        Result("a submission", per, "s of a core"),
        Result("to the lab's own run", per / alone, "times", f"<= {LIMIT}"),
    ]


def main() -> None:
    """Measure, and print the table."""
    parser = console.Parser(prog="python -m tiny_lm.course.bench.grading")
    parser.add_argument("--lab", default="02_moe")
    parser.add_argument("--many", type=int, default=MANY)
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--lab-run", choices=("short", "full", "none"), default="short")
    chosen: argparse.Namespace = parser.parse_args()
    for one in measure(chosen.lab, chosen.many, chosen.jobs, chosen.lab_run):
        print(f"{one.name:36} {one.value:8.2f} {one.unit:12} {one.aim}")


if __name__ == "__main__":
    sys.exit(console.run(main))
