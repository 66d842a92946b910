"""The labs in a class that uses nbgrader: its own commands give the same points.

nbgrader lives beside the other tools, in `.venv/nbgrader` (see `_setup.py`).
"""

import json
import os
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from test_site import need

from tiny_lm.course.checks.task import tasks_of
from tiny_lm.course.labs import generator as labs

PYTHON = labs.ROOT / ".venv" / "nbgrader" / "bin" / "python"
ALL = sorted(path.stem for path in labs.SOLUTIONS.glob("[0-9][0-9]_*.ipynb"))
TRIED = "01_baseline"


def nbgrader(course: Path, *what: str) -> dict:
    """What nbgrader says about a course."""
    environment = {
        **os.environ,
        "PATH": f"{PYTHON.parent}{os.pathsep}{os.environ['PATH']}",  # it calls alembic
        "PYTHONPATH": str(labs.ROOT),
        "TINY_LM_PIECES": str(course / "pieces"),
        "TINY_LM_LAB_STEPS": "5",
    }
    script = Path(__file__).with_name("nbgrader_course.py")
    ran = subprocess.run(
        [str(PYTHON), str(script), str(course), *what],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=course,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def course(tmp_path_factory) -> Path:
    """A course whose sources are our solved labs."""
    need(PYTHON.is_file(), "nbgrader", "run `make test`")
    folder = tmp_path_factory.mktemp("course")
    for lab in ALL:
        (folder / "source" / lab).mkdir(parents=True)
        shutil.copy(labs.SOLUTIONS / f"{lab}.ipynb", folder / "source" / lab)
    return folder


@pytest.fixture(scope="module")
def points(course) -> dict:
    return nbgrader(course, "make", *ALL)


def test_every_lab_becomes_an_assignment_of_the_same_points(points):
    for lab in ALL:
        ours = {f"check_{t.id.replace('.', '_')}": t.points for t in tasks_of(lab)}
        assert points[lab] == ours


def test_an_assignment_keeps_signatures_and_holds_no_answer(points, course):
    for lab in ALL:
        made = nbformat.read(course / "release" / lab / f"{lab}.ipynb", as_version=4)
        solved = nbformat.read(labs.SOLUTIONS / f"{lab}.ipynb", as_version=4)
        answers = {c.id: c.source for c in solved.cells if "answer_" in c.id}
        for cell in made.cells:
            if "answer_" in cell.metadata.get("nbgrader", {}).get("grade_id", ""):
                answer = answers.pop(cell.metadata.nbgrader.grade_id)
                assert "NotImplementedError" in cell.source
                assert labs.BEGIN not in cell.source
                assert cell.source.splitlines()[0] == answer.splitlines()[0]
        assert not answers


def test_a_submission_earns_the_points_of_its_tasks_alone(points, course):
    """Every other task is solved; the stubs are nbgrader's own."""
    made = nbformat.read(course / "release" / TRIED / f"{TRIED}.ipynb", as_version=4)
    solved = nbformat.read(labs.SOLUTIONS / f"{TRIED}.ipynb", as_version=4)
    answers = {c.id: c.source for c in solved.cells}
    stubs = {c.metadata.get("nbgrader", {}).get("grade_id"): c for c in made.cells}
    wanted = {}
    for number, task in enumerate(tasks_of(TRIED)):
        name = task.id.replace(".", "_")
        wanted[f"check_{name}"] = task.points * (number % 2 == 0)
        if number % 2 == 0:
            stubs[f"answer_{name}"].source = answers[f"answer_{name}"]
    place = course / "submitted" / "ada" / TRIED / f"{TRIED}.ipynb"
    place.parent.mkdir(parents=True)
    nbformat.write(made, place)
    earned = nbgrader(course, "grade", TRIED, "ada")
    assert earned == wanted and 0 < sum(earned.values()) < sum(points[TRIED].values())
