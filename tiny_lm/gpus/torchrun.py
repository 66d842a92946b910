"""Ranks that exist already: those that `torchrun` starts, one a GPU.

Chapter: 05_comm/emulated_gpus
Source: torch_distributed

`torchrun` tells each of its processes by environment variables which rank it is. Other
launchers, and shells that were opened from a rank, leave variables of the same names
behind. So they count only together, and only where they make sense together.

Where a rank dies, torchrun ends the others and starts all of them again
(`--max-restarts`). It does not start its store again, through which ranks tell each
other their addresses, so the new ones would find those of the dead. `apart_from_dead`
is about that.
"""

import os
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from tiny_lm.gpus.pending import nothing_left_open
from tiny_lm.gpus.start import use_loopback

NUMBERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")


@dataclass(frozen=True)
class Placement:
    """Which of torchrun's ranks this process is; `local_` counts on this machine."""

    rank: int
    world_size: int
    local_rank: int
    local_size: int


def under_torchrun() -> bool:
    """Whether this process is a rank that torchrun started."""
    return dist.is_torchelastic_launched()


def placement() -> Placement | None:
    """Which rank torchrun made of this process; None where there is no torchrun.

    Raises:
        ValueError: a variable of torchrun's is missing, no number, or contradicts
            another.
    """
    if not under_torchrun():
        return None
    found = {name: os.environ.get(name, "") for name in (*NUMBERS, "MASTER_ADDR")}
    whole = all(found[name].isdecimal() for name in NUMBERS) and found["MASTER_ADDR"]
    if whole:
        rank, size, local_rank, local_size, _ = (int(found[name]) for name in NUMBERS)
        if local_rank < local_size <= size and rank < size:
            return Placement(rank, size, local_rank, local_size)
    shown = ", ".join(f"{name}={value or 'unset'}" for name, value in found.items())
    raise ValueError(
        f"TORCHELASTIC_RUN_ID says that torchrun started this, and {shown} does not "
        "fit: start it with torchrun, or unset TORCHELASTIC_RUN_ID"
    )


def join(device: str = "cpu") -> tuple[int, int, torch.device]:
    """Join the other ranks that torchrun started: by NCCL on CUDA, by gloo on a CPU.

    Args:
        device: "cpu" or "cuda"; each rank of a machine takes a GPU of its own.

    Returns:
        rank, number of ranks, and the device of this rank.

    Raises:
        RuntimeError: this process was not started by torchrun.
        ValueError: torchrun's variables do not fit, or there is no such GPU.
    """
    here = placement()
    if here is None:
        raise RuntimeError("not under torchrun: start with `torchrun -m tiny_lm train`")
    place = torch.device(device)
    if place.type == "cuda":
        if here.local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"local rank {here.local_rank} has no GPU of its own: "
                f"{torch.cuda.device_count()} here"
            )
        place = torch.device("cuda", here.local_rank)
        torch.cuda.set_device(place)
        dist.init_process_group("nccl", device_id=place, **_meet())
    else:
        if here.local_size == here.world_size:
            use_loopback()
        dist.init_process_group("gloo", **_meet())
    dist.barrier()
    return dist.get_rank(), dist.get_world_size(), place


def _meet() -> dict[str, Any]:
    """Where ranks tell each other their addresses, for `init_process_group`."""
    patience = timedelta(minutes=10)
    store, rank, size = next(dist.rendezvous("env://", timeout=patience))
    store = apart_from_dead(store, rank, size, patience)
    return {"store": store, "rank": rank, "world_size": size}


def apart_from_dead(
    store: dist.Store, rank: int, size: int, patience: timedelta
) -> dist.Store:
    """A part of the store that is used by none but the ranks that are alive now.

    Each rank asks the first one for a name, with a word that nobody has used before; so
    no answer to an earlier rank can be taken for its own. The first goes on answering
    until it knows that all have heard, since what it reads may be a dead rank's word.
    All must call it.

    Raises:
        RuntimeError: not all ranks came in time.
    """
    store = dist.PrefixStore("tiny_lm", store)
    word = uuid.uuid4().hex
    if rank:
        store.set(f"word of {rank}", word)
        store.wait([f"answer to {word}"], patience)
        name = store.get(f"answer to {word}").decode()
        store.set(f"{rank} knows {name}", "")
        return dist.PrefixStore(name, store)
    end, missing = time.monotonic() + patience.total_seconds(), [*range(1, size)]
    while missing:
        for other in filter(lambda r: store.check([f"word of {r}"]), missing):
            store.set(f"answer to {store.get(f'word of {other}').decode()}", word)
        missing = [r for r in missing if not store.check([f"{r} knows {word}"])]
        if time.monotonic() > end:
            raise RuntimeError(f"ranks {missing} did not come to meet the others")
        time.sleep(0.01 if missing else 0)
    return dist.PrefixStore(word, store)


def taken(device: torch.device, world_size: int) -> str:
    """In words, where the ranks run and what joins them."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return f"{world_size} rank(s), each on its own {name}, joined by NCCL"
    why = "" if torch.cuda.device_count() else ": torch sees no GPU here"
    return f"{world_size} rank(s) on CPUs, joined by gloo{why}"


def leave() -> None:
    """Leave the process group when all ranks are done."""
    dist.barrier()
    dist.destroy_process_group()


def run_rank(fn: Callable[..., Any], *args: Any, device: str = "cpu") -> Any:
    """Be one of torchrun's ranks: join, call `fn(rank, *args)`, leave.

    The same `fn` runs under `launch.run_ranks`. After an exception there is no leaving,
    which would wait for the others: it goes up, and torchrun stops them.

    Returns:
        What `fn` returned on this rank.
    """
    rank, world_size, place = join(device)
    if rank == 0:
        print(taken(place, world_size), file=sys.stderr, flush=True)
    with nothing_left_open():
        result = fn(rank, *args)
    leave()
    return result
