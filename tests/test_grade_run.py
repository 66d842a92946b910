"""A folder of submissions: what is written, what is kept, and what is left alone."""

import contextlib
import hashlib
import json
import shutil

import nbformat
import pytest

from tiny_lm.course.checks.report import Outcome
from tiny_lm.course.checks.task import tasks_of
from tiny_lm.course.grade import inside, labrun, run, samples
from tiny_lm.course.grade.compare import compare
from tiny_lm.course.grade.notebook import parse, pristine
from tiny_lm.course.grade.single import opened

LAB = "02_moe"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Our answers, one of them wrong, an empty lab, and a file that is no notebook."""
    made = tmp_path_factory.mktemp("class")
    ours = samples.solved(LAB)
    gate = next(c.source for c in ours.cells if c.id == "answer_2_2")
    wrong = samples.with_answer(ours, "2.2", gate.replace("route_scale * ", ""))
    empty = samples.blank(LAB)
    for name, notebook in {"ada": ours, "bob": wrong, "cy": empty}.items():
        nbformat.write(notebook, made / f"{name}.ipynb")
    (made / "dan.ipynb").write_text("{")
    return made


@pytest.fixture(scope="module")
def warm():
    """A court of three tasks: to open one takes seconds."""
    with opened(LAB, 5, only=("2.1", "2.2", "2.8")) as court:
        yield court


@pytest.fixture(scope="module", autouse=True)
def one_court(warm):
    @contextlib.contextmanager
    def again(lab, seed, *_, **__):
        warm.seed = seed
        yield warm

    before, run.opened = run.opened, again
    yield
    run.opened = before


@pytest.fixture(scope="module")
def graded(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "results of a class"
    before = prints(folder)
    found = grade(folder, out)
    assert prints(folder) == before
    return found, out


def grade(folder, out, **how):
    said = []
    how = {"jobs": 2, "lab_run": "none", "say": said.append} | how
    found = run.grade_folder(folder, LAB, out, **how)
    found.said = "\n".join(said)
    return found


def prints(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.iterdir()
    }


def test_each_gets_the_points_that_were_earned(graded):
    found, out = graded
    points = {r["learner"]: r["points"] for r in found.records}
    assert points == {"ada": 9, "bob": 6, "cy": 0, "dan": 0}
    assert found.left == {}
    kinds = {r["learner"]: {t["status"] for t in r["tasks"]} for r in found.records}
    assert kinds["cy"] == {"not done"} and kinds["dan"] == {"refused"}
    assert "no JSON" in found.records[3]["reason"]


def test_results_are_for_the_instructors_eyes(graded):
    _, out = graded
    assert out.stat().st_mode & 0o777 == 0o700


def test_a_task_that_leans_on_a_failed_one_is_judged_with_ours(graded):
    bob = graded[0].records[1]
    by_id = {t["id"]: t for t in bob["tasks"]}
    assert by_id["2.2"]["status"] == "failed"
    assert by_id["2.8"]["status"] == "passed"


def test_a_record_says_by_what_it_was_made(graded):
    found, out = graded
    record = json.loads((out / "results" / "ada.json").read_text())
    assert record == found.records[0]
    assert record["seed"] == json.loads((out / "grading.json").read_text())["seed"]
    assert record["grader"]["reference"] is False
    assert len(record["sha256"]) == 64 and record["max_points"] == 9


def test_what_is_graded_stays_and_what_changed_is_graded_again(
    graded, folder, tmp_path
):
    found, out = graded
    again = tmp_path / "again"
    shutil.copytree(out, again)
    mine = tmp_path / "class"
    shutil.copytree(folder, mine)
    nbformat.write(samples.solved(LAB), mine / "cy.ipynb")
    second = grade(mine, again)
    assert "3 are graded already" in second.said
    assert [r["points"] for r in second.records] == [9, 6, 9, 0]
    assert second.records[0] == found.records[0]


def test_where_nothing_is_left_nothing_is_started(
    graded, folder, tmp_path, monkeypatch
):
    found, out = graded
    again = tmp_path / "again"
    shutil.copytree(out, again)
    monkeypatch.setattr(run, "opened", None)  # would raise if it were called
    second = grade(folder, again)
    assert "All 4 are graded already" in second.said
    assert (second.records, second.left) == (found.records, {})


@pytest.mark.parametrize(
    ("submissions", "lab", "out", "message"),
    [
        ("empty", "99_x", "out", "there is no lab '99_x'; there are: 01_baseline"),
        ("absent", "99_x", "out", "there is no lab '99_x'; there are: 01_baseline"),
        ("empty", LAB, "empty/out", "lies among the submissions"),
        ("empty", LAB, "out", "holds no notebooks"),
        ("absent", LAB, "out", "is neither a folder nor a notebook"),
    ],
)
def test_wrong_use_is_told_before_the_folder_is_looked_into(
    submissions, lab, out, message, tmp_path
):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=message):
        run.grade_folder(tmp_path / submissions, lab, tmp_path / out)
    assert [path.name for path in tmp_path.rglob("*")] == ["empty"]


def test_a_share_without_submissions_starts_nothing(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "opened", None)  # would raise if it were called
    empty = grade(folder, tmp_path / "out", shard=(5, 5))
    assert empty.said == "No submission falls to this share."
    assert (empty.records, empty.left) == ([], {})


def test_shards_are_the_whole_class_and_nobody_twice(folder, tmp_path):
    parts = [grade(folder, tmp_path / "out", shard=(i, 2), seed=5) for i in (1, 2)]
    names = [r["learner"] for part in parts for r in part.records]
    assert sorted(names) == ["ada", "bob", "cy", "dan"]


def test_shards_that_start_at_once_agree_on_a_seed(tmp_path):
    first = run._seed_of(tmp_path / "out", LAB, None)
    assert run._seed_of(tmp_path / "out", LAB, None) == first
    assert run._seed_of(tmp_path / "out", LAB, 4) == 4
    assert run._seed_of(tmp_path / "other", LAB, None) != first
    assert [p.name for p in (tmp_path / "other").glob("*.json")] == ["grading.json"]


def test_a_seed_with_which_a_check_refuses_our_own_answer_grades_nobody(monkeypatch):
    from tiny_lm.course.checks.moe import task_2_5

    monkeypatch.setattr(task_2_5, "outcome", lambda *a, **k: Outcome(("x",), 0, "x"))
    with pytest.raises(RuntimeError, match=r"2\.5 refuse our own"):
        with opened(LAB, 3, only=("2.5",)):
            pass


def test_results_of_another_lab_are_not_mixed_in(graded, tmp_path):
    _, out = graded
    nbformat.write(samples.blank("01_baseline"), tmp_path / "a.ipynb")
    with pytest.raises(ValueError, match="results of 02_moe"):
        run.grade_folder(tmp_path, "01_baseline", out)


def test_a_lab_is_put_together_from_ours_and_theirs():
    made = samples.with_answer(samples.solved(LAB), "2.2", "def gate(): pass")
    check = next(i for i, c in enumerate(made.cells) if c.id == "check_2_2")
    made.cells.insert(check, nbformat.v4.new_code_cell("HELPER = 1"))
    made.cells[check + 1].source = "print('passed')"
    first = next(i for i, c in enumerate(made.cells) if "import re" in c.source)
    made.cells[first].source += "\nimport math"
    read = parse(nbformat.writes(made).encode())
    submission = compare(read, pristine(LAB), tasks_of(LAB))
    whole = nbformat.reads(labrun.assembled(LAB, submission).decode(), as_version=4)
    nbformat.validate(whole)
    by_id = {cell.id: cell.source for cell in whole.cells}
    order = [cell.source for cell in whole.cells]
    assert by_id["answer_2_2"] == "def gate(): pass"
    assert by_id["check_2_2"] == "check.task_2_2(gate)"
    assert order.index("HELPER = 1") < order.index(by_id["check_2_2"])
    assert "import math" in order


def test_each_cell_of_a_run_is_told_by_its_id():
    class Channel:
        told: list = []

        def send(self, head):
            self.told.append(head)

    class Report:
        nodeid, when, outcome = "lab.ipynb::Cell 3", "call", "passed"

    class Item:
        nodeid, cell, name = "lab.ipynb::Cell 3", {"id": "check_2_1"}, "Cell 3"

    reporter = inside.Reporter(Channel())
    reporter.pytest_collection_modifyitems([Item()])
    reporter.pytest_runtest_logreport(Report())
    Report.wasxfail = ""
    reporter.pytest_runtest_logreport(Report())
    assert [(x["cell"], x["is"]) for x in Channel.told] == [
        ("check_2_1", "passed"),
        ("check_2_1", "skipped"),  # after a time-out nbval expects failures: no pass
    ]
