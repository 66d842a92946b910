"""The checks of lab 05_comm: collectives, experts apart, overlap, pipelines.

Chapter: 05_comm/emulated_gpus
Source: course
"""

from tiny_lm.course.checks.comm.bubble_answers import task_5_8
from tiny_lm.course.checks.comm.byte_table import task_5_2
from tiny_lm.course.checks.comm.combine_back import task_5_4
from tiny_lm.course.checks.comm.dispatch_ways import task_5_3
from tiny_lm.course.checks.comm.one_f_one_b_limits import task_5_7
from tiny_lm.course.checks.comm.overlapped_orders import task_5_6
from tiny_lm.course.checks.comm.ranks import gpus
from tiny_lm.course.checks.comm.ring_sizes import task_5_1
from tiny_lm.course.checks.comm.wire_edges import task_5_5

__all__ = [
    "gpus",
    "task_5_1",
    "task_5_2",
    "task_5_3",
    "task_5_4",
    "task_5_5",
    "task_5_6",
    "task_5_7",
    "task_5_8",
]
