"""The checks of lab 02_moe: a mixture of experts and what keeps it balanced.

Chapter: 02_moe/conditional_computation
Source: course
"""

from tiny_lm.course.checks.moe.bias import task_2_6
from tiny_lm.course.checks.moe.experts_answers import task_2_4
from tiny_lm.course.checks.moe.gate import task_2_2
from tiny_lm.course.checks.moe.groups import task_2_3
from tiny_lm.course.checks.moe.layer_answers import task_2_8
from tiny_lm.course.checks.moe.load import task_2_5
from tiny_lm.course.checks.moe.score import task_2_1
from tiny_lm.course.checks.moe.sequence import task_2_7

__all__ = [
    "task_2_1",
    "task_2_2",
    "task_2_3",
    "task_2_4",
    "task_2_5",
    "task_2_6",
    "task_2_7",
    "task_2_8",
]
