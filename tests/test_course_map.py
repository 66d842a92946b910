"""The front page's table follows the table of contents."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "_ext"))
import course_map  # noqa: E402


@pytest.fixture
def book(tmp_path):
    """A course of two chapters in one part, one lab, and one page to look things up."""
    toc = ("chapters/index", "chapters/02_moe/a", "chapters/02_moe/b")
    pages = (*toc, "chapters/appendix/c")
    for page in pages:
        path = tmp_path / f"{page}.md"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("word " * 300)
    (tmp_path / "labs").mkdir()
    (tmp_path / "labs" / "02_moe.ipynb").write_text("●●○ · 40 min\n●○○ · 35 min")
    listed = "\n".join(f"- file: {page}" for page in (*pages, "labs/02_moe"))
    (tmp_path / "_toc.yml").write_text(listed)
    return tmp_path


def test_a_part_leads_to_its_first_page_and_its_lab_with_their_times(book):
    name, read, lab = course_map.rows(book)[1]
    assert "</chapters/02_moe/a>" in name and ".technique .moe" in name
    assert read == "2 pages, 6 min"
    assert lab == "{doc}`Lab 2 </labs/02_moe>`, 1¼ h"


def test_a_part_without_pages_says_so_and_the_sum_counts_what_is_there(book):
    rows = course_map.rows(book)
    assert rows[2][1:] == ("not here yet", "not here yet")
    assert rows[6][1:] == ("not here yet", "–")  # no lab is missing there
    assert rows[-1][1:] == ("6 min", "1¼ h")


@pytest.mark.parametrize(
    ("minutes", "words"),
    [(5, "5 min"), (59, "59 min"), (60, "1 h"), (100, "1¾ h"), (119, "2 h")],
)
def test_times_are_told_as_a_reader_plans(minutes, words):
    assert course_map.hours(minutes) == words
