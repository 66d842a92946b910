"""Every check refuses the wrong answers that learners give, and says why."""

import subprocess
import sys
from functools import cache

import pytest
import torch

import tiny_lm.course.checks.baseline
import tiny_lm.course.checks.comm
import tiny_lm.course.checks.fp8
import tiny_lm.course.checks.mla
import tiny_lm.course.checks.moe
import tiny_lm.course.checks.together  # noqa: F401  (they list their tasks)
from tiny_lm.course.checks.task import TASKS

BY_ID = sorted(TASKS.values(), key=lambda task: task.id)
EACH = pytest.mark.parametrize("task", BY_ID, ids=lambda task: task.id)


def mistakes():
    """Each mistake with its task and property, under a name that says which it is."""
    for task in BY_ID:
        for n, part in enumerate(task.properties, start=1):
            for mistake in getattr(part, "mistakes", []):
                name = f"{task.id}-{n}-{mistake.name}"
                yield pytest.param(task, part, mistake, id=name)


def honest():
    for task in BY_ID:
        for answer in task.honest:
            yield pytest.param(task, answer, id=f"{task.id}-{answer.__name__}")


@cache
def of_reference(task_id, seed):
    return TASKS[task_id].outcome(TASKS[task_id].reference, seed)


@EACH
def test_reference_passes_its_own_check_for_any_seed(task):
    for seed in range(3):
        outcome = of_reference(task.id, seed)
        assert outcome.holds, task.report(outcome)


@pytest.mark.parametrize("task, part, mistake", [*mistakes()])
def test_mistake_is_refused_at_its_property_and_named(task, part, mistake):
    outcome = task.outcome(mistake.answer(task.reference))
    assert not outcome.holds, "a wrong answer passed"
    told = task.report(outcome)
    assert outcome.failed == part.text, told
    assert outcome.mismatch.because == mistake.says, told


@pytest.mark.parametrize("task, part, mistake", [*mistakes()])
def test_mistake_is_refused_for_a_fresh_seed(task, part, mistake):
    answer = mistake.answer(task.reference)
    assert not task.outcome(answer, seed=11, explain=False).holds


@pytest.mark.parametrize("task, answer", [*honest()])
def test_honest_answer_in_another_style_passes(task, answer):
    for seed in (0, 11):
        outcome = task.outcome(answer, seed)
        assert outcome.holds, task.report(outcome)


@EACH
def test_answer_that_knows_the_visible_examples_fails_for_a_fresh_seed(task):
    """What a learner can see is what a lab's check draws; grading draws others."""
    known, reference = {}, task.reference

    def remembering(*arguments):
        return known.setdefault(_told(arguments), reference(*arguments))

    def reciting(*arguments):
        return known[_told(arguments)]

    remembering.distant = reciting.distant = True  # so that they run in this process
    task.outcome(remembering, explain=False)
    assert not task.outcome(reciting, seed=11, explain=False).holds


def _told(arguments):
    """Arguments as a text that tells them apart; nothing tells living objects apart."""
    plain = [x.tolist() if isinstance(x, torch.Tensor) else x for x in arguments]
    return repr(plain)


@EACH
def test_the_stub_is_not_done_and_not_wrong(task):
    said = f"Task {task.id}: {task.name}"

    def stub(*arguments):
        raise NotImplementedError(said)

    outcome = task.outcome(stub)
    assert not outcome.done, task.report(outcome)


@EACH
def test_task_has_enough_wrong_and_honest_answers(task):
    assert len(task.mistakes) >= 8
    assert len(task.honest) >= 2


@EACH
def test_every_property_refuses_some_mistake(task):
    """But the last, which is what the ones before it add up to."""
    assert all(part.mistakes for part in task.properties[:-1])


@EACH
def test_task_card_is_complete(task):
    assert 1 <= task.difficulty <= 3
    assert 5 <= task.minutes <= 50
    assert task.points >= 1
    assert len(task.hints) == 3
    assert all(len(hint.split()) >= 8 for hint in task.hints)


@EACH
def test_text_of_a_passing_check_is_the_same_for_any_seed_and_holds_no_float(task):
    texts = {task.report(of_reference(task.id, seed)) for seed in range(2)}
    (text,) = texts
    body = text.replace(f"Task {task.id}", "").replace("405B", "")
    assert not any(c == "." and body[i + 1].isdigit() for i, c in enumerate(body[:-1]))


def test_checks_import_no_notebook_tools():
    """A learner's environment has torch and tiny_lm, not the tools of the authors."""
    code = (
        "import sys, tiny_lm.course.checks.baseline, tiny_lm.course.labs.pieces\n"
        "import tiny_lm.course.checks.comm, tiny_lm.course.checks.fp8\n"
        "import tiny_lm.course.checks.mla, tiny_lm.course.checks.moe\n"
        "import tiny_lm.course.checks.together\n"
        "print([m for m in ('jupytext', 'nbformat', 'nbclient', 'pytest', 'IPython')"
        " if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.stdout.strip() == "[]", run.stderr
