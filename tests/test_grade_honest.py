"""Honest notebooks keep every point, in whatever style they are written."""

import honest_submissions as honest
import pytest
from submissions import write

from tiny_lm.course.grade.run import grade_folder


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """One run over all styles."""
    folder, out = (tmp_path_factory.mktemp(name) for name in ("class", "graded"))
    for style in honest.STYLES:
        write(honest.honest(style), folder / f"{style.__name__}.ipynb")
    found = grade_folder(
        folder, "02_moe", out, jobs=2, lab_run="none", say=lambda *w: None
    )
    return {one["learner"]: one for one in found.records}


@pytest.mark.parametrize("style", honest.STYLES, ids=lambda style: style.__name__)
def test_honest_style_keeps_every_point(graded, style):
    record = graded[style.__name__]
    lost = [task for task in record["tasks"] if task["earned"] < task["points"]]
    assert lost == []
    assert record["points"] == record["max_points"] > 0
