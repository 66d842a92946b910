"""The class at a glance: who passed what, and where it is stuck."""

import re
from html import unescape
from importlib.resources import files
from urllib.parse import unquote

import grade_records as g
import pytest

from tiny_lm.course.__main__ import main
from tiny_lm.course.grade.reports import write_reports
from tiny_lm.course.grade.results import read_results
from tiny_lm.course.grade.summary import summary_page


@pytest.fixture
def page(tmp_path):
    def write(*records, left=()):
        return summary_page(read_results(g.keep(tmp_path, *records)), left)

    return write


def words(html: str) -> str:
    return " ".join(re.sub(r"<[^>]*>", " ", html.partition("</style>")[2]).split())


def test_the_picture_has_a_place_for_every_learner_and_task(page):
    html = page(
        g.record("ada", g.task("2.1"), g.task("2.2", "failed", 1), g.task("2.10")),
        g.record("bob", g.task("2.1", "timeout"), g.task("2.2"), g.task("2.10")),
    )
    picture = html[html.index('<table class="class">') :]
    assert re.findall(r'<th scope="col">([\d.]+)<', picture) == ["2.1", "2.2", "2.10"]
    rows = re.findall(r"<tr>.*?</tr>", picture.partition("<tbody>")[2])
    labels = [re.findall(r'aria-label="([^"]*)"', row) for row in rows]
    assert labels[0] == ["passed", "not passed: gates sum to 1", "passed"]
    assert labels[1] == ["took too long", "passed", "passed"]
    assert re.findall(r"[✓✗…–?!■×](?=</span></td>)", rows[0]) == ["✓", "✗", "✓"]


def test_learners_with_most_points_come_first(page):
    html = page(
        g.record("ada", g.task("2.1", "failed")),
        g.record("zoe", g.task("2.1")),
        g.record("bob", g.task("2.1", "failed")),
    )
    assert re.findall(r'class="who"><a [^>]*><bdi>(\w+)', html) == ["zoe", "ada", "bob"]


def test_the_first_sentence_names_the_task_and_the_property(page):
    good, wrong = g.task("2.2"), g.task("2.2", "failed", 1)
    html = page(
        g.record("a", g.task("2.1"), wrong),
        g.record("b", g.task("2.1"), wrong),
        g.record("c", g.task("2.1"), g.task("2.2", "error")),
        g.record("d", g.task("2.1", "failed"), good),
        g.record("e", g.task("2.1", "not done"), g.task("2.2", "not done")),
    )
    said = "Most at task 2.2, Gate: 3 of 5 did not get through, 2 of them at “gates sum"
    assert said in words(html)
    assert "2 × gates sum to 1" in words(html)
    assert 'aria-label="1 passed, 2 not passed, 1 not done, 1 does not run"' in html


def test_a_class_without_mistakes_is_told_so(page):
    html = page(g.record("ada"), g.record("bob", g.task("2.1", "not done")))
    assert "Every answer that was written passes." in words(html)


def test_what_could_not_be_graded_stands_apart_and_in_no_median(page):
    html = page(
        g.record("ada"),
        g.record("bob", g.task("2.1")),
        g.refused("eve", "This file is no notebook."),
        left=["zed"],
    )
    text = words(html)
    assert "2 notebooks graded, 1 that could not be read as this lab, 1 not gra" in text
    assert "median 5, from 2 to 8, of 8" in text
    assert "eve not graded This file is no notebook." in text
    assert "Not graded yet zed" in text
    assert "1 of 1" not in text.partition("Learners and tasks")[0].partition("2.2")[0]


def test_what_is_suspicious_is_the_instructors_to_see(page, tmp_path):
    seen = g.note("suspicious", "A cell assigns to sys.modules.")
    html = page(g.record("ada", notes=[seen, g.note("edited check", "It changed.")]))
    assert "ada suspicious A cell assigns to sys.modules. (check_2_2)" in words(html)
    write_reports(tmp_path)
    own = (tmp_path / "feedback" / "ada.html").read_text()
    assert "It changed." in own and "sys.modules" not in own


def test_signs_are_readable_on_their_colours_in_the_light_and_in_the_dark():
    css = files("tiny_lm.course.grade").joinpath("page.css").read_text("utf-8")
    light, dark = re.findall(r":root \{(.*?)\}", css, re.DOTALL)
    rules = re.findall(r"\{ --tone: var\((--\w+)\); --on: ([^;]*); \}", css)
    assert len(rules) == 4
    for scheme in (light, light + dark):
        colors = dict(re.findall(r"(--[\w-]+): (#\w+);", scheme))
        for tone, ink in rules:
            ink = colors.get(ink[4:-1], ink)
            assert contrast(colors[tone], ink) >= 4.5, (tone, ink)


def contrast(one: str, other: str) -> float:
    """As WCAG has it."""
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def luminance(color: str) -> float:
    digits = color[1:] if len(color) == 7 else "".join(2 * c for c in color[1:])
    parts = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [((c + 0.055) / 1.055) ** 2.4 if c > 0.04 else c / 12.92 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_a_note_is_told_once_with_all_its_cells(page):
    notes = [g.note("edited check", "It was changed.", f"check_2_{n}") for n in (1, 2)]
    text = words(page(g.record("ada", notes=notes)))
    assert "It was changed. (check_2_1, check_2_2)" in text
    assert text.count("It was changed.") == 1


def test_notes_that_differ_in_their_task_alone_are_one(page):
    says = [
        g.note("edited output", f"It says task 2.{n} passed.", f"c{n}") for n in "12"
    ]
    text = words(page(g.record("ada", notes=says)))
    assert "It says a task passed. (c1, c2)" in text and "task 2.1" not in text


def test_names_are_shown_without_what_moodle_and_canvas_pack_around_them(page):
    html = page(
        g.record("Ada Lovelace_12_assignsubmission_file"),
        g.record("hoppergrace_LATE_12_34_02_moe"),
    )
    shown = re.findall(r'class="who"><a [^>]*><bdi>([^<]*)', html)
    assert shown == ["Ada Lovelace", "hoppergrace"]


def test_names_lead_to_pages_that_exist(tmp_path):
    odd = ["50% sure?", "#1 & <b>", "Édouard", "a'b\"c"]
    g.keep(tmp_path, *(g.record(name) for name in odd))
    written = write_reports(tmp_path)
    html = (tmp_path / "summary.html").read_text()
    links = re.findall(r'href="(feedback/[^"]*)"', html)
    assert len(links) == len(odd)
    for link in links:
        assert tmp_path / unquote(unescape(link)) in written


def test_two_hundred_learners_take_no_time(tmp_path):
    g.keep(tmp_path, *g.a_class(200))
    assert len(write_reports(tmp_path)) == 205
    assert summary_page(read_results(tmp_path)).count('scope="row"') == 200


def test_the_command_tells_results_anew_and_fills_a_list(tmp_path, capsys):
    g.keep(tmp_path, g.record("ada"), g.record("zoe"))
    (tmp_path / "list.csv").write_text("\ufeffUsername,Grade\nada,\nbob,5\n")
    command = ["feedback", str(tmp_path)]
    assert main(command) == 0
    assert main([*command, "--roster", str(tmp_path / "list.csv")]) == 1
    assert "not in the list, or not alone in it: zoe" in capsys.readouterr().out
    assert (
        tmp_path / "filled-list.csv"
    ).read_text() == "Username,Grade\nada,8\nbob,5\n"
    with pytest.raises(ValueError, match="which column takes the points"):
        main([*command, "--roster", str(tmp_path / "list.csv"), "--column", "Points"])
    with pytest.raises(ValueError, match="holds no results"):
        main(["feedback", str(tmp_path / "list.csv")])
