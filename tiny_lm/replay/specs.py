"""The machines on which a recorded step is timed: real GPUs, and the scaled twin.

Chapter: 05_comm/emulated_time
Source: course

A tiny model's step says on an H800 what launches cost, and on the twin what the same
step costs where everything is as much weaker as the model is smaller (`replay.twin`).
The twin's factors are kept in a file beside this one. They were derived from recorded
steps, which takes minutes: `python -m tiny_lm.twins` derives and writes them anew.
"""

import json
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from statistics import fmean

from tiny_lm import hardware
from tiny_lm.hardware import H100_MEASURED, Machine
from tiny_lm.replay.simulation import replay
from tiny_lm.replay.tape import Tape
from tiny_lm.replay.timeline import Timeline
from tiny_lm.replay.twin import Factors, scaled_twin

TWIN = Path(__file__).with_name("scaled_twin.json")
PS_PER_MS = 10**9
TIMES = {
    "compute_ms": "compute_ps",
    "exposed_comm_ms": "exposed_ps",
    "hidden_comm_ms": "hidden_ps",
    "bubble_ms": "bubble_ps",
}


def real(name: str) -> Machine:
    """H800s or H100s at rates measured on one of them, with products in any precision.

    Both reach the same share of their NVLink, what V3 reports of the H800's, and have
    the same network. FP32, which the small model takes where V3 has BF16, costs the
    same as that.

    Args:
        name: `h800` or `h100`.
    """
    h800 = hardware.machine("h800").achieving(H100_MEASURED)
    other = hardware.machine(name)
    return replace(
        h800,
        name=f"{other.name}, at rates measured on {H100_MEASURED.name}",
        nvlink_bytes_per_s=other.nvlink_bytes_per_s,
        fp32_flops_per_s=h800.bf16_flops_per_s,
        fp32_efficiency=h800.bf16_efficiency,
    )


@cache
def machines() -> dict[str, Machine]:
    """`scaled_twin`, `h800` and `h100`."""
    kept = json.loads(TWIN.read_text(encoding="utf-8"))
    by = Factors(**kept["factors"])
    twin = scaled_twin(real("h800"), by, gpus_per_node=kept["gpus_per_node"])
    return {"scaled_twin": twin, "h800": real("h800"), "h100": real("h100")}


def emulate(tapes: Iterable[Tape]) -> dict[str, dict[str, float]]:
    """One step on each of the machines, in milliseconds; equal tapes, equal numbers.

    Returns:
        By machine: `step_ms`, and what it is made of, as means over the ranks:
        compute, exposed communication and bubble; hidden communication beside.
    """
    tapes = list(tapes)
    return {name: _times(replay(tapes, there)) for name, there in machines().items()}


def _times(timeline: Timeline) -> dict[str, float]:
    ranks = timeline.summary()
    means = {
        name: fmean(getattr(rank, field) for rank in ranks) / PS_PER_MS
        for name, field in TIMES.items()
    }
    return {"step_ms": timeline.step_ps / PS_PER_MS, **means}
