"""A whole lab with a learner's answers, in the sandbox."""

import nbformat
import pytest

from tiny_lm.course.grade import run, samples
from tiny_lm.course.grade.single import grade_one, opened

LAB = "01_baseline"


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """Of a notebook with our answers."""
    folder = tmp_path_factory.mktemp("class")
    nbformat.write(samples.solved(LAB), folder / "ada.ipynb")
    with opened(LAB, 3, 60.0, only=("1.1",), lab_run="short") as court:
        return grade_one(folder / "ada.ipynb", court)


def test_the_whole_lab_runs_with_a_learners_answers(record):
    told = record["lab_run"]
    assert told["status"] == "ran", told
    assert told["cells"] > 20 and not told["failed"]


def test_a_folder_for_results_among_submissions_is_refused(tmp_path):
    nbformat.write(samples.blank(LAB), tmp_path / "ada.ipynb")
    for out in (tmp_path, tmp_path / "graded"):
        with pytest.raises(ValueError, match="lies among the submissions"):
            run.grade_folder(tmp_path, LAB, out)
    assert [path.name for path in tmp_path.iterdir()] == ["ada.ipynb"]
