"""Whole labs under nbval: solved they pass, unsolved they fail at their tasks alone."""

import os
import subprocess
import sys
from xml.etree import ElementTree

import nbformat
import pytest
from solving import code_cells, then_solved, touched

from tiny_lm.course.checks.task import tasks_of
from tiny_lm.course.labs import generator as labs
from tiny_lm.course.labs import pieces

SOURCES = sorted(labs.SOLUTIONS.glob("[0-9][0-9]_*.py"))
each_lab = pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)


@pytest.fixture
def nbval(tmp_path):
    """Run a notebook as an instructor would; what came out of each cell."""

    def run(notebook):
        report = tmp_path / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest"]
        command += ["-p", "no:cacheprovider", "--nbval-lax", "--nbval-current-env"]
        command += ["--nbval-cell-timeout", "120", f"--junitxml={report}"]
        environment = {
            **os.environ,
            "PYTHONPATH": "",  # an instructor has no shape checks in the way
            "TINY_LM_PIECES": str(tmp_path / "pieces"),
            "TINY_LM_LAB_STEPS": "5",
            "OMP_NUM_THREADS": "1",
        }
        ran = subprocess.run(
            [*command, str(notebook)],
            cwd=labs.ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=600,  # lab 06 trains five models, beside other tests
        )
        print(ran.stdout)  # pytest shows it where an outcome is not as wanted
        assert report.is_file(), ran.stdout + ran.stderr
        return [outcome_of(case) for case in ElementTree.parse(report).iter("testcase")]

    return run


def outcome_of(case):
    """(grade id or None, passed): a skipped cell counts as not passed."""
    properties = {p.get("name"): p.get("value") for p in case.iter("property")}
    kinds = {child.tag for child in case} - {"properties"}
    return properties.get("grade_id"), not kinds & {"failure", "error", "skipped"}


def failed(outcomes):
    return [grade_id for grade_id, passed in outcomes if not passed]


def checks_of(source):
    return [f"check_{task.id.replace('.', '_')}" for task in tasks_of(source.stem)]


@each_lab
def test_unsolved_lab_fails_at_its_tasks_alone_and_solved_it_passes(
    source, nbval, tmp_path
):
    """In one kernel, as a learner does it: a whole lab first, then its answers."""
    name = f"{source.stem}.ipynb"
    lab = nbformat.read(labs.LABS / name, as_version=4)
    solved = nbformat.read(labs.SOLUTIONS / name, as_version=4)
    path = tmp_path / name
    nbformat.write(then_solved(lab, solved), path)
    outcomes = nbval(path)
    unsolved, again = outcomes[: len(code_cells(lab))], outcomes[len(code_cells(lab)) :]
    assert failed(unsolved) == checks_of(source)
    assert failed(again) == []
    assert [grade_id for grade_id, _ in again if grade_id] == checks_of(source)
    kept = {task.piece for task in tasks_of(source.stem)}
    assert set(pieces.files(tmp_path / "pieces")) == kept


def test_a_solved_lab_passes_in_a_kernel_that_knows_nothing(nbval):
    """One says it for all: in no lab does anything but answers differ when solved."""
    source = SOURCES[1]
    outcomes = nbval(labs.SOLUTIONS / f"{source.stem}.ipynb")
    assert failed(outcomes) == []
    assert [grade_id for grade_id, _ in outcomes if grade_id] == checks_of(source)


@each_lab
def test_lab_and_solution_differ_in_answers_alone(source):
    lab, solved = (
        nbformat.read(folder / f"{source.stem}.ipynb", as_version=4)
        for folder in (labs.LABS, labs.SOLUTIONS)
    )
    pairs = zip(code_cells(lab), code_cells(solved), strict=True)
    differ = [b.id for a, b in pairs if a.source != b.source]
    assert differ == [c.replace("check", "answer") for c in checks_of(source)]


def test_one_solved_task_passes_and_the_others_fail(nbval, tmp_path):
    """A learner solves the third task alone; the lab still runs to its end.

    One lab says it for all, as they hand on pieces alike.
    """
    source = SOURCES[0]
    third = checks_of(source)[2]
    answer = third.replace("check", "answer")
    lab = nbformat.read(labs.LABS / f"{source.stem}.ipynb", as_version=4)
    solved = nbformat.read(labs.SOLUTIONS / f"{source.stem}.ipynb", as_version=4)
    sources = {cell.id: cell.source for cell in solved.cells}
    for cell in lab.cells:
        if cell.id == answer:
            cell.source = sources[answer]
    path = tmp_path / source.with_suffix(".ipynb").name
    nbformat.write(lab, path)
    outcomes = nbval(path)
    assert failed(outcomes) == [c for c in checks_of(source) if c != third]
    kept = [file.stem for file in (tmp_path / "pieces").rglob("*.py")]
    assert kept == [tasks_of(source.stem)[2].name]


def test_what_answers_can_change_is_run_again():
    """By hand: what reads an answer, and what that reads and is bound anew later."""
    stub, answer = "def f(x):\n    raise NotImplementedError", "def f(x):\n    return x"
    asks = ["n = 3", stub, "y = f(n)", "z = n + 1", "def g():\n    return y", "g()"]
    assert touched(asks, [asks[0], answer, *asks[2:]]) == [1, 2, 4, 5]
    kept = ["m = 1", "print(m)", stub, "pieces.use('f', f)", "m = f(2)", "print(m)"]
    assert touched(kept, [*kept[:2], answer, *kept[3:]]) == [2, 3, 4, 5]
    late = ["a = 1", stub, "b = f(a)", "a = 7", "print(a)"]
    assert touched(late, [late[0], answer, *late[2:]]) == [0, 1, 2, 3, 4]
