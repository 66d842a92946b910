"""The checks of lab 04_fp8: bytes and scales, products of codes, sums, and a gap.

Chapter: 04_fp8/eight_bits
Source: course
"""

from tiny_lm.course.checks.fp8.block_edges import task_4_4
from tiny_lm.course.checks.fp8.gap_answers import task_4_8
from tiny_lm.course.checks.fp8.limits import task_4_2
from tiny_lm.course.checks.fp8.linear_back import task_4_6
from tiny_lm.course.checks.fp8.no_numbers import task_4_1
from tiny_lm.course.checks.fp8.scaled_rows import task_4_5
from tiny_lm.course.checks.fp8.short_steps import task_4_7
from tiny_lm.course.checks.fp8.tile_edges import task_4_3

__all__ = [
    "task_4_1",
    "task_4_2",
    "task_4_3",
    "task_4_4",
    "task_4_5",
    "task_4_6",
    "task_4_7",
    "task_4_8",
]
