"""The checks of lab 06_together: a bill, a loss and its cost, and who gets credit.

Chapter: 06_together/full_model
Source: course
"""

from tiny_lm.course.checks.together.along import task_6_3
from tiny_lm.course.checks.together.bill import task_6_1
from tiny_lm.course.checks.together.credit import task_6_4
from tiny_lm.course.checks.together.reached import task_6_2

__all__ = ["task_6_1", "task_6_2", "task_6_3", "task_6_4"]
