"""`make mutants` counts what the checks make of the answers kept beside them.

That each is refused at its own property is tested one by one in `test_checks`.
"""

import pytest

from tiny_lm.course import __main__ as course
from tiny_lm.course.checks import survey
from tiny_lm.course.checks.case import case
from tiny_lm.course.checks.report import Outcome
from tiny_lm.course.checks.task import TASKS, Task, tasks_of


def double(x):
    return 2 * x


@pytest.fixture
def demo(monkeypatch):
    """A task of a lab that nobody else has."""
    about = {"title": "Double", "name": "double", "piece": "demo.double", "points": 1}
    counts = {"difficulty": 1, "minutes": 1, "hints": ("a", "b", "c")}
    made = Task(id="0.7", lab="00_demo", reference=double, **about, **counts)
    made.asks("of two", case(2), mistakes={"2 * x => 3 * x": "Three times."})
    made.asks("of three", case(3), mistakes={"2 * x => x * x": "The square."})
    made.accepts(lambda x: x + x)
    monkeypatch.setattr(survey, "labs", lambda: ["00_demo"])
    monkeypatch.setattr(survey, "tasks_of", lambda lab: [made])
    yield made
    del TASKS["0.7"]


def run(*words):
    return course.main(["mutants", *words])


def test_all_refused_at_their_own_and_honest_ones_accepted(demo, capsys):
    found = survey.count(survey.tried(demo))
    assert found == survey.Count(
        tasks=1, wrong=2, refused=2, at_their_own=2, honest=1, accepted=1
    )
    assert run() == 0
    told = capsys.readouterr().out.splitlines()
    assert told[1].split() == ["00_demo", "1", "2", "2", "2", "1", "1"]
    assert told[-1].startswith("100.0% of the wrong answers")


def test_a_wrong_answer_that_is_accepted_is_told_and_fails(demo, capsys):
    demo.properties[1].mistake("Twice, whatever comes.")(double)
    assert run() == 1
    told = capsys.readouterr().out
    assert "0.7 accepts a wrong answer: double" in told
    assert "66.7% of the wrong answers" in told


def test_a_wrong_answer_refused_elsewhere_counts_as_refused_alone(demo, capsys):
    demo.properties[1].mistake("Nothing.")(lambda x: 0)
    found = survey.count(survey.tried(demo))
    assert (found.refused, found.at_their_own) == (3, 2)
    assert run() == 1
    assert "at: of two\n  own: of three" in capsys.readouterr().out


def test_an_honest_answer_that_is_refused_fails_whatever_the_share(demo, capsys):
    demo.accepts(lambda x: 4 if x == 2 else 7)
    assert run() == 1
    assert "0.7 refuses the honest <lambda>: of three" in capsys.readouterr().out


def test_two_percent_may_be_refused_elsewhere():
    def of(at_their_own):
        return survey.Count(1, 100, 100, at_their_own, 1, 1).enough

    assert of(98)
    assert not of(97)


def test_the_seed_reaches_the_check_and_each_answer_is_tried_once(demo, monkeypatch):
    asked = []

    def outcome(task, function, seed=0, explain=True):
        asked.append((function, seed, explain))
        return Outcome((), 0)

    monkeypatch.setattr(Task, "outcome", outcome)
    run("--seed", "11")
    wanted = [m.answer(double) for m in demo.mistakes] + demo.honest
    assert asked == [(function, 11, False) for function in wanted]


def test_every_lab_of_the_course_is_known():
    assert survey.labs()[:2] == ["01_baseline", "02_moe"]
    assert all(tasks_of(lab) for lab in survey.labs())


def test_a_lab_that_is_none_is_named_with_those_there_are(demo):
    with pytest.raises(ValueError, match="no lab '09_none'; there are: 00_demo"):
        run("--lab", "09_none")
