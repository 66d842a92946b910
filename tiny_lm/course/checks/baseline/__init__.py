"""The checks of lab 01_baseline: a language model and what it costs.

Chapter: 01_baseline/probability_machine
Source: course
"""

from tiny_lm.course.checks.baseline.attention import task_1_3
from tiny_lm.course.checks.baseline.batches import task_1_2
from tiny_lm.course.checks.baseline.bits import task_1_1
from tiny_lm.course.checks.baseline.cost import task_1_4
from tiny_lm.course.checks.baseline.sampling import task_1_6
from tiny_lm.course.checks.baseline.step import task_1_5

__all__ = ["task_1_1", "task_1_2", "task_1_3", "task_1_4", "task_1_5", "task_1_6"]
