"""Ranks that exist already: those that `torchrun` starts, one a GPU.

Chapter: 05_comm/emulated_gpus
Source: torch_distributed

`torchrun` tells each of its processes by environment variables which rank it is. Other
launchers, and shells that were opened from a rank, leave variables of the same names
behind. So they count only together, and only where they make sense together.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
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
        dist.init_process_group("nccl", device_id=place)
    else:
        if here.local_size == here.world_size:
            use_loopback()
        dist.init_process_group("gloo")
    dist.barrier()
    return dist.get_rank(), dist.get_world_size(), place


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
