"""What the chips can do, from datasheets, and what was measured on one of them.

Chapter: 01_baseline/cost
Source: nvidia_datasheets; deepseek_v3, section 3.2; deepseek_isca, section 2.3

Every rate is for dense arithmetic; datasheets print twice as much, for sparse.
A link has two honest numbers that differ by more than two: NVLink is sold as the sum
of both directions, a program sends in one direction and never reaches the line rate.
FLOPs are a count, FLOP/s a rate; GB is 1e9 bytes.

A `Chip` is a line of the datasheet; a `Machine` is what replay plays a tape on: many
such chips in nodes, their links and the costs of an event; `replay.twin` scales one.
What is not known is None, and replay refuses to guess it.
"""

import json
from dataclasses import dataclass, fields, replace
from pathlib import Path

TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One accelerator. None: the chip has no such thing, or no figure was published.

    Args:
        nvlink_bytes_per_s: both directions added up, as datasheets have it.
        nvlink_achieved_bytes_per_s: one direction, reported from real training.
        network_bytes_per_s: one direction of the InfiniBand card beside the chip.
        network_achieved_bytes_per_s: what the makers of a real cluster reckon with.
    """

    name: str
    bf16_flops_per_s: float
    fp8_flops_per_s: float | None
    memory_bytes: float
    memory_bytes_per_s: float
    nvlink_bytes_per_s: float
    source: str
    nvlink_achieved_bytes_per_s: float | None = None
    network_bytes_per_s: float | None = None
    network_achieved_bytes_per_s: float | None = None

    @property
    def ridge_flops_per_byte(self) -> float:
        """BF16 work below this many FLOPs per byte of memory waits for memory."""
        return self.bf16_flops_per_s / self.memory_bytes_per_s


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What programs reached on one real chip: large square products and copies."""

    name: str
    bf16_flops_per_s: float
    fp8_tensorwise_flops_per_s: float  # one scale a tensor
    fp8_blockwise_flops_per_s: float  # 1 x 128 tiles and 128 x 128 blocks
    copy_bytes_per_s: float
    launch_s: float  # from Python to the start of a kernel
    source: str

    @property
    def ridge_flops_per_byte(self) -> float:
        """The ridge of what is achieved, as `Chip.ridge_flops_per_byte` is of peaks."""
        return self.bf16_flops_per_s / self.copy_bytes_per_s


A100 = Chip(
    name="A100 SXM 80 GB",
    bf16_flops_per_s=312 * TERA,
    fp8_flops_per_s=None,
    memory_bytes=80 * GIGA,
    memory_bytes_per_s=2.04 * TERA,
    nvlink_bytes_per_s=600 * GIGA,
    source="NVIDIA A100 datasheet",
)

H100 = Chip(
    name="H100 SXM",
    bf16_flops_per_s=989.5 * TERA,  # half of the 1,979 printed for sparse matrices
    fp8_flops_per_s=1979 * TERA,
    memory_bytes=80 * GIGA,
    memory_bytes_per_s=3.35 * TERA,
    nvlink_bytes_per_s=900 * GIGA,
    source="NVIDIA H100 datasheet",
)

# The export version: the H100's BF16 and FP8 arithmetic, less than half of its links.
H800 = Chip(
    name="H800 SXM",
    bf16_flops_per_s=989.5 * TERA,
    fp8_flops_per_s=1979 * TERA,
    memory_bytes=80 * GIGA,
    memory_bytes_per_s=3.35 * TERA,
    nvlink_bytes_per_s=400 * GIGA,
    nvlink_achieved_bytes_per_s=160 * GIGA,
    network_bytes_per_s=50 * GIGA,
    # Chosen for sizing; all-to-alls reached more: deepseek_isca, section 4.3.
    network_achieved_bytes_per_s=40 * GIGA,
    source="H100 datasheet; links: deepseek_v3, section 3.2; deepseek_isca",
)

H200 = Chip(
    name="H200 SXM",
    bf16_flops_per_s=989.5 * TERA,
    fp8_flops_per_s=1979 * TERA,
    memory_bytes=141 * GIGA,
    memory_bytes_per_s=4.8 * TERA,
    nvlink_bytes_per_s=900 * GIGA,
    source="NVIDIA H200 datasheet",
)

B200 = Chip(
    name="B200 SXM",
    bf16_flops_per_s=2250 * TERA,
    fp8_flops_per_s=4500 * TERA,
    memory_bytes=180 * GIGA,  # an eighth of a DGX B200; some products list 192 GB
    memory_bytes_per_s=8 * TERA,
    nvlink_bytes_per_s=1800 * GIGA,
    source="NVIDIA DGX B200 datasheet",
)

CHIPS: dict[str, Chip] = {
    chip.name.split()[0].lower(): chip for chip in (A100, H100, H800, H200, B200)
}


RATES = Path(__file__).with_name("hardware_rates.json")


def read_measured(path: Path = RATES) -> Measured:
    """What `python -m tiny_lm.course.bench.hardware` wrote on a real chip."""
    record = json.loads(path.read_text(encoding="utf-8"))
    rates = record["rates"]
    return Measured(
        name=H100.name,
        bf16_flops_per_s=rates["bf16_flops_per_s"],
        fp8_tensorwise_flops_per_s=rates["fp8_tensorwise_flops_per_s"],
        fp8_blockwise_flops_per_s=rates["fp8_blockwise_flops_per_s"],
        copy_bytes_per_s=rates["copy_bytes_per_s"],
        launch_s=rates["launch_s"],
        source=f"measured on one {record['device']} with torch {record['torch']}, "
        f"{record['date']}: 8192 x 8192 x 8192 products",
    )


H100_MEASURED = read_measured()


def chip(name: str) -> Chip:
    """The chip of that name: `a100`, `h100`, `h800`, `h200` or `b200`.

    Raises:
        ValueError: no such chip; the message lists those that exist.
    """
    if name.lower() not in CHIPS:
        raise ValueError(f"unknown chip {name!r}; there are: {', '.join(CHIPS)}")
    return CHIPS[name.lower()]


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Equal GPUs in equal nodes: what replay needs to know, at most the line rates.

    None: not published, or there is none. An efficiency is the share of a rate that
    programs reach; 1 is a floor of the time and not a forecast of it.

    Args:
        nvlink_bytes_per_s: one direction, inside a node.
        network_bytes_per_s: one direction of a GPU's own card, between nodes.
        nvlink_alpha_s: what a message costs before its first byte, inside a node.
        network_alpha_s: the same between nodes.
        launch_s: what a kernel costs before its first instruction.

    Raises:
        ValueError: a rate that is not positive, a negative time, an efficiency outside
            (0, 1], or no GPU in a node.
    """

    name: str
    source: str
    gpus_per_node: int
    bf16_flops_per_s: float
    memory_bytes_per_s: float
    nvlink_bytes_per_s: float
    network_bytes_per_s: float | None = None
    fp8_flops_per_s: float | None = None
    fp32_flops_per_s: float | None = None
    nvlink_alpha_s: float | None = None
    network_alpha_s: float | None = None
    launch_s: float | None = None
    bf16_efficiency: float = 1.0
    fp8_efficiency: float = 1.0
    fp32_efficiency: float = 1.0
    memory_efficiency: float = 1.0
    nvlink_efficiency: float = 1.0
    network_efficiency: float = 1.0

    def __post_init__(self) -> None:
        if self.gpus_per_node < 1:
            raise ValueError(f"gpus_per_node must be ≥ 1, got {self.gpus_per_node}")
        for name in (field.name for field in fields(self)):
            value = getattr(self, name)
            if name.endswith("_per_s") and value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
            if name.endswith(("alpha_s", "launch_s")) and (value or 0) < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
            if name.endswith("_efficiency") and not 0 < value <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {value}")

    def achieving(self, measured: Measured) -> "Machine":
        """The same machine at the rates and the launch cost that were measured.

        FP8 as with tile and block scales. Links keep what they have.

        Raises:
            ValueError: the machine's chip has no FP8, so is not the one measured.
        """
        if self.fp8_flops_per_s is None:
            raise ValueError(f"{self.name} has no FP8 rate, {measured.name} has one")
        return replace(
            self,
            name=f"{self.name}, at rates measured on {measured.name}",
            source=f"{self.source}; {measured.source}",
            launch_s=measured.launch_s,
            bf16_efficiency=measured.bf16_flops_per_s / self.bf16_flops_per_s,
            fp8_efficiency=measured.fp8_blockwise_flops_per_s / self.fp8_flops_per_s,
            memory_efficiency=measured.copy_bytes_per_s / self.memory_bytes_per_s,
        )


# Of messages of 64 bytes from end to end: NVLink, and InfiniBand across two levels of
# switches; below one switch it is 2.8 µs. Source: deepseek_isca, table 5.
NVLINK_ALPHA_S, NETWORK_ALPHA_S = 3.33e-6, 3.7e-6


def _cluster(chip: Chip, network_bytes_per_s: float | None, source: str) -> Machine:
    like_h800 = chip in (H100, H800, H200)  # the links on which α was measured
    one_way = chip.nvlink_bytes_per_s / 2
    nvlink = (chip.nvlink_achieved_bytes_per_s or one_way) / one_way
    network = 1.0
    if chip.network_achieved_bytes_per_s:
        network = chip.network_achieved_bytes_per_s / network_bytes_per_s
    return Machine(
        name=f"nodes of 8 {chip.name}",
        source=f"{chip.source}; {source}",
        gpus_per_node=8,
        bf16_flops_per_s=chip.bf16_flops_per_s,
        fp8_flops_per_s=chip.fp8_flops_per_s,
        memory_bytes_per_s=chip.memory_bytes_per_s,
        nvlink_bytes_per_s=one_way,
        network_bytes_per_s=network_bytes_per_s,
        nvlink_alpha_s=NVLINK_ALPHA_S if like_h800 else None,
        network_alpha_s=NETWORK_ALPHA_S if like_h800 else None,
        nvlink_efficiency=nvlink,
        network_efficiency=network,
    )


_DGX = "NVIDIA DGX user guides: a ConnectX-7 card of 400 Gb/s beside each GPU"
MACHINES: dict[str, Machine] = {
    "a100": _cluster(A100, None, "DGX A100: 8 GPUs a node"),
    "h100": _cluster(H100, 50 * GIGA, _DGX),
    "h800": _cluster(H800, H800.network_bytes_per_s, "deepseek_v3, section 3.1"),
    "h200": _cluster(H200, 50 * GIGA, _DGX),
    "b200": _cluster(B200, 50 * GIGA, _DGX),
}


def machine(name: str) -> Machine:
    """Nodes of 8 such chips at datasheet rates; the H800's links as V3 achieved them.

    No launch cost is published, and α for one generation of links alone: set those that
    a tape needs, `dataclasses.replace(machine("h800"), launch_s=…)`, or take measured
    ones, `machine("h800").achieving(H100_MEASURED)`.

    Raises:
        ValueError: no such machine; the message lists those that exist.
    """
    if name.lower() not in MACHINES:
        raise ValueError(f"unknown machine {name!r}; there are: {', '.join(MACHINES)}")
    return MACHINES[name.lower()]
