"""What link, latency and overlap do to one layer of DeepSeek-V3, to the picosecond.

Chapter: 05_comm
Source: deepseek_v3, sections 3.2 and 3.3

A pair of micro-batches passes the layer: one after the other, or woven into each other.
The reader chooses the link, its latency, the chip and the size of a micro-batch; and
whether rows are handed on over a second link, beside the first or after it.

`timeline_model.js` plays the same tapes in a browser and has to end at the same
picoseconds. So every rate, every latency and every amount here is a whole number.

What the tapes leave out is in `layer`, what a replay leaves out in `replay.simulation`.
"""

from dataclasses import dataclass, replace
from typing import Any

from tiny_lm.counts import Number
from tiny_lm.course.explorers.layer import MOST_TOKENS, NUM_GPUS, tapes
from tiny_lm.course.figures.style import COLORS, Drawing
from tiny_lm.course.figures.timelines import gantt
from tiny_lm.hardware import H100, H100_MEASURED, H800, Machine
from tiny_lm.parts import require
from tiny_lm.replay.prices import PS_PER_S
from tiny_lm.replay.simulation import replay
from tiny_lm.replay.tape import COMM, COMPUTE, Collective, Kernel, Mark, Record, Wait
from tiny_lm.replay.timeline import Timeline

SHOWN = range(0, NUM_GPUS, 2)  # the GPUs in the picture; the busiest is among them
TECHNIQUES = {"projections": "mla", "attention": "mla", "experts": "moe"}
GIGA, PS_PER_US = 10**9, 10**6
BANDWIDTHS = (25, 32, 40, 50, 64, 80, 100, 128, 160, 200, 256, 320, 400, 450, 560, 720)
BANDWIDTHS += (900,)  # GB/s that a GPU sends, and as many that it receives
NVLINKS = (50, 100, 160, 200, 360, 450, 900)  # GB/s of a second hop, inside a node
HOPS = ("one", "pipelined", "series")
LATENCIES = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # µs an exchange
TOKENS = (64, 256, 1024, MOST_TOKENS)  # one sequence a GPU and micro-batch
SPEEDS = (0.25, 0.5, 1, 2, 4)  # arithmetic and memory, as multiples of the H800's
NO_LIMIT = 10**9  # GB/s at which bytes cost nothing


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Where the sliders stand.

    Raises:
        ValueError: a slider has no such place.
    """

    bandwidth: int = 40
    latency: int = 5  # the place above the 3.7 µs of deepseek_isca, table 5
    tokens: int = 4096
    speed: Number = 1
    overlap: bool = True
    hops: str = "one"
    nvlink: int = 160  # what V3 got out of the H800's; matters where there are two hops

    def __post_init__(self) -> None:
        places = {
            "bandwidth": BANDWIDTHS,
            "latency": LATENCIES,
            "tokens": TOKENS,
            "speed": SPEEDS,
            "hops": HOPS,
            "nvlink": NVLINKS,
        }
        for name, allowed in places.items():
            value = getattr(self, name)
            wanted = f"{name} must be one of {list(allowed)}, got {value!r}"
            require(value in allowed, wanted)


def machine(s: Setting) -> Machine:
    """H800s, as fast as an H100 was measured, times `speed`, on the chosen links.

    With two hops a GPU is alone in its node with the one that stands for neighbours.
    """
    far, near, two = s.bandwidth, s.nvlink, s.hops != "one"
    link, alpha_s = float(far * GIGA), s.latency * PS_PER_US / PS_PER_S
    return Machine(
        name=f"8 GPUs of {s.speed:g} × an H800, {s.bandwidth} GB/s, α {s.latency} µs",
        source=f"{H100_MEASURED.source}; links and α: the sliders",
        gpus_per_node=2 if two else NUM_GPUS,
        bf16_flops_per_s=H100_MEASURED.bf16_flops_per_s * s.speed,
        fp8_flops_per_s=H100_MEASURED.fp8_blockwise_flops_per_s * s.speed,
        memory_bytes_per_s=H100_MEASURED.copy_bytes_per_s * s.speed,
        launch_s=H100_MEASURED.launch_s,
        nvlink_bytes_per_s=float(near * GIGA) if two else link,
        nvlink_alpha_s=alpha_s,
        network_bytes_per_s=link,
        network_alpha_s=alpha_s,
    )


@dataclass(frozen=True)
class Step:
    """One replay, and how much shorter it would be if bytes, or α, cost nothing."""

    timeline: Timeline
    saved_by_bandwidth_ps: int
    saved_by_latency_ps: int

    @property
    def exposed_ps(self) -> int:
        """Communication beside which nothing runs, added up over all GPUs."""
        return sum(time.exposed_ps for time in self.timeline.summary())


def play(s: Setting, **figures: float) -> Timeline:
    """Play the tapes where the sliders stand, with figures of the machine replaced."""
    there = replace(machine(s), **figures)
    if s.hops == "one":
        return replay(tapes(s.tokens, s.overlap), there)
    played = replay(
        tapes(s.tokens, s.overlap, two_hops=True), there, hops=s.hops, mirror=True
    )
    spans = (span._replace(rank=span.rank // 2) for span in played.spans)
    return replace(played, spans=tuple(spans))


def simulate(s: Setting) -> Step:
    """One step, and what it would save on a machine without limits."""
    timeline = play(s)
    no_limit = float(NO_LIMIT * GIGA)
    wide = play(s, nvlink_bytes_per_s=no_limit, network_bytes_per_s=no_limit)
    quick = play(s, nvlink_alpha_s=0.0, network_alpha_s=0.0)
    saved = (timeline.step_ps - other.step_ps for other in (wide, quick))
    return Step(timeline, *saved)


# --- what a page gets ---


def _row(record: Record) -> list:
    """A record without its amounts: those are in `_amounts`."""
    label = record.event if isinstance(record, Mark | Wait) else record.name
    return [type(record).__name__.lower(), record.stream, label]


def _amounts(records: list[Record]) -> list:
    """FLOPs, bytes and precision of a kernel, or bytes by GPU; for each GPU."""
    if isinstance(records[0], Kernel):
        return [[r.flops, r.num_bytes, r.precision] for r in records]
    return [r.num_bytes for r in records]


def _rates() -> dict[str, list[int]]:
    """FLOPs or bytes a second of a GPU, at each place of the slider."""
    machines = [machine(Setting(speed=speed)) for speed in SPEEDS]
    return {
        "fp8": [round(m.fp8_flops_per_s) for m in machines],
        "bf16": [round(m.bf16_flops_per_s) for m in machines],
        "memory": [round(m.memory_bytes_per_s) for m in machines],
    }


def fixed() -> dict[str, Any]:
    """All that the browser needs and must not know by itself."""
    work: dict[str, dict[str, list]] = {}
    handed: dict[str, dict[str, list]] = {}
    for tokens in TOKENS:
        by_place = zip(*(tape.records for tape in tapes(tokens, False)), strict=True)
        named = [list(place) for place in by_place if hasattr(place[0], "name")]
        work[str(tokens)] = {place[0].name: _amounts(place) for place in named}
        two = zip(*(tape.records for tape in tapes(tokens, False, True)), strict=True)
        handed[str(tokens)] = {
            place[0].name: [r.num_bytes[2 * gpu + 1] for gpu, r in enumerate(place)]
            for place in two
            if isinstance(place[0], Collective)
        }
    programs = {
        str(overlap).lower(): [_row(r) for r in tapes(TOKENS[-1], overlap)[0].records]
        for overlap in (False, True)
    }
    return {
        "programs": programs,
        "work": work,
        "handed": handed,
        "num_gpus": NUM_GPUS,
        "shown": list(SHOWN),
        "streams": [COMPUTE, COMM],
        "rates": _rates(),
        "launch_ps": round(H100_MEASURED.launch_s * PS_PER_S),
        "no_limit": NO_LIMIT,
        "bandwidths": BANDWIDTHS,
        "nvlinks": NVLINKS,
        "hops": HOPS,
        "latencies": LATENCIES,
        "tokens": TOKENS,
        "speeds": SPEEDS,
        "links": links(),
        "reference": Setting().bandwidth,
        "color": COLORS["comm"],
        "colors": {bar: COLORS[name] for bar, name in TECHNIQUES.items()},
    }


def links() -> list[dict[str, Any]]:
    """Speeds of real links in GB/s, one way; those with a short name are drawn."""
    nvlink = H800.nvlink_bytes_per_s / 2, H100.nvlink_bytes_per_s / 2
    known = (
        (
            H800.network_achieved_bytes_per_s,
            "",
            "V3's network, as its makers reckon",
        ),
        (H800.network_bytes_per_s, "network", "line rate of V3's network"),
        (H800.nvlink_achieved_bytes_per_s, "", "what V3 got out of NVLink"),
        (nvlink[0], "H800", "line rate of the H800's NVLink"),
        (nvlink[1], "H100", "line rate of the H100's NVLink"),
    )
    return [
        {"rate": round(rate / GIGA), "short": short, "name": name}
        for rate, short, name in known
    ]


def picture(s: Setting) -> Drawing:
    """Where the sliders stand, for a page without JavaScript."""
    return gantt(simulate(s).timeline, SHOWN, colors=TECHNIQUES)


def alternative(s: Setting) -> str:
    """What `picture` shows, in words."""
    step = simulate(s)
    exposed_ps, step_ps = step.exposed_ps / NUM_GPUS, step.timeline.step_ps
    order = "woven into" if s.overlap else "after"
    second = {
        "one": "",
        "pipelined": f" Rows are handed on at {s.nvlink} GB/s while others come in.",
        "series": f" When all rows are in, they are handed on at {s.nvlink} GB/s.",
    }[s.hops]
    return (
        f"Timeline of {len(SHOWN)} of {NUM_GPUS} GPUs, each with a row for kernels and "
        f"one for exchanges: one layer of DeepSeek-V3, backward for one micro-batch "
        f"{order} forward for another, {s.tokens:,} tokens a GPU. At {s.bandwidth} "
        f"GB/s and {s.latency} µs the step takes {step_ps / 1e9:.2f} ms; for "
        f"{exposed_ps / 1e9:.2f} ms of it a GPU computes nothing while bytes move."
        f"{second}"
    )
