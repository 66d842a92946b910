"""The checks of lab 03_mla: a cache, who shares it, and the latent that replaces it.

Chapter: 03_mla/memory_of_the_context
Source: course
"""

from tiny_lm.course.checks.mla.absorbed_answers import task_3_8
from tiny_lm.course.checks.mla.cache_bytes import task_3_1
from tiny_lm.course.checks.mla.compress import task_3_4
from tiny_lm.course.checks.mla.decode_answers import task_3_9
from tiny_lm.course.checks.mla.expand import task_3_5
from tiny_lm.course.checks.mla.grouped_padding import task_3_3
from tiny_lm.course.checks.mla.memory_answers import task_3_7
from tiny_lm.course.checks.mla.remember_full import task_3_2
from tiny_lm.course.checks.mla.rotary_heads import task_3_6

__all__ = [
    "task_3_1",
    "task_3_2",
    "task_3_3",
    "task_3_4",
    "task_3_5",
    "task_3_6",
    "task_3_7",
    "task_3_8",
    "task_3_9",
]
