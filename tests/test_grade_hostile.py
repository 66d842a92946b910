"""Hostile submissions gain nothing, spoil nothing for the others, and leave nothing.

Honest ones in whatever style are in the same class, and keep every point.
"""

import json

import hostile
import pytest
from honest_submissions import STYLES
from hostile import CODE, NEIGHBOUR, NOTED, REFUSED, SECRET

from tiny_lm.course.checks.task import tasks_of
from tiny_lm.course.grade.run import grade_folder

TIMEOUT_S = 3


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """One run over the whole class; what was found before and after it."""
    place = hostile.Place(tmp_path_factory.mktemp("class"))
    names = place.hand_in()
    before = place.looks()
    hostile.adopt_orphans()
    mine = set(hostile.children())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COURSE_TOKEN", SECRET)
        found = grade_folder(
            place.submissions,
            "02_moe",
            place.out,
            jobs=3,
            timeout_s=TIMEOUT_S,
            lab_run="none",
            say=lambda *words: None,
        )
    records = {one["learner"]: one for one in found.records}
    left = set(hostile.children()) - mine
    yield place, names, before, records, found, left
    place.line.close()


def earned(record):
    return {task["id"] for task in record["tasks"] if task["earned"]}


def test_everybody_is_graded_and_has_a_record(graded):
    place, names, _, records, found, _ = graded
    assert found.left == {}
    assert sorted(records) == names
    for name in names:
        kept = json.loads((place.out / "results" / f"{name}.json").read_text())
        assert kept == records[name]


def test_the_neighbour_of_them_all_has_every_point(graded):
    record = graded[3][NEIGHBOUR]
    assert earned(record) == {task.id for task in tasks_of("02_moe")}
    assert record["points"] == record["max_points"]
    assert record["notes"] == []


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.__name__)
def test_an_honest_style_among_them_keeps_every_point(graded, style):
    record = graded[3][f"honest_{style.__name__}"]
    lost = [task for task in record["tasks"] if task["earned"] < task["points"]]
    assert lost == []
    assert record["points"] == record["max_points"] > 0


@pytest.mark.parametrize("name", CODE)
def test_hostile_code_earns_what_was_solved_beside_it(graded, name):
    record = graded[3][name]
    assert earned(record) == {"2.5"}, record["tasks"][0]
    assert record["points"] == 2
    assert record["tasks"][0]["status"] in ("failed", "error", "timeout", "stopped")


@pytest.mark.parametrize("name", [*hostile.EDITED, "by_heart"])
def test_an_edited_notebook_earns_no_more_than_was_solved(graded, name):
    record = graded[3][name]
    assert earned(record) <= {"2.5"}
    assert record["max_points"] == graded[3][NEIGHBOUR]["max_points"]
    if name in REFUSED:
        assert record["status"] == "refused" and record["reason"]


@pytest.mark.parametrize("name", hostile.FILES)
def test_what_is_no_notebook_of_this_lab_is_refused_in_one_line(graded, name):
    record = graded[3][name]
    assert record["status"] == "refused"
    assert record["points"] == 0 and not earned(record)
    assert record["reason"] and "\n" not in record["reason"]


@pytest.mark.parametrize("name", NOTED)
def test_what_was_changed_is_noted(graded, name):
    kinds = {note["kind"] for note in graded[3][name]["notes"]}
    assert NOTED[name] in kinds


def test_an_answer_by_heart_passes_the_labs_own_check_alone(graded):
    import torch

    space = {"torch": torch}
    exec(hostile.by_heart(), space)
    task = next(one for one in tasks_of("02_moe") if one.id == "2.6")
    assert task.outcome(space["update_bias"], explain=False).holds
    assert "2.6" not in earned(graded[3]["by_heart"])


def test_no_submission_is_touched(graded):
    place, _, before, *_ = graded
    assert place.looks() == before


def test_nothing_is_written_elsewhere(graded):
    assert graded[0].escaped() == []


def test_no_process_is_left(graded):
    assert graded[5] == set()


def test_nobody_called_home(graded):
    assert not graded[0].called()


def test_no_secret_of_the_grader_is_told(graded):
    for file in graded[0].out.rglob("*"):
        assert not file.is_file() or SECRET not in file.read_text(errors="replace")


def test_an_attack_costs_one_time_limit_at_most(graded):
    """That of the task that is attacked; no clock is read here, for machines differ."""
    for name, record in graded[3].items():
        late = [t["id"] for t in record["tasks"] if t["status"] == "timeout"]
        assert len(late) <= 1, name


@pytest.fixture(scope="module")
def run_whole(tmp_path_factory):
    """Labs that are run from top to bottom, and attack whoever runs them."""
    place = hostile.Place(tmp_path_factory.mktemp("class"))
    names = place.hand_in_at_once()
    hostile.adopt_orphans()
    mine = set(hostile.children())
    found = grade_folder(
        place.submissions,
        "02_moe",
        place.out,
        jobs=len(names),
        timeout_s=TIMEOUT_S,
        lab_run="short",
        say=lambda *words: None,
    )
    records = {one["learner"]: one for one in found.records}
    yield place, records, set(hostile.children()) - mine
    place.line.close()


@pytest.mark.parametrize("name", hostile.AT_ONCE)
def test_a_lab_that_attacks_its_kernel_is_ended_and_costs_itself_alone(run_whole, name):
    record = run_whole[1][name]
    assert earned(record) == {"2.5"}
    assert record["lab_run"]["status"] in ("failed", "stopped", "timeout")
    assert record["lab_run"]["says"]
    assert record["tasks"][0]["lab"] != "passed"


def test_a_lab_that_was_run_leaves_nothing(run_whole):
    place, _, left = run_whole
    assert left == set()
    assert place.escaped() == []
