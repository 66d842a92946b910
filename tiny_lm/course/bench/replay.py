"""How fast emulated time is: recording a step, replaying a million records, V3's step.

Chapter: 05_comm/emulated_time
"""

import time

from tiny_lm.config import deepseek_v3
from tiny_lm.course.bench.turns import Result
from tiny_lm.hardware import H100_MEASURED, machine
from tiny_lm.parallel import v3_step
from tiny_lm.parallel.plan import Plan
from tiny_lm.parallel.step_tape import write
from tiny_lm.replay.simulation import replay
from tiny_lm.replay.tape import Collective, Kernel, Mark, Tape, Wait


def moe_tapes(num_ranks: int, num_layers: int) -> list[Tape]:
    """A forward of many MoE layers, each with a dispatch beside its shared expert."""
    group = tuple(range(num_ranks))
    rows = (32 * 7392,) * num_ranks  # 32 tokens for each rank, in FP8
    tapes = []
    for rank in group:
        records = []
        for layer in range(num_layers):
            sent, here = 2 * layer, 2 * layer + 1
            records += [
                Kernel("attention", 10**10 + rank, 10**7),
                Kernel("norm", 0, 10**6),
                Kernel("router", 10**7, 10**5),
                Mark(sent),
                Wait(sent, "comm"),
                Collective("dispatch", "all_to_all", rows, group, layer),
                Mark(here, "comm"),
                Kernel("shared expert", 10**9, 10**6, "fp8"),
                Wait(here),
                Kernel("experts", 10**10, 10**7, "fp8"),
            ]
        tapes.append(Tape(rank, tuple(records)))
    return tapes


def replay_of_a_million() -> list[Result]:
    """Seconds to replay a million records of 8 and of 64 ranks, and how they grow."""
    h800 = machine("h800").achieving(H100_MEASURED)
    results = []
    replay(moe_tapes(8, 1000), h800)  # the first one is slower
    for num_ranks in (8, 64):
        seconds = {}
        for num_records in (250_000, 1_000_000):
            tapes = moe_tapes(num_ranks, num_records // num_ranks // 10)
            start = time.perf_counter()
            replay(tapes, h800)
            seconds[num_records] = time.perf_counter() - start
        name = f"replay, {num_ranks} ranks"
        growth = seconds[1_000_000] / seconds[250_000]
        results += [
            Result(f"{name}, 1,000,000 records", seconds[1_000_000], "s", "≤ 20"),
            Result(f"{name}, 4 times the records", growth, "x", "≈ 4"),
        ]
    return results


def v3_step_at_scale() -> list[Result]:
    """Seconds to write and replay V3's step on few and on many GPUs."""
    seconds = {}
    for num_gpus in v3_step.SCALES:
        start = time.perf_counter()
        tapes = write(Plan(config=deepseek_v3(), layout=v3_step.layout_of(num_gpus)))
        replay(tapes, v3_step.machine(), mirror=True)
        seconds[num_gpus] = time.perf_counter() - start
    return [
        Result(f"V3's step on {num_gpus:,} GPUs", value, "s", "≤ 20")
        for num_gpus, value in seconds.items()
    ]
