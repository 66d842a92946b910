"""The benchmark of grading measures a whole class, and refuses one that lost points."""

from types import SimpleNamespace

import pytest

from tiny_lm.course.bench import grading
from tiny_lm.course.grade import run


def test_seconds_of_a_core_for_a_submission_beside_the_labs_own(monkeypatch):
    monkeypatch.setattr(grading, "graded", lambda *given, **named: 60.0)
    alone = iter((9.0, 11.0))
    monkeypatch.setattr(grading, "lab_alone", lambda lab: next(alone))
    told = grading.measure("02_moe", 40, 2, "none", say=lambda words: None)
    assert [one.value for one in told] == [60.0, 3.0, 0.3]


def test_everybody_hands_in_the_solved_lab(tmp_path):
    grading.class_of("02_moe", 3, tmp_path / "class")
    files = sorted((tmp_path / "class").iterdir())
    solved = (grading.solutions_folder() / "02_moe.ipynb").read_bytes()
    assert len(files) == 3
    assert all(file.read_bytes() == solved for file in files)


@pytest.mark.parametrize("points, left", [(22, {}), (23, {"ada": "why"})])
def test_a_class_that_lost_points_or_learners_measures_nothing(
    monkeypatch, points, left
):
    def grade_folder(folder, lab, out, **options):
        records = [{"points": points, "max_points": 23}]
        return SimpleNamespace(records=records, left=left, seconds=1.0)

    monkeypatch.setattr(run, "grade_folder", grade_folder)
    with pytest.raises(RuntimeError, match="of 1 lost points"):
        grading.graded("02_moe", 1, 1)


def test_a_class_with_every_point_takes_what_it_took(monkeypatch):
    def grade_folder(folder, lab, out, **options):
        assert options == {"jobs": 2, "lab_run": "short"}
        records = [{"points": 23, "max_points": 23}] * 3
        return SimpleNamespace(records=records, left={}, seconds=5.0)

    monkeypatch.setattr(run, "grade_folder", grade_folder)
    assert grading.graded("02_moe", 3, 2, lab_run="short") == 5.0
