"""DeepSeek-V3's step as it would be with products in BF16, and where its time goes.

Chapter: 04_fp8/what_it_buys
Source: deepseek_v3, sections 3.2 and 3.3

The same model, layout and schedule, without FP8: products and rows in 16 bits. One
kind of traffic goes as well. A weight gradient sums over tokens, for which FP8 has to
read its inputs and scale them again, along the tokens; in BF16 nothing needs that.

No such run was published. What a product of this step reaches of the measured rates is
fitted to V3's own step (`v3_step.fit`), and is taken to be the same in both formats.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from tiny_lm.config import deepseek_v3
from tiny_lm.hardware import Machine
from tiny_lm.parallel.chunks import RECOMPUTED
from tiny_lm.parallel.plan import Layout, Plan
from tiny_lm.parallel.step_tape import write
from tiny_lm.replay.prices import PS_PER_S, Prices
from tiny_lm.replay.tape import Kernel, Record, Tape

KINDS = ("products", "attention", "moving", "optimizer")
TRAFFIC, WEIGHTS = " traffic", " W"


def bf16_step(**layout) -> list[Tape]:
    """Tapes of V3's step without FP8, one for the GPUs of each place in the pipeline.

    Args:
        layout: fields of `plan.Layout` that are not to be V3's, as `batch_size`.
    """
    model = replace(deepseek_v3(), fp8=None, num_mtp=0)
    tapes = write(Plan(config=model, layout=Layout(**layout)))
    return [without_turning(tape) for tape in tapes]


def without_turning(tape: Tape) -> Tape:
    """Drop what reads a weight gradient's inputs once more, just before its product."""
    following = (*tape.records[1:], None)
    kept = (
        record
        for record, then in zip(tape.records, following, strict=True)
        if not _turns(record, then)
    )
    return Tape(tape.rank, tuple(kept))


def _turns(record: Record, then: Record | None) -> bool:
    return (
        isinstance(record, Kernel)
        and isinstance(then, Kernel)
        and record.name.endswith(TRAFFIC)
        and then.name == record.name.removesuffix(TRAFFIC) + WEIGHTS
    )


def kernel_seconds(tapes: list[Tape], machine: Machine) -> Mapping[str, float]:
    """Seconds of a step in kernels of each kind, on average over the tapes.

    Transfers and waiting are left out: only a replay knows them.
    """
    prices, total = Prices(machine), Counter(dict.fromkeys(KINDS, 0))
    for tape in tapes:
        for kernel in tape.records:
            if isinstance(kernel, Kernel):
                work = kernel.flops, kernel.num_bytes, kernel.precision
                total[_kind(kernel.name)] += prices.kernel_ps(*work)
    return {kind: ps / len(tapes) / PS_PER_S for kind, ps in total.items()}


def _kind(name: str) -> str:
    part, _, what = name.partition(": ")
    if part == KINDS[3]:
        return part
    if what.endswith(TRAFFIC):
        return KINDS[2]
    return KINDS[1] if what.startswith(("core", f"{RECOMPUTED} scores")) else KINDS[0]
