"""Result tables: the same numbers as HTML, as Markdown and as text."""

import pytest

from tiny_lm.course.figures.tables import table

ROWS = [("`tiny`", 1_234, 0.5, None), ("a < b", 5, 0.25, "none")]
COLUMNS = {"model": "", "bytes": ",d", "share": ".0%", "left": ".1f"}
SHOWN = table(ROWS, COLUMNS, caption="What is *left*.", name="left")


def test_numbers_take_the_format_of_their_column_and_nothing_is_a_dash():
    assert SHOWN.rows == [
        ["`tiny`", "1,234", "50%", "–"],
        ["a < b", "5", "25%", "none"],
    ]


def test_html_names_rows_and_columns_and_sets_numbers_right():
    page = SHOWN._repr_html_()
    assert '<figure class="result" id="fig-left">' in page
    assert '<th scope="row"><code>tiny</code></th>' in page
    assert '<th scope="col" class="number">bytes</th>' in page
    assert '<td class="number">1,234</td>' in page
    assert "a &lt; b" in page and "What is <em>left</em>." in page


def test_a_column_without_a_heading_has_an_empty_cell_there():
    page = table([("a", 1)], {"": "", "n": "d"}, caption="x")._repr_html_()
    assert '<thead><tr><td></td><th scope="col" class="number">n</th>' in page


def test_a_reader_with_a_keyboard_can_move_a_wide_table():
    assert 'tabindex="0" role="region" aria-label="What is *left*."' in (
        SHOWN._repr_html_()
    )


def test_markdown_and_text_hold_the_same_rows():
    assert "| `tiny` | 1,234 | 50% | – |" in SHOWN._repr_markdown_()
    lines = repr(SHOWN).splitlines()
    assert lines[0] == "What is *left*."
    assert lines[2].split() == ["`tiny`", "1,234", "50%", "–"]
    assert len({len(line.rstrip()) for line in lines[1:]}) == 1


def test_a_row_of_another_length_is_refused():
    with pytest.raises(ValueError, match="4 columns, but a row of 2"):
        table([("a", 1)], COLUMNS, caption="x")


def test_what_rounds_to_nothing_has_no_sign():
    rows = [("a", -0.0004, 0.0004), ("b", -0.006, 0.006)]
    shown = table(rows, {"": "", "gap": ".1%", "signed": "+.1%"}, caption="x")
    assert shown.rows == [["a", "0.0%", "0.0%"], ["b", "-0.6%", "+0.6%"]]
