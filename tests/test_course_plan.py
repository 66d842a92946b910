"""Plans for a class take their hours from the pages and the labs themselves."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "_ext"))
import course_plan  # noqa: E402


@pytest.fixture
def book(tmp_path):
    """One page of two minutes, one lab of three tasks."""
    (tmp_path / "chapters" / "05_comm").mkdir(parents=True)
    (tmp_path / "chapters" / "05_comm" / "a.md").write_text("word " * 200)
    (tmp_path / "labs").mkdir()
    tasks = "".join(f"## Task 5.{n} · A\n\n●●○ · {n}0 min\n" for n in (1, 2, 3))
    (tmp_path / "labs" / "05_comm.ipynb").write_text(tasks)
    return tmp_path


def test_minutes_of_the_tasks_that_are_chosen(book):
    first, total = course_plan.rows(book, ["Monday | 05_comm/a | 05_comm 5.1 5.3"])
    assert (
        first[0] == "Monday"
        and first[2] == "2\N{NO-BREAK SPACE}min"
        and first[4] == "40\N{NO-BREAK SPACE}min"
    )
    assert first[3].endswith("</labs/05_comm>`, tasks 5.1 5.3")
    assert total[2:] == ("2\N{NO-BREAK SPACE}min", "", "40\N{NO-BREAK SPACE}min")


def test_a_lab_alone_is_all_of_it_and_one_that_is_missing_says_so(book):
    rows = course_plan.rows(book, ["a || 05_comm", "b || 06_together 6.1", "c"])
    assert [row[4] for row in rows] == [
        "1\N{NO-BREAK SPACE}h",
        "",
        "",
        "1\N{NO-BREAK SPACE}h",
    ]
    assert rows[1][3] == "Lab 6: not here yet"


def test_a_range_is_all_of_its_tasks():
    assert course_plan.chosen("5.1-5.3 5.10") == ["5.1", "5.2", "5.3", "5.10"]


def test_what_is_not_there_stops_the_book(book):
    with pytest.raises(ValueError, match="05_comm has no task 5.4"):
        course_plan.rows(book, ["a || 05_comm 5.3-5.4"])
    with pytest.raises(OSError):
        course_plan.rows(book, ["a | 05_comm/b"])
