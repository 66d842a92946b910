"""The steps of a lab's training: as many on a busy machine as on an idle one.

Chapter: index
Source: course
"""

import os
from collections.abc import Iterator


def training_steps(count: int) -> Iterator[tuple[int, float]]:
    """Count steps: (step, share of the training that is done).

    There is always one step. The environment variable TINY_LM_LAB_STEPS shortens
    every training of a lab: tests of a lab need its end, not its result.

    Raises:
        ValueError: the variable holds no number of steps.
    """
    limit = os.environ.get("TINY_LM_LAB_STEPS") or str(count)
    if not limit.isdecimal():
        raise ValueError(f"TINY_LM_LAB_STEPS is a number of steps, got {limit!r}")
    count = max(1, min(count, int(limit)))
    for step in range(count):
        yield step, step / count
