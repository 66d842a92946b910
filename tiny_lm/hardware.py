"""What the chips can do, from datasheets, and what was measured on one of them.

Chapter: 01_baseline/cost
Source: nvidia_datasheets; deepseek_v3, section 3.2; deepseek_isca, section 2.3

Every rate is for dense arithmetic; datasheets print twice as much, for sparse.
A link has two honest numbers that differ by more than two: NVLink is sold as the sum
of both directions, a program sends in one direction and never reaches the line rate.
FLOPs are a count, FLOP/s a rate; GB is 1e9 bytes.
"""

from dataclasses import dataclass

TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True, kw_only=True)
class Chip:
    """One accelerator. None: the chip has no such thing, or no figure was published.

    Args:
        nvlink_bytes_per_s: both directions added up, as datasheets have it.
        nvlink_achieved_bytes_per_s: one direction, reported from real training.
        network_bytes_per_s: one direction of the InfiniBand card beside the chip.
        network_achieved_bytes_per_s: the same, reported from real training.
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

H100_MEASURED = Measured(
    name="H100 SXM",
    bf16_flops_per_s=785 * TERA,
    fp8_tensorwise_flops_per_s=1418 * TERA,
    fp8_blockwise_flops_per_s=1147 * TERA,
    copy_bytes_per_s=3.0 * TERA,
    launch_s=9e-6,
    source="measured on one H100 SXM with torch 2.11: 8192 x 8192 x 8192 products",
)


def chip(name: str) -> Chip:
    """The chip of that name: `a100`, `h100`, `h800`, `h200` or `b200`.

    Raises:
        ValueError: no such chip; the message lists those that exist.
    """
    if name.lower() not in CHIPS:
        raise ValueError(f"unknown chip {name!r}; there are: {', '.join(CHIPS)}")
    return CHIPS[name.lower()]
