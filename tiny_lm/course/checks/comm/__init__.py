"""The checks of lab 05_comm: collectives, experts apart, overlap, pipelines.

Chapter: 05_comm/emulated_gpus
Source: course
"""

from tiny_lm.course.checks.comm.byte_table import task_5_2
from tiny_lm.course.checks.comm.ranks import gpus
from tiny_lm.course.checks.comm.ring_sizes import task_5_1

__all__ = [
    "gpus",
    "task_5_1",
    "task_5_2",
]
