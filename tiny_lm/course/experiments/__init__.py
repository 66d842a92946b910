"""Recorded experiments: comparisons too long for a page to run, and their results.

Chapter: 02_moe/conditional_computation
Source: course

    make experiments

trains what is not trained yet and writes `chapters/_results`. A page reads a result
with `experiments.read("moe_equal_flops")`.
"""

from tiny_lm.course.experiments.records import NAMES as NAMES
from tiny_lm.course.experiments.records import read as read
