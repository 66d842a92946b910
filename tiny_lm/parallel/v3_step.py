"""DeepSeek-V3's own training step, replayed and held against what was published.

Chapter: 05_comm/slower_link
Source: deepseek_v3, sections 3 and 4.2; deepseek_isca, table 4

One number is fitted: the share of the rates measured on large square products that the
products of this step reach. It comes from *one part* of the published step, the weight
gradients ("1W"), because they alone hold no communication. That is 2 % of the step.
Everything else follows: the other parts, the bubble, the whole.

The table's words leave two things open, so every answer that hangs on them is computed
for both ends:

    reading   1F, 1B and 1W are forward, *input* backward and *weight* backward. Whether
              the lone backwards that DualPipe does not split count as 1B as a `whole`,
              or are `split` between 1B and 1W, is not said; the fit rests on it
    hops      whether a row is handed on over NVLink while others still come in over
              the network (`replay.links`)

What is known of the machine: rates of products and of copies as measured on an H100,
which has the H800's arithmetic; 160 of 200 GB/s of NVLink, as V3 reports to achieve;
of the network's 50 GB/s the 40 with which its makers reckon; and their latencies.

The published parts are taken as means over all GPUs, which differ by their place in the
pipeline; the table does not say so. As printed, they sum to 19.90 s and not to 19.926.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple

from tiny_lm import hardware
from tiny_lm.config import ModelConfig, deepseek_v3
from tiny_lm.costs import PUBLISHED_MFU, V3_RUN, step_flops, utilization
from tiny_lm.hardware import H100_MEASURED, Machine
from tiny_lm.parallel.plan import Layout, Plan
from tiny_lm.parallel.step_tape import WITHIN, write
from tiny_lm.parts import require
from tiny_lm.replay.program import Program
from tiny_lm.replay.simulation import play
from tiny_lm.replay.tape import Tape
from tiny_lm.replay.timeline import COMM, KERNEL, Span, Timeline, union

PS_PER_S = 10**12
# Source: deepseek_isca, table 4; seconds, and TFLOP/s a GPU with causal attention
PUBLISHED_PARTS_S = {
    "1F": 1.13,
    "bubble": 2.06,
    "1B": 1.99,
    "1W": 0.48,
    "1F1B": 13.95,
    "optimizer": 0.29,
}
PUBLISHED_TFLOPS = 385
READINGS = {"whole": "1B", "split": "1W"}  # where a lone BW's weight gradients count
LINKS = ("h800", "h100")
# Stages, expert ranks and expert copies of smaller clusters, on the way to V3's.
SCALES = {
    8: (1, 8, 1),
    64: (1, 64, 1),
    128: (2, 64, 1),
    256: (4, 64, 1),
    512: (8, 64, 1),
    1024: (16, 64, 1),
    2048: (16, 64, 2),
}


def deepseek_v3_step(
    *, fp8_wire: bool = True, node_limit: bool = True, num_mtp: int = 0, **layout
) -> list[Tape]:
    """Tapes of V3's step, one for the GPUs of each place in the pipeline.

    Args:
        fp8_wire: rows go to their experts in FP8, else in BF16.
        node_limit: a token's experts are in 4 nodes at most, else anywhere.
        num_mtp: prediction modules; published FLOPs leave V3's one out.
        layout: fields of `plan.Layout` that are not to be V3's, as `overlap=False`.
    """
    model = deepseek_v3()
    moe, fp8 = model.moe, replace(model.fp8, wire=fp8_wire)
    if not node_limit:
        moe = replace(moe, top_groups=moe.num_groups)
    model = replace(model, moe=moe, fp8=fp8, num_mtp=num_mtp)
    return write(Plan(config=model, layout=Layout(**layout)))


def layout_of(num_gpus: int) -> Layout:
    """V3's layout cut down: as many micro-batches a GPU, fewer stages and copies.

    It says what a replay costs, not what such a cluster could train: 8 GPUs hold no V3.

    Raises:
        ValueError: no layout is made for so many GPUs.
    """
    require(
        num_gpus in SCALES,
        f"no layout for {num_gpus} GPUs; there are: {', '.join(map(str, SCALES))}",
    )
    stages, ranks, copies = SCALES[num_gpus]
    return Layout(
        num_stages=stages,
        num_expert_ranks=ranks,
        num_expert_copies=copies,
        batch_size=Layout().num_micro * ranks * copies,
        schedule="dualpipe" if stages > 1 else "1f1b",
    )


def machine(links: str = "h800", reached: float = 1.0) -> Machine:
    """V3's H800s, or the same GPUs joined by an H100's NVLink; the network is the same.

    Both reach the same share of their links: what V3 reports of the H800's.

    Args:
        links: `h800` or `h100`.
        reached: share of the measured rates that the step's products reach.

    Raises:
        ValueError: no such links.
    """
    require(links in LINKS, f"links must be h800 or h100, got {links!r}")
    base = hardware.machine("h800").achieving(H100_MEASURED)
    return replace(
        base,
        name=f"{base.name}, links of an {links.upper()}",
        nvlink_bytes_per_s=hardware.machine(links).nvlink_bytes_per_s,
        bf16_efficiency=base.bf16_efficiency * reached,
        fp8_efficiency=base.fp8_efficiency * reached,
    )


def parts_s(timeline: Timeline, reading: str = "whole") -> dict[str, float]:
    """Seconds of each part, on average over the GPUs; they add up to the step.

    A part lasts while its kernels or its transfers run. The bubble is all the rest: a
    GPU waits for a stage before or behind it, or for its message.

    Args:
        reading: `whole` or `split`, of lone backwards. Transfers beside their weight
            gradients then count with these, and the rest with 1B.

    Raises:
        ValueError: no such reading.
    """
    require(
        reading in READINGS, f"unknown reading {reading!r}; there are: whole, split"
    )
    total: Counter[str] = Counter()
    ranks = [_by_part(spans) for _, spans in groupby(timeline.spans, lambda s: s.rank)]
    for spans in ranks:
        parts = {name: _length(spans[name]) for name in PUBLISHED_PARTS_S}
        within = _length(spans[WITHIN])
        parts["1B"] = _length(spans["1B"] + spans[WITHIN]) - within
        parts[READINGS[reading]] += within
        total.update(parts)
    seconds = {name: ps / len(ranks) / PS_PER_S for name, ps in total.items()}
    seconds["bubble"] = timeline.step_ps / PS_PER_S - sum(seconds.values())
    return {part: seconds[part] for part in PUBLISHED_PARTS_S}


def _by_part(spans: Iterable[Span]) -> Mapping[str, list[Span]]:
    """Spans by what their names begin with."""
    parts: defaultdict[str, list[Span]] = defaultdict(list)
    for span in spans:
        parts[span.name.partition(": ")[0]].append(span)
    return parts


def _length(spans: list[Span]) -> int:
    """Picoseconds in which any kernel or transfer of these runs."""
    return sum(end - start for start, end in union(spans, {KERNEL, COMM}))


def fit(tapes: list[Tape], part: str = "1W", reading: str = "whole") -> float:
    """Share of the measured rates at which one part takes what was published.

    Args:
        part: which one; the others then stay predictions.
        reading: as in `parts_s`.

    Raises:
        ValueError: no such part, one that takes longer even at the measured rates, or
            one that no slower rate makes long enough.
    """
    require(
        part in PUBLISHED_PARTS_S,
        f"unknown part {part!r}; there are: {', '.join(PUBLISHED_PARTS_S)}",
    )

    program = Program(tapes, mirror=True)

    def excess_s(slowdown: float) -> float:
        timeline = play(program, machine(reached=1 / slowdown))
        return parts_s(timeline, reading)[part] - PUBLISHED_PARTS_S[part]

    low, below = 1.0, excess_s(1.0)
    require(below <= 0, f"{part} takes longer than published at the measured rates")
    high, above = 2.0, excess_s(2.0)
    close = 1e-4 * PUBLISHED_PARTS_S[part]
    for _ in range(6):  # nearly a straight line, so the secant is there at once
        if abs(above) < close or above == below:
            break
        low, below, high = high, above, high - above * (high - low) / (above - below)
        above = excess_s(high)
    require(abs(above) < close, f"no rate makes {part} as long as published")
    return 1 / high


class Row(NamedTuple):
    """One line of the comparison; seconds, TFLOP/s or per cent, as its name says."""

    part: str
    published: float
    replayed: float

    @property
    def deviation(self) -> float:
        """Replayed over published, less 1."""
        return self.replayed / self.published - 1


def compare(
    timeline: Timeline, model: ModelConfig | None = None, reading: str = "whole"
) -> list[Row]:
    """V3's step as published and as replayed, line by line.

    TFLOP/s and utilization count the model's FLOPs alone, causal, as published.

    Args:
        model: whose FLOPs were done; V3 without prediction modules by default.
        reading: as in `parts_s`.
    """
    replayed = parts_s(timeline, reading)
    rows = [Row(part, s, replayed[part]) for part, s in PUBLISHED_PARTS_S.items()]
    run, step_s = V3_RUN, timeline.step_ps / PS_PER_S
    flops = step_flops(model or deepseek_v3(), run.batch_size, run.seq_len)
    peak = hardware.H800.bf16_flops_per_s
    rows.append(Row("step", run.step_s, step_s))
    rate = flops / step_s / run.num_gpus / 1e12
    rows.append(Row("TFLOP/s", PUBLISHED_TFLOPS, rate))
    used = 100 * utilization(flops, step_s, run.num_gpus, peak)
    return [*rows, Row("utilization in %", 100 * PUBLISHED_MFU[True], used)]
