"""Tables that spreadsheets, Moodle and Canvas take, held to what those programs read.

The rules of both imports are taken from their source: Canvas's `gradebook_importer`,
Moodle's `assignfeedback_offline` and `gradeimport_csv`.
"""

import csv
import datetime
import io
from xml.etree import ElementTree

import grade_records as g
import pytest

from tiny_lm.course.grade import gradebook, roster
from tiny_lm.course.grade.junit import junit
from tiny_lm.course.grade.results import MOODLE, result


def results(*records, written=1_800_000_000.0):
    return [result(one, one["learner"], written) for one in records]


def rows(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


ADA = g.record("ada", g.task("2.1"), g.task("2.2", "failed", 1))
EVE = g.refused("eve", "This file is no notebook.")


def test_a_learner_has_a_row_and_a_task_a_column():
    half = g.record("ada", g.task("2.10", earned=0.5), g.task("2.2", "failed"))
    noted = {**half, "notes": [g.note("edited check", "…"), g.note("edited check", "")]}
    heads, row = rows(gradebook.grades(results(noted)))
    wanted = {"learner": "ada", "points": "0.5", "max_points": "4", "2.2": "0"}
    wanted |= {"2.10": "0.5", "notes": "edited check", "sha256": "ab" * 32}
    assert heads.index("2.2") < heads.index("2.10")
    assert wanted.items() <= dict(zip(heads, row, strict=True)).items()


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t=", "\r=", "\n=", " =", "＝"])
def test_no_cell_is_a_formula(sign):
    name = f'{sign}HYPERLINK("//example.com";1)'
    ones = results({**ADA, "learner": name, "reason": name, "submission": name})
    for write in (gradebook.grades, gradebook.moodle, gradebook.canvas):
        for row in rows(write(ones)):
            for cell in row:
                assert not cell.lstrip().startswith(gradebook.FORMULA), cell


def test_commas_quotes_and_line_feeds_stay_in_their_cell():
    name = 'Lovelace, "Ada"\nCountess'
    table = rows(gradebook.grades(results({**ADA, "learner": name})))
    assert len(table) == 2 and table[1][0] == 'Lovelace, "Ada" Countess'


def canvas_reads(text: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    """What Canvas makes of a table, after its `gradebook_importer`."""
    heads, *table = rows(text)
    assert len(heads) > 4 and "Student" in heads[0] and "ID" in heads[1]
    assert "SIS User ID" in heads[2] and "SIS Login ID" in heads[3]
    assert "Section" in heads[4]  # the last column about the student
    points: dict[str, str] = {}
    students = []
    for row in table:
        assert len(row) == len(heads)
        named = dict(zip(heads, row, strict=True))
        if "Points Possible" in row[0]:
            points = named
        else:
            students.append(named)
    return points, students


def test_canvas_finds_a_student_by_login_or_by_the_number_that_it_packed():
    packed = {**ADA, "learner": "lovelaceada_LATE_1234_5678_02_moe-1"}
    points, (first, second) = canvas_reads(gradebook.canvas(results(ADA, packed)))
    assert points["02_moe"] == "4" and first["02_moe"] == "2"
    assert first["SIS Login ID"] == "ada" and first["ID"] == ""
    assert second["ID"] == "1234" and second["Student"] == "lovelaceada"
    assert second["SIS Login ID"] == ""


def test_what_was_not_graded_imports_no_zero():
    _, students = canvas_reads(gradebook.canvas(results(ADA, EVE)))
    assert [s["02_moe"] for s in students] == ["2", ""]
    heads, ada, eve = rows(gradebook.moodle(results(ADA, EVE)))
    at = heads.index("Grade")
    assert (ada[at], eve[at]) == ("2", "")


def moodle_worksheet_reads(text: str) -> list[tuple[str, float, float, str]]:
    """(participant, grade, time, comment), after its `assignfeedback_offline`."""
    heads, *table = rows(text)
    at = {name: heads.index(name) for name in ("Identifier", "Grade")}
    modified, comment = (
        heads.index("Last modified (grade)"),
        heads.index("Feedback comments"),
    )
    found = []
    for row in table:
        participant = row[at["Identifier"]][len("Participant ") :]
        if participant.isdigit() and row[at["Grade"]] != "":
            moment = datetime.datetime.fromisoformat(row[modified]).timestamp()
            grade = float(row[at["Grade"]])
            found.append((participant, grade, moment, row[comment]))
    return found


def test_moodle_finds_a_participant_by_the_number_that_it_packed():
    name = "Ada Lovelace_1234_assignsubmission_file"
    text = gradebook.moodle(results({**ADA, "learner": name}, ADA, EVE))
    (found,) = moodle_worksheet_reads(text)
    assert found[:3] == ("1234", 2.0, 1_800_000_000.0)
    assert found[3] == "2 of 4 points. 2.2 not passed: gates sum to 1."
    assert rows(text)[1][1] == "Ada Lovelace"


def test_a_comment_names_what_failed_and_lists_what_is_not_done():
    tasks = g.task("2.1", "timeout"), g.task("2.2", "not done"), g.task("2.3")
    (one,) = results(g.record("ada", *tasks, g.task("2.10", "not done")))
    said = "2 of 8 points. 2.1 took too long. Not done: 2.2, 2.10."
    assert gradebook.feedback(one) == said
    assert gradebook.feedback(results(g.record("a"))[0]).endswith("All tasks passed.")


def test_moodles_grade_book_finds_a_learner_by_user_name():
    heads, ada, _ = rows(gradebook.moodle(results(ADA, EVE)))
    assert dict(zip(heads, ada, strict=True))["Username"] == "ada"


def test_a_folder_or_a_file_of_moodle_both_tell_the_participant():
    for name in ("Ada_B_7_assignsubmission_file_", "Ada_B_7_assignsubmission_file_02"):
        found = MOODLE.fullmatch(name)
        assert (found["name"], found["id"]) == ("Ada_B", "7")


def test_junit_counts_what_is_not_passed_and_skips_nothing():
    bob = g.record("bob", g.task("2.1", "not done"), g.task("2.2", "timeout"))
    root = ElementTree.fromstring(junit(results(ADA, bob)))
    assert (root.get("tests"), root.get("failures"), root.get("errors")) == ("4",) + (
        "2",
        "1",
    )
    assert not list(root.iter("skipped"))
    failure = root.find(".//testcase[@name='2.2 task_2_2']/failure")
    assert failure.get("message") == "gates sum to 1" and "✓" in failure.text
    assert [e.get("message") for e in root.iter("error")] == ["took too long"]
    earned = [
        p.get("value") for p in root.iter("property") if p.get("name") == "earned"
    ]
    assert earned == ["2", "0", "0", "0"]


def test_junit_is_xml_whatever_a_learner_wrote():
    odd = "\x00\x1b[31m]]> <a&b> \ud800 \uffff"
    hit = g.task("2.1", "failed", report=odd, property=odd)
    note = g.note("suspicious", odd, odd)
    record = g.record("ada", hit, notes=[note])
    text = junit(results({**record, "learner": odd}))
    root = ElementTree.fromstring(text.encode())
    assert "]]> <a&b>" in root.find(".//failure").text


CANVAS_EXPORT = """\
Student,ID,SIS User ID,SIS Login ID,Section,Lab 02_moe (98),Final Points
    Points Possible,,,,,4,(read only)
"Lovelace, Ada",1234,s1,ada,A,,80
"Hopper, Grace",5678,s2,grace,A,3,90
"""
MOODLE_EXPORT = """Identifier;Full name;Email address;Grade;Feedback comments
Participant 7;Ada Lovelace;ada@example.org;;-
Participant 8;Grace Hopper;grace@example.org;1;
"""


@pytest.mark.parametrize(
    "learner",
    ["ada", "s1", "ADA", "lovelaceada_1234_9_02_moe", "Lovelace, Ada", "lovelaceada"],
)
def test_the_list_of_canvas_is_filled_where_the_learner_is(learner):
    filled = roster.fill(CANVAS_EXPORT, results({**ADA, "learner": learner}))
    assert (filled.column, filled.lost) == ("Lab 02_moe (98)", ())
    points, (ada, grace) = canvas_reads(filled.text)
    assert points["Lab 02_moe (98)"] == "4" and points["Final Points"] == "(read only)"
    assert (ada["Lab 02_moe (98)"], grace["Lab 02_moe (98)"]) == ("2", "3")


@pytest.mark.parametrize(
    "learner", ["ada@example.org", "Any One_7_assignsubmission_file", "Ada Lovelace"]
)
def test_the_worksheet_of_moodle_is_filled_and_keeps_its_other_cells(learner):
    filled = roster.fill(MOODLE_EXPORT, results({**ADA, "learner": learner}))
    _, ada, grace = rows(filled.text)
    assert ada[3:] == ["2", "2 of 4 points. 2.2 not passed: gates sum to 1."]
    assert grace == ["Participant 8", "Grace Hopper", "grace@example.org", "1", ""]


@pytest.mark.parametrize("learner", ["nobody", "5678", "x_99_1_02_moe", "…"])
def test_who_is_in_no_row_is_named_and_nothing_is_written(learner):
    filled = roster.fill(MOODLE_EXPORT, results({**ADA, "learner": learner}))
    assert filled.lost == (learner,)
    assert rows(filled.text) == rows(MOODLE_EXPORT.replace(";", ","))


def test_two_of_one_name_are_left_to_a_person():
    twice = CANVAS_EXPORT + '"Lovelace, Ada",77,s3,ada2,B,,\n'
    filled = roster.fill(twice, results({**ADA, "learner": "Lovelace Ada"}))
    assert filled.lost == ("Lovelace Ada",)


def test_what_was_not_graded_keeps_the_points_it_had():
    filled = roster.fill(CANVAS_EXPORT, results({**EVE, "learner": "grace"}))
    assert canvas_reads(filled.text)[1][1]["Lab 02_moe (98)"] == "3"


@pytest.mark.parametrize(
    "text, column, wrong",
    [
        (
            "Student,ID\nx,1\n",
            "",
            "which column takes .*02_moe.*Student, ID",
        ),
        (CANVAS_EXPORT, "Lab 3", "which column takes the points"),
        ("When,Grade\n1,2\n", "", "no column of the list says who is who: When, Grade"),
        ("\n", "", "the list is empty"),
    ],
)
def test_a_list_of_another_kind_is_refused(text, column, wrong):
    with pytest.raises(ValueError, match=wrong):
        roster.fill(text, results(ADA), column)
