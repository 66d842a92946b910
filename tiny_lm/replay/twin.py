"""A machine as much weaker as a tiny model is smaller: its timelines look alike.

Chapter: 05_comm/emulated_time
Source: course

A tiny step on a real H800 is all launches and latency: 100 µs of events, 1 µs of work.
It would teach the wrong lesson. A common factor does not repair it, since a model with
1000 times fewer FLOPs has neither 1000 times fewer bytes nor 1000 times fewer kernels.
So each cost gets a factor of its own. With `factors`, which divides the small step's
work by the real one's, kind by kind, every kind takes as long on the twin as the real
step's takes on the machine:

                    real step   small step   factor     time on either
    FLOPs           1000        10           1/100      the same
    memory bytes    300         30           1/10       the same
    launches        20          5            20/5 = 4   the same: dearer, but fewer
"""

from dataclasses import dataclass, fields, replace

from tiny_lm.hardware import Machine


@dataclass(frozen=True, kw_only=True)
class Work:
    """What one rank does in a step, kind by kind, as a tape or `costs` counts it."""

    flops: int | float
    memory_bytes: int | float
    nvlink_bytes: int | float  # sent inside the node
    network_bytes: int | float  # sent to other nodes
    launches: int | float
    messages: int | float


@dataclass(frozen=True, kw_only=True)
class Factors:
    """What each figure of a machine is multiplied by; below 1 a rate gets slower.

    Raises:
        ValueError: a factor that is not positive.
    """

    flops: float = 1.0  # peak rates of all precisions
    memory: float = 1.0  # memory bandwidth
    nvlink: float = 1.0  # bandwidth inside a node
    network: float = 1.0  # bandwidth between nodes
    launch: float = 1.0  # seconds a kernel launch
    alpha: float = 1.0  # seconds a message, inside a node and between nodes

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0:
                raise ValueError(f"factor {field.name} must be positive, got {value}")


def factors(real: Work, small: Work) -> Factors:
    """Factors with which the small step takes the real one's time, kind by kind.

    Raises:
        ValueError: one step has work of a kind of which the other has none.
    """
    shrink = {field.name: _ratio(field.name, real, small) for field in fields(Work)}
    return Factors(
        flops=shrink["flops"],
        memory=shrink["memory_bytes"],
        nvlink=shrink["nvlink_bytes"],
        network=shrink["network_bytes"],
        launch=1 / shrink["launches"],
        alpha=1 / shrink["messages"],
    )


def scaled_twin(
    machine: Machine, by: Factors, *, gpus_per_node: int | None = None
) -> Machine:
    """The machine with each figure multiplied by its own factor; unknown ones stay so.

    Args:
        gpus_per_node: where the small step's nodes are smaller as well.
    """
    factor = {
        "bf16_flops_per_s": by.flops,
        "fp8_flops_per_s": by.flops,
        "fp32_flops_per_s": by.flops,
        "memory_bytes_per_s": by.memory,
        "nvlink_bytes_per_s": by.nvlink,
        "network_bytes_per_s": by.network,
        "launch_s": by.launch,
        "nvlink_alpha_s": by.alpha,
        "network_alpha_s": by.alpha,
    }
    known = {n: v for n in factor if (v := getattr(machine, n)) is not None}
    return replace(
        machine,
        name=f"scaled twin of {machine.name}",
        gpus_per_node=gpus_per_node or machine.gpus_per_node,
        **{name: value * factor[name] for name, value in known.items()},
    )


def _ratio(kind: str, real: Work, small: Work) -> float:
    """Small over real work; 1 where neither step has any of the kind."""
    here, there = getattr(small, kind), getattr(real, kind)
    if here == there == 0:
        return 1.0
    if not (here > 0 and there > 0):
        raise ValueError(
            f"cannot scale {kind}: the small step has {here}, the real one {there}"
        )
    return here / there
