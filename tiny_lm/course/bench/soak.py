"""Run many calls in a row on emulated GPUs, and tell whether every one of them worked.

    python -m tiny_lm.course.bench.soak

A cluster is trusted by whoever has run it a thousand times, and it is used hundreds of
times in a notebook. So: 200 calls at 4 ranks and 50 at 8, on clusters that stay warm;
every tenth call fails on purpose, in turn by an error, a kill and a call that does not
fit, and the next has to work all the same. At the end no process may be left.
"""

import os
import signal
import sys
import time
from statistics import median

import torch

from tiny_lm import console
from tiny_lm.gpus import comm, mesh
from tiny_lm.gpus.launch import Cluster
from tiny_lm.gpus.mesh import Mesh

ROUNDS = ((4, 200), (8, 50))  # ranks, calls
FAIL_EVERY = 10


def work(rank: int, number: int) -> tuple[int, float, float]:
    """Talk in the world and in the rows of a mesh; what each rank must get is known.

    Returns:
        Process id, the sum over all ranks, and the sum over a row of two.
    """
    world = mesh.world()
    total = comm.all_reduce(torch.tensor(float(rank + number)), world)
    row = Mesh({"dp": world.size // 2, "ep": 2})["ep"]
    counts = [1] * 2
    shared = comm.all_to_all(torch.full((2,), float(rank)), counts, counts, row)
    return os.getpid(), total.item(), shared.sum().item()


def expected(rank: int, number: int, size: int) -> tuple[float, float]:
    """The two sums of `work`."""
    return size * (size - 1) / 2 + size * number, float(4 * (rank // 2) + 1)


def fail(rank: int, how: int) -> None:
    """Raise, die, or call what the others do not."""
    if rank == 1 and how == 0:
        raise ValueError("on purpose")
    if rank == 1 and how == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if rank != 1 or how == 2:
        comm.all_reduce(torch.ones(2 if rank == 1 else 3), mesh.world())


FAILURES = ("rank 1 raised", "rank 1 was killed", "has shape [3]")


def soak(size: int, calls: int) -> tuple[list[float], list[float], set[int]]:
    """Make the calls on one cluster.

    Returns:
        Seconds of each call that should work, of each that should fail, and the
        processes that took part.

    Raises:
        RuntimeError: a call did not end as it should.
    """
    worked, failed, pids = [], [], set()
    with Cluster(size) as gpus:
        for number in range(calls):
            started = time.perf_counter()
            results = gpus.run(work, number, timeout_s=60.0)
            worked.append(time.perf_counter() - started)
            for rank, (pid, *sums) in enumerate(results):
                pids.add(pid)
                if tuple(sums) != expected(rank, number, size):
                    raise RuntimeError(f"call {number}: rank {rank} got {sums}")
            if number % FAIL_EVERY == FAIL_EVERY - 1:
                failed.append(_fail_once(gpus, number // FAIL_EVERY % 3))
    return worked, failed, pids


def _fail_once(gpus: Cluster, how: int) -> float:
    started = time.perf_counter()
    try:
        gpus.run(fail, how, timeout_s=60.0)
    except RuntimeError as error:
        if FAILURES[how] not in str(error):
            raise
        return time.perf_counter() - started
    raise RuntimeError(f"a call that fails was not noticed: {FAILURES[how]}")


def _left(pids: set[int]) -> list[int]:
    alive = []
    for pid in pids:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            continue
        alive.append(pid)
    return alive


def main() -> int:
    """Run all rounds and print a table.

    Returns:
        0 where every call ended as it should and no process is left.
    """
    print("ranks  calls  failures  median ms  longest ms  failure ms  left")
    for size, calls in ROUNDS:
        worked, failed, pids = soak(size, calls)
        left = _left(pids)
        times = [1e3 * s for s in (median(worked), max(worked), median(failed))]
        figures = "  ".join(f"{t:>9.0f}" for t in times)
        print(f"{size:>5}  {calls:>5}  {len(failed):>8}  {figures}  {len(left):>4}")
        if left:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(console.run(main))
