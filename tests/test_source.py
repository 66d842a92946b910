"""A function's source, with what it needs to run in a namespace of its own."""

import math

import pytest

from tiny_lm.course.source import run_alone, self_contained


def floor_of(x: float) -> int:
    return math.floor(x)


def test_a_function_with_its_imports_runs_alone():
    text, _ = self_contained(floor_of)
    assert run_alone(text, "floor_of")(2.7) == 2


def test_what_runs_alone_is_what_was_written():
    assert run_alone("def double(x):\n    return 2 * x\n", "double")(4) == 8


def test_a_source_that_lacks_a_name_fails_when_it_runs_alone():
    with pytest.raises(NameError):
        run_alone("def f(x):\n    return x + elsewhere\n", "f")(1)
