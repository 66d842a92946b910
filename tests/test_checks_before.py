"""Tasks in their earlier form: each check refuses usual wrong answers."""

import importlib
import pkgutil

import pytest

import tiny_lm.course.checks as checks
from tiny_lm.course.checks.before.mutants import HONEST, WRONG

for found in pkgutil.walk_packages(checks.__path__, f"{checks.__name__}."):
    importlib.import_module(found.name)

BY_ID = sorted({m.task.id: m.task for m in WRONG}.values(), key=lambda task: task.id)


def name_of(case) -> str:
    task, function = (case.task, case.function) if hasattr(case, "task") else case
    return f"{task.id}-{function.__name__}"


@pytest.mark.parametrize("task", BY_ID, ids=lambda task: task.id)
def test_reference_passes_its_own_check_for_any_seed(task):
    for seed in range(3):
        outcome = task.outcome(task.reference, seed)
        assert outcome.holds, outcome.mismatch


@pytest.mark.parametrize("mutant", WRONG, ids=name_of)
def test_wrong_answer_is_refused_for_its_own_reason(mutant):
    outcome = mutant.task.outcome(mutant.function)
    assert not outcome.holds, "a wrong answer passed"
    told = mutant.task.report(outcome)
    assert outcome.failed == mutant.caught_by, told
    assert mutant.says in " ".join(told.split()), told


@pytest.mark.parametrize("mutant", WRONG, ids=name_of)
def test_wrong_answer_is_refused_for_a_fresh_seed(mutant):
    assert not mutant.task.outcome(mutant.function, seed=11).holds


@pytest.mark.parametrize("answer", HONEST, ids=name_of)
def test_honest_answer_in_another_style_passes(answer):
    task, function = answer
    for seed in (0, 11):
        outcome = task.outcome(function, seed)
        assert outcome.holds, task.report(outcome)


@pytest.mark.parametrize("task", BY_ID, ids=lambda task: task.id)
def test_task_has_enough_wrong_and_honest_answers(task):
    wrong = [m for m in WRONG if m.task is task]
    assert len(wrong) >= 5
    assert len([m for m in wrong if m.says]) >= 4
    assert len([t for t, _ in HONEST if t is task]) >= 2


@pytest.mark.parametrize("task", BY_ID, ids=lambda task: task.id)
def test_every_property_refuses_some_wrong_answer(task):
    refusing = {m.caught_by for m in WRONG if m.task is task}
    definitions = {"equals_definition"}  # what the properties before it add up to
    assert {p.key for p in task.properties} - refusing <= definitions
