"""What GitHub Classroom's workflow grades and reports."""

import base64
import json
import re

import grade_records as g
import pytest
import yaml
from test_map import ROOT

from tiny_lm.course.__main__ import main
from tiny_lm.course.grade.classroom import classroom
from tiny_lm.course.grade.results import result

WORKFLOW = ROOT / ".github" / "classroom" / "workflow.yml"


def reporter_reads(line: str) -> tuple[float, float, dict[str, str]]:
    """(points, of, state by test), after `autograding-grading-reporter`."""
    told = json.loads(base64.b64decode(line.removeprefix("result=")))
    states = {test["name"]: test["status"] for test in told["tests"]}
    return sum(t["score"] for t in told["tests"]), told["max_score"], states


def test_the_reporter_adds_up_to_the_points_of_the_learner():
    tasks = g.task("2.1"), g.task("2.2", "failed"), g.task("2.3", "timeout")
    points, most, states = reporter_reads(classroom(result(g.record("a", *tasks), "a")))
    assert (points, most) == (2, 6)
    assert list(states.values()) == ["pass", "fail", "error"]


def test_nothing_that_a_learner_wrote_reaches_the_log():
    odd = dict.fromkeys(
        ("on", "wanted", "got", "words", "printed", "report"), "\n::x::"
    )
    line = classroom(result(g.record("::x::", g.task("2.1", "failed", **odd)), "a"))
    assert "\n" not in line and "::" not in base64.b64decode(line[7:]).decode()


def test_the_command_prints_the_line_and_nothing_else(tmp_path, capsys):
    g.keep(tmp_path, g.record("ada"))
    assert main(["feedback", str(tmp_path), "--classroom"]) == 0
    assert re.fullmatch(r"result=[\w+/=]+\n", capsys.readouterr().out)
    g.keep(tmp_path, g.record("bob"))
    with pytest.raises(ValueError, match="is one learner's"):
        main(["feedback", str(tmp_path), "--classroom"])


def test_the_workflow_grades_a_lab_that_exists_and_hands_its_result_on():
    flow = yaml.safe_load(WORKFLOW.read_text("utf-8"))
    (job,) = flow["jobs"].values()
    *_, grade, _, reporter = job["steps"]
    assert (ROOT / "labs" / f"{flow['env']['LAB']}.ipynb").is_file()
    assert f"v{_version()}" == flow["env"]["VERSION"]
    assert grade["id"] == reporter["with"]["runners"] == "grade"
    assert reporter["env"] == {"GRADE_RESULTS": "${{ steps.grade.outputs.result }}"}
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"\bmake (\w+)", grade["run"])) <= targets


def _version() -> str:
    return re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.M)[
        1
    ]
