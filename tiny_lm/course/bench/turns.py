"""Time workloads in turns, so that a noisy machine disturbs all of them alike.

Chapter: 06_together/full_model
Source: course

On a shared machine only ratios of neighbours mean anything. So everything that is
compared is run once a round, and of all rounds the median counts.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

ROUNDS = 15

Step = Callable[[], object]


@dataclass(frozen=True)
class Result:
    """One line of the table; `limit` says what bounds the value."""

    name: str
    value: float
    unit: str
    aim: str = ""
    limit: str = ""


def in_turns(
    workloads: dict[str, Step],
    rounds: int = ROUNDS,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Median seconds of each, all of them once a round, after two rounds unmeasured.

    Args:
        clock: `time.thread_time` stands still while other programs run, and while
            other threads work.
    """
    seconds: dict[str, list[float]] = {name: [] for name in workloads}
    for turn in range(rounds + 2):
        for name, step in workloads.items():
            start = clock()
            step()
            if turn >= 2:
                seconds[name].append(clock() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}
