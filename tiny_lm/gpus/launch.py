"""Start ranks: processes of this machine that stand for GPUs and are joined by gloo.

Chapter: 05_comm/emulated_gpus
Source: torch_distributed

    with Cluster(4) as gpus:
        gpus.run(lambda rank: rank * 10)      # [0, 10, 20, 30]

A rank is a process of its own: it shares no memory with the others, and what it wants
to know of them has to be sent. Five things make that pleasant to use from a notebook:

- Starting is quick, and happens once: a small server imports torch, every rank is a
  fork of it, and ranks stay alive between calls.
- Any function will do, lambdas and those of a notebook cell included: it travels as
  code, so ranks never run the caller's script or notebook again.
- What ranks print appears where the caller prints, each line behind its rank's number.
- Ranks need no network port: they find each other through a file in a folder that is
  deleted afterwards.
- However it ends, it ends: a rank that raises, dies or loops for ever becomes one error
  that names it, the other ranks are stopped, and ranks die with the process that
  started them. The next call starts new ones.

Under `torchrun`, on real GPUs, the ranks exist already; `torchrun.run_rank` joins them
and calls the same function.
"""

import pickle
import time
import weakref
from collections.abc import Callable, Sequence
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn, Self

import torch.distributed as dist

from tiny_lm.gpus import mesh
from tiny_lm.gpus.attempt import attempt, results
from tiny_lm.gpus.rank import LEAVE_S, Place, serve
from tiny_lm.gpus.start import check_temp as check_temp
from tiny_lm.gpus.start import start_context, use_loopback
from tiny_lm.gpus.team import Team, pack_call


class Cluster:
    """Emulated GPUs that stay warm: `run` calls a function on every one of them.

    Ranks start when the cluster is made. They end with `close()`, with the `with`, when
    nothing refers to the cluster any more, and with the process that made it.

    A call starts as if it were the first: with a fresh default process group, and
    torch's seed, default dtype and threads as they are in a new process. Groups that a
    call makes end with it. Modules that ranks have imported stay; where the file of one
    was edited, new ranks take over.

    Args:
        world_size: number of ranks, at least 1.
        prefix: begin each line that a rank prints with its number. Without it, output
            is handed on as it comes: for a progress bar, which rewrites its line.
        checked: compare the calls of all ranks before they are made, and explain those
            that do not fit (`board`). Costs some microseconds a call.
        start_method: "forkserver" or "spawn"; by default the first that exists here.

    Raises:
        ValueError: `world_size` is not positive, or ranks have no place to meet.
    """

    def __init__(
        self,
        world_size: int,
        *,
        prefix: bool = True,
        checked: bool = True,
        start_method: str | None = None,
    ) -> None:
        if world_size < 1:
            raise ValueError(f"world_size must be at least 1, got {world_size}")
        self.world_size = world_size
        self._options = start_context(start_method), prefix, checked
        self._closed = False
        self._team = self._start()

    def run(
        self, fn: Callable[..., Any], *args: Any, timeout_s: float = 600.0
    ) -> list[Any]:
        """Call `fn(rank, *args)` on every rank, and wait for all of them.

        The default process group is ready when `fn` is called; `mesh.world()` is its
        handle.

        Args:
            timeout_s: for everything, starting included.

        Returns:
            What the calls returned, in rank order.

        Raises:
            ValueError: `timeout_s` is not positive.
            TypeError: `fn` or an argument cannot travel to the ranks.
            RuntimeError: a rank raised, died or was not done in time; the others were
                stopped. The message names the rank and carries its traceback. Or the
                cluster is closed.
        """
        if timeout_s <= 0:
            raise ValueError(f"timeout_s must be positive, got {timeout_s}")
        if self._closed:
            raise RuntimeError("this cluster is closed: make a new one")
        deadline = time.monotonic() + timeout_s
        work = pack_call(fn, args)
        if self._team is None or not self._team.fit:
            self._stop()
            self._team = self._start()
        try:
            results = self._team.call(work, deadline)
        except BaseException as error:
            self._stop()
            # Our own lines would tell nothing.
            raise error.with_traceback(None) from None
        return [pickle.loads(result) for result in results]

    def attempt(
        self, fn: Callable[..., Any], *args: Any, timeout_s: float = 60.0
    ) -> list[Any]:
        """`run` for what may well go wrong: the same ranks go on afterwards.

        Ranks wait before each call until all have come to it. That costs some
        milliseconds, and is why a mistake is told at once and none of them is lost.

        Args:
            timeout_s: as of `run`; a rank that is not done in time is lost even here.

        Returns:
            What the calls returned, in rank order.

        Raises:
            ValueError: the ranks of this cluster do not compare their calls.
            RuntimeError: as `run`.
        """
        if not self._options[-1]:
            raise ValueError("attempt() needs a cluster that compares its calls")
        answers = self.run(attempt, fn, *args, timeout_s=timeout_s)
        return results(answers, self._team.board)

    def close(self) -> None:
        """End the ranks; closing twice is fine."""
        self._closed = True
        if self._team:
            self._team.stop(LEAVE_S)
        self._stop()

    def _start(self) -> Team:
        team = Team(self.world_size, _be_rank, *self._options)
        self._end = weakref.finalize(self, team.stop)
        return team

    def _stop(self) -> None:
        self._team = None
        self._end()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Cluster stays with the process that made it")


def run_ranks(
    world_size: int,
    fn: Callable[..., Any],
    *args: Any,
    timeout_s: float = 600.0,
    prefix: bool = False,
    checked: bool = True,
    start_method: str | None = None,
) -> list[Any]:
    """Start ranks for one call: `Cluster(world_size).run(fn, *args)`, and end them.

    For programs, whose output is their own: it is handed on as it comes.

    Args:
        world_size, prefix, checked, start_method: as of `Cluster`.
        timeout_s: as of `Cluster.run`.

    Returns:
        What the calls returned, in rank order.

    Raises:
        ValueError: `world_size` or `timeout_s` is not positive.
        RuntimeError: as `Cluster.run`.
    """
    if timeout_s <= 0:
        raise ValueError(f"timeout_s must be positive, got {timeout_s}")
    options = {"prefix": prefix, "checked": checked, "start_method": start_method}
    with Cluster(world_size, **options) as gpus:
        return gpus.run(fn, *args, timeout_s=timeout_s)


# What a rank does to meet the others.


def _be_rank(place: Place, pipe: Connection, outputs: Sequence[Connection]) -> None:
    serve(place, pipe, outputs, _Gloo())


class _Gloo:
    """The wires of emulated GPUs."""

    def join(self, place: Place, run: int) -> None:
        use_loopback()
        dist.set_debug_level_from_env()  # torch read it before the caller could set it
        path = Path(place.folder, f"store-{run}")
        dist.init_process_group(
            "gloo",
            store=dist.FileStore(str(path), place.world_size),
            rank=place.number,
            world_size=place.world_size,
            timeout=timedelta(days=30),  # the caller's time limits are shorter
        )
        dist.barrier()  # without it, a rank that is done early can leave others hanging

    def part(self) -> None:
        if dist.is_initialized():  # the call may have left by itself
            dist.destroy_process_group()

    def traffic(self) -> tuple[int, int]:
        if not dist.is_initialized():
            return 0, 0
        return mesh.operations(), dist.distributed_c10d._world.group_count
