"""Emulated GPUs that a whole lab shares, checks and cells alike: they start once.

Chapter: 05_comm/emulated_gpus
Source: course
"""

from functools import cache

from tiny_lm.gpus.launch import Cluster


@cache
def gpus(world_size: int = 4) -> Cluster:
    """The lab's ranks, warm from the first call on; they end with this process."""
    return Cluster(world_size)
