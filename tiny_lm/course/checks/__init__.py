"""The checks of the labs: one folder a lab, and what they share.

Chapter: index
Source: course

`task` holds what a task is and how it is checked, `answer` calls the learner's
function, `expect` compares, `report` prints, `aid` gives hints and solutions.
Beside each task lies a `…_mutants` module: wrong answers that its check must refuse,
and honest ones that it must accept.
"""

from tiny_lm.course.checks.aid import hint, show_solution
from tiny_lm.course.checks.task import CheckFailed, Task

__all__ = ["CheckFailed", "Task", "hint", "show_solution"]
