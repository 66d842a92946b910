"""The checks of lab 02_moe: a layer of experts and its balance.

Chapter: 02_moe/conditional_computation
Source: course
"""

from tiny_lm.course.checks.moe.bias import task_2_6
from tiny_lm.course.checks.moe.layer import task_2_8
from tiny_lm.course.checks.moe.load import task_2_5
from tiny_lm.course.checks.moe.sequence import task_2_7

__all__ = ["task_2_5", "task_2_6", "task_2_7", "task_2_8"]
