"""The checks of lab 04_fp8: bytes as numbers, rounding, and who shares a scale.

Chapter: 04_fp8
Source: course
"""

from tiny_lm.course.checks.fp8.block_edges import task_4_4
from tiny_lm.course.checks.fp8.limits import task_4_2
from tiny_lm.course.checks.fp8.no_numbers import task_4_1
from tiny_lm.course.checks.fp8.tile_edges import task_4_3

__all__ = ["task_4_1", "task_4_2", "task_4_3", "task_4_4"]
