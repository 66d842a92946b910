"""The tapes of all ranks, brought together: a replay needs each of them.

Chapter: 05_comm/emulated_time
Source: course
"""

import torch

from tiny_lm.gpus import comm
from tiny_lm.gpus.mesh import Group
from tiny_lm.replay.tape import Tape, from_json


def gather_tapes(
    tape: Tape, group: Group, device: torch.device | str = "cpu"
) -> list[Tape]:
    """Every rank's tape, on every rank, in rank order.

    Tapes differ in length, and an all-gather wants equal shapes: the shorter ones are
    filled up with spaces, which JSON skips.

    Args:
        device: where the wires take their tensors from.
    """
    text = tape.to_json().encode()
    length = torch.tensor([len(text)], device=device)
    longest = int(comm.all_gather(length, group).max())
    mine = torch.frombuffer(bytearray(text.ljust(longest)), dtype=torch.uint8)
    together = comm.all_gather(mine.to(device), group).cpu().view(group.size, longest)
    return [from_json(bytes(row.tolist()).decode()) for row in together]
