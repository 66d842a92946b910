"""Loops that stop by the clock, so that a cell takes as long as it says anywhere.

Chapter: index
Source: course
"""

import os
import time
from collections.abc import Iterator


def steps_within(seconds: float) -> Iterator[tuple[int, float]]:
    """Count steps until the time is up: (step, share of the time that is gone).

    There is always one step. The environment variable TINY_LM_LAB_SECONDS shortens
    every such loop: tests of a lab need its end, not its result.
    """
    seconds = min(seconds, float(os.environ.get("TINY_LM_LAB_SECONDS", "inf")))
    start, step, share = time.perf_counter(), 0, 0.0
    while share < 1:
        yield step, share
        step += 1
        share = (time.perf_counter() - start) / seconds
