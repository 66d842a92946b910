"""Start ranks: processes of this machine that stand for GPUs and are joined by gloo.

Chapter: 05_comm
Source: torch_distributed

    def work(rank):
        return rank * 10

    run_ranks(4, work)      # [0, 10, 20, 30]

A rank is a process of its own: it shares no memory with the others, and what it wants
to know of them has to be sent. Four things make that pleasant to use from a notebook:

- Starting is quick: a small server imports torch once, and every rank is a fork of it.
- Any function will do, lambdas and those of a notebook cell included: it travels as
  code, so ranks never run the caller's script or notebook again.
- Ranks need no network port: they find each other through a file in a folder that is
  deleted afterwards.
- However it ends, it ends: a rank that raises, dies or loops for ever becomes one error
  that names it, the other ranks are stopped, and ranks die with the process that
  started them.

Under `torchrun`, on real GPUs, the ranks exist already; `run_torchrun_rank` joins them
and calls the same function.
"""

import faulthandler
import linecache
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.util import get_temp_dir
from pathlib import Path
from typing import Any

import cloudpickle
import torch
import torch.distributed as dist

from tiny_lm.gpus.start import start_context, start_process
from tiny_lm.gpus.watch import LEAVE_S, Rank, await_results


@dataclass(frozen=True)
class _Task:
    """All a rank needs to know, in a form that any start method can carry."""

    world_size: int
    folder: str  # where ranks meet, and where each writes down what it was doing
    deadline: float  # time.time() at which the caller stops waiting
    call: bytes
    sources: dict[str, tuple]  # source lines of notebook cells, for tracebacks
    environ: dict[str, str]

    def notes(self, number: int) -> Path:
        """The file in which a rank writes where it was when time ran out."""
        return Path(self.folder, f"{number}.txt")


def run_ranks(
    world_size: int,
    fn: Callable[..., Any],
    *args: Any,
    timeout_s: float = 600.0,
    start_method: str | None = None,
) -> list[Any]:
    """Call `fn(rank, *args)` on every rank, each a process, and wait for all of them.

    The default process group is ready when `fn` is called; `mesh.world()` is its
    handle. What ranks print appears where the caller prints.

    Args:
        world_size: number of ranks, at least 1.
        timeout_s: for everything, starting included.
        start_method: "forkserver" or "spawn"; by default the first that exists here.

    Returns:
        What the calls returned, in rank order.

    Raises:
        ValueError: `world_size` or `timeout_s` is not positive.
        RuntimeError: a rank raised, died or was not done in time; the others were
            stopped. The message names the rank and carries its traceback.
    """
    if world_size < 1:
        raise ValueError(f"world_size must be at least 1, got {world_size}")
    if timeout_s <= 0:
        raise ValueError(f"timeout_s must be positive, got {timeout_s}")
    deadline = time.time() + timeout_s
    ranks: list[Rank] = []
    patience_s = 0.0
    with tempfile.TemporaryDirectory(dir=get_temp_dir()) as folder:
        task = _pack(world_size, folder, deadline, fn, args)
        context = start_context(start_method)
        try:
            for number in range(world_size):
                ranks.append(_start(context, number, task))
            await_results(ranks, deadline)
            for rank in ranks:
                rank.release()
            patience_s = LEAVE_S
        finally:
            for rank in ranks:
                rank.stop(patience_s)
    return [pickle.loads(rank.result) for rank in ranks]


def _pack(
    world_size: int, folder: str, deadline: float, fn: Callable, args: tuple
) -> _Task:
    cells = {
        name: entry
        for name, entry in linecache.cache.items()
        if len(entry) == 4 and entry[1] is None  # no time of change: not a file on disk
    }
    return _Task(
        world_size=world_size,
        folder=folder,
        deadline=deadline,
        call=cloudpickle.dumps((fn, args)),
        sources=cells,
        environ=dict(os.environ),
    )


def _start(context: BaseContext, number: int, task: _Task) -> Rank:
    ours, theirs = context.Pipe()
    with theirs:
        process = start_process(
            context, _be_rank, number, theirs, task, name=f"rank {number}"
        )
    return Rank(number, process, ours, task.notes(number))


# What runs inside a rank.


def _be_rank(number: int, pipe: Connection, task: _Task) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the caller's to handle
    threading.Thread(target=_end_with_caller, args=(task.folder,), daemon=True).start()
    with open(task.notes(number), "w") as notes:
        faulthandler.dump_traceback_later(
            max(task.deadline - time.time(), 0.01), file=notes
        )
        message = _work(number, task)
        faulthandler.cancel_dump_traceback_later()
    sys.stdout.flush()
    pipe.send_bytes(pickle.dumps(message))
    pipe.poll(LEAVE_S)
    if dist.is_initialized():
        dist.destroy_process_group()


def _end_with_caller(folder: str) -> None:
    wait([multiprocessing.parent_process().sentinel])
    # The folder lies in one that multiprocessing made and would have deleted.
    shutil.rmtree(Path(folder).parent, ignore_errors=True)
    os._exit(1)


def _work(number: int, task: _Task) -> tuple[bool, bytes | str]:
    """Join the others and make the call; the result as bytes, or a traceback."""
    try:
        _settle_in(task)
        fn, args = pickle.loads(task.call)
        _join(number, task)
        return True, cloudpickle.dumps(fn(number, *args))
    except BaseException as error:
        frames = error.__traceback__.tb_next
        return False, "".join(traceback.format_exception(error.with_traceback(frames)))


def _settle_in(task: _Task) -> None:
    os.environ.clear()
    os.environ.update(task.environ)
    linecache.cache.update(task.sources)
    sys.stdout.reconfigure(line_buffering=True, write_through=False)  # whole lines
    torch.set_num_threads(1)


def _join(number: int, task: _Task) -> None:
    _use_loopback()
    store = dist.FileStore(str(Path(task.folder, "store")), task.world_size)
    dist.init_process_group(
        "gloo",
        store=store,
        rank=number,
        world_size=task.world_size,
        timeout=timedelta(seconds=max(task.deadline - time.time(), 0.0) + 60.0),
    )
    dist.barrier()  # without it, a rank that is done early can leave others hanging


def _use_loopback() -> None:
    """Keep gloo on this machine, whatever its host name resolves to."""
    names = {name for _, name in socket.if_nameindex()}
    for loopback in ("lo", "lo0"):
        if loopback in names:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", loopback)


# Ranks that torchrun has started.


def under_torchrun() -> bool:
    """Whether this process is a rank that torchrun started."""
    return dist.is_torchelastic_launched()


def join_torchrun(device: str = "cpu") -> tuple[int, int, torch.device]:
    """Join the other ranks that torchrun started: by NCCL on CUDA, by gloo on a CPU.

    Args:
        device: "cpu" or "cuda"; each rank of a machine takes a GPU of its own.

    Returns:
        rank, number of ranks, and the device of this rank.

    Raises:
        RuntimeError: this process was not started by torchrun, or it has no such GPU.
    """
    if not under_torchrun():
        raise RuntimeError("not under torchrun: start with `torchrun -m tiny_lm train`")
    local_rank = int(os.environ["LOCAL_RANK"])
    place = torch.device(device)
    if place.type == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise RuntimeError(
                f"local rank {local_rank} has no GPU of its own: "
                f"{torch.cuda.device_count()} here"
            )
        place = torch.device("cuda", local_rank)
        torch.cuda.set_device(place)
        dist.init_process_group("nccl", device_id=place)
    else:
        if os.environ["LOCAL_WORLD_SIZE"] == os.environ["WORLD_SIZE"]:
            _use_loopback()
        dist.init_process_group("gloo")
    dist.barrier()
    return dist.get_rank(), dist.get_world_size(), place


def leave() -> None:
    """Leave the process group when all ranks are done."""
    dist.barrier()
    dist.destroy_process_group()


def run_torchrun_rank(
    fn: Callable[..., Any], *args: Any, device: str = "cpu"
) -> tuple[int, Any]:
    """Be one of torchrun's ranks: join, call `fn(rank, *args)`, leave.

    The same `fn` runs under `run_ranks`. After an exception there is no leaving, which
    would wait for the others: it goes up, and torchrun stops them.

    Returns:
        rank, and what `fn` returned on it.
    """
    rank, _, _ = join_torchrun(device)
    result = fn(rank, *args)
    leave()
    return rank, result
