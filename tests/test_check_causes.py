"""A cause is named where it is one, and not where it only coincides."""

import torch

from tiny_lm.course.checks.case import case
from tiny_lm.course.checks.mutants import mutants
from tiny_lm.course.checks.task import TASKS, Task


def positive(x):
    """The reference of one test."""
    twice = 2 * x
    return torch.where(twice > 0, x, 0.0)


def held(x, largest):
    """The reference of the other."""
    return x.clamp(max=largest)


def test_what_is_only_compared_is_not_said_to_have_been_changed():
    said = {mutant.says for mutant in mutants(positive)}
    assert "In one place `x` went through a sigmoid." in said  # it comes out
    assert "Something went through a sigmoid." not in said  # `twice` does not
    assert "A comparison takes equals to the wrong side: `<` is not `<=`." in said


def test_an_argument_is_used_if_it_matters_on_any_input_where_it_should():
    counts = {"difficulty": 1, "minutes": 1, "points": 1, "hints": ("a", "b", "c")}
    about = {"title": "held", "name": "held", "piece": "demo.held", "lab": "00_demo"}
    made = Task(id="0.5", reference=held, returns=("y",), **about, **counts)
    small = (case([0.1 * n, 0.2], 9.0) for n in range(12))  # nothing is held here
    made.asks("held", *small, case([torch.inf], 4.0), case([5.0, 7.0], 4.0))

    def told(answer):
        return made.outcome(answer).mismatch.because

    try:
        kept = told(lambda x, largest: torch.where(x.isinf(), x, held(x, largest)))
        assert "used" not in kept
        assert told(lambda x, largest: held(x, 4.5)) == (
            "Is `largest` used? With another, the same comes out."
        )
    finally:
        del TASKS["0.5"]
