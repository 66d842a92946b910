"""What a check tells: the report, the hints, the solution after an honest try."""

import contextlib
import io

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

import tiny_lm.course.checks.baseline
import tiny_lm.course.checks.moe  # noqa: F401  (both list their tasks)
from tiny_lm.course.checks import CheckFailed, hint, show_solution
from tiny_lm.course.checks import task as task_module
from tiny_lm.course.checks.answer import Answer
from tiny_lm.course.checks.case import case, probe
from tiny_lm.course.checks.expect import Mismatch, close, show, told
from tiny_lm.course.checks.task import TASKS, Task

BY_ID = sorted(TASKS.values(), key=lambda task: task.id)


@pytest.fixture
def demo():
    """A task with one property, not listed among the course's."""
    task = Task(
        id="0.1",
        lab="00_demo",
        title="Double it",
        name="double",
        piece="demo.double",
        difficulty=1,
        minutes=1,
        points=1,
        reference=lambda x: 2 * x,
        errors={"division": "Nothing has to be divided."},
        hints=("a nudge here", "the idea here", "the line here"),
    )
    twice = task.asks("twice three is six", case(3))
    twice.mistake("This is the square.")(lambda x: x * x)
    task.asks("twice zero is zero", case(0))
    last = task_module._last
    yield task
    del TASKS["0.1"]
    task_module._last = last


def printed_by_check(task, function) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(CheckFailed):
        task(function)
    return out.getvalue()


# ---- what the learner reads


def test_report_of_a_failure_names_property_input_wanted_got_and_mistake(demo):
    text = printed_by_check(demo, lambda x: x * x)
    assert "0 of 2" in text
    assert "✗ twice three is six" in text
    assert "on     x = 3" in text
    assert "wanted 6" in text
    assert "got    9" in text
    assert "This is the square." in text
    assert "– twice zero is zero" in text
    assert "hint(1) shows a nudge." in text


def test_report_counts_what_held_before_the_failure(demo):
    text = printed_by_check(demo, lambda x: 6)
    assert "✓ twice three is six" in text
    assert "✗ twice zero is zero" in text
    assert "1 of 2" in text


def test_report_of_a_pass_says_points(demo):
    text = printed_by_check(demo, lambda x: x + x)
    assert "2 of 2" in text
    assert "passed: 1 point" in text


def test_stub_is_told_as_not_done_and_still_fails(demo):
    def stub(x):
        raise NotImplementedError("Task 0.1: double")

    with pytest.raises(CheckFailed, match="Task 0.1 is not done yet"):
        demo(stub)
    assert "not done yet" in printed_by_check(demo, stub)
    assert demo.attempts == 0


def test_the_reference_under_the_learners_name_is_not_taken_for_an_answer(demo):
    """After `pieces.use` the name of an unsolved task belongs to the reference."""
    with pytest.raises(CheckFailed, match="Run the cell with your answer again"):
        demo(demo.reference)
    assert demo.accepted is None
    assert demo.attempts == 0


def test_torchs_own_not_implemented_error_is_not_taken_for_the_stub(demo):
    def half(x):
        raise NotImplementedError('"log_softmax" not implemented for Long')

    assert "log_softmax" in printed_by_check(demo, half)
    assert demo.attempts == 1


def helper_that_breaks(x):
    return x / 0  # the line to be shown


def test_error_shows_the_learners_own_line(demo):
    def answer(x):
        return helper_that_breaks(x) + 1

    text = printed_by_check(demo, answer)
    assert "return x / 0  # the line to be shown" in text
    assert "in helper_that_breaks, line" in text
    assert "ZeroDivisionError: division by zero" in text
    assert "Nothing has to be divided." in text
    assert "answer.py" not in text


def test_wrong_number_of_arguments_shows_the_call_that_was_made(demo):
    text = printed_by_check(demo, lambda: 6)
    assert "on     double(3)" in text
    assert "before its first line ran" in text
    assert "positional argument" in text


def test_what_cannot_be_compared_is_told_not_raised(demo):
    text = printed_by_check(demo, lambda x: "six")
    assert "✗ twice three is six" in text
    assert "'six'" in text


def test_error_in_a_check_of_strange_output_is_told(demo):
    use = probe("a call")(lambda answer, generator: answer(1).shape)
    demo.asks("has a length", use)
    text = printed_by_check(demo, lambda x: 2 * x)
    assert "✗ has a length" in text
    assert "got    2, a int" in text
    assert "This cannot be compared" in text


def test_learners_prints_show_on_failure_alone(demo):
    def loud(x):
        print("x is", x)
        return 2 * x if x else 1

    text = printed_by_check(demo, loud)
    assert "your function printed" in text
    assert "x is 0" in text
    assert "x is 3" not in text

    def right(x):
        print("x is", x)
        return 2 * x

    assert "x is" not in printed_by_check(demo, right)


def test_changed_argument_is_refused():
    def double(x):
        x *= 2
        return x

    with pytest.raises(Mismatch, match="double") as failure:
        Answer(double, "double")(torch.ones(2))
    assert "in place" in failure.value.because


def test_check_leaves_global_random_numbers_alone(demo):
    torch.manual_seed(3)
    wanted = torch.rand(2)
    torch.manual_seed(3)
    demo(lambda x: 2 * x + 0 * int(torch.rand(()).item()))
    assert torch.equal(torch.rand(2), wanted)


def test_check_failed_is_shown_without_traceback(capsys):
    shell = InteractiveShell.instance()
    code = (
        "from tiny_lm.course.checks import CheckFailed\n"
        "raise CheckFailed('Task 0.1 is not passed yet.')"
    )
    result = shell.run_cell(code)
    shown = "".join(capsys.readouterr())
    InteractiveShell.clear_instance()
    assert isinstance(result.error_in_exec, CheckFailed)
    assert "Task 0.1 is not passed yet." in shown
    assert "Traceback" not in shown


# ---- hints and solutions


def test_hints_go_from_nudge_to_line_for_the_task_checked_last(demo, capsys):
    demo(lambda x: 2 * x)
    capsys.readouterr()
    for number, text in enumerate(("a nudge", "the idea", "the line"), start=1):
        hint(number)
        shown = capsys.readouterr().out
        assert f"Task 0.1, hint {number} of 3" in shown
        assert f"{text} here" in shown


def test_hint_names_what_exists():
    with pytest.raises(ValueError, match="hints 1, 2 and 3"):
        hint(4, "1.1")
    with pytest.raises(ValueError, match="no task '9.9'; there are: 1.1, 1.2"):
        hint(1, "9.9")


def test_hint_before_any_check_asks_for_the_task(monkeypatch):
    monkeypatch.setattr(task_module, "_last", None)
    with pytest.raises(ValueError, match="name the task"):
        hint()


def test_solution_waits_for_an_honest_try(monkeypatch, capsys):
    task = TASKS["1.1"]
    monkeypatch.setattr(task, "attempts", 0)
    show_solution("1.1")
    assert "try first" in capsys.readouterr().out
    task.attempts = 1
    show_solution("1.1")
    shown = capsys.readouterr().out
    assert "def bits_per_byte(" in shown
    assert "SOLUTION" not in shown


@pytest.mark.parametrize("task", BY_ID, ids=lambda task: task.id)
def test_solution_of_every_task_is_found(task, monkeypatch, capsys):
    monkeypatch.setattr(task, "attempts", 1)
    show_solution(task.id)
    assert f"def {task.name}(" in capsys.readouterr().out


def test_report_points_to_the_solution_after_three_tries(demo):
    tries = [printed_by_check(demo, lambda x: x) for _ in range(3)]
    assert "show_solution" not in tries[1]
    assert 'show_solution("0.1")' in tries[2]


# ---- comparing and showing


def test_close_wants_equal_shapes_and_takes_nan_for_nan():
    assert close(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.nan]))
    assert not close(torch.ones(2), torch.ones(1, 2))
    assert close(1.0, torch.tensor(1.00001))
    assert not close(1.0, 1.01)


def test_shapes_are_told_apart():
    wanted, got = told(torch.ones(2), torch.ones(3))
    assert "shape (3,)" in wanted
    assert "shape (2,)" in got


def test_show_is_short_enough_to_read():
    assert show(torch.tensor([[0.123456, 2.0]])) == "[[0.1235, 2]]"
    assert show(torch.arange(100)) == "[0, 1, 2, 3, 4, 5, …]"
    assert show((1, 2.5, "a")) == "(1, 2.5, 'a')"
    assert show(1234567) == "1,234,567"
    assert len(show("x" * 500)) <= 80
