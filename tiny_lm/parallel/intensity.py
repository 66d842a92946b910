"""When communication can be hidden at all: the FLOPs of an expert against its bytes.

Chapter: 05_comm/experts_apart
Source: deepseek_v3, sections 3.2 and 3.3.3; course

A copy of a token costs bytes on the way to an expert and back, and there the expert
does work with it. Both grow with the token's width d, so their ratio does not:

    work     6 d d_e          three products with matrices of d · d_e, forward
    bytes    d + 2 d          FP8 out and BF16 home, scales aside
    I        2 d_e            FLOPs a byte; BF16 both ways: 1.5 d_e

On a machine with F FLOP/s the work of a token's k experts takes k 6 d d_e / F. With c
copies on a link of B byte/s its rows take c (d + 2 d) / B. With two links these times
hide each other if the hops are pipelined (⊕ is the larger), or add up (the sum):

    margin = work / exchange = k I / (F · (c_net / B_net ⊕ c_nv / B_nv))

At a margin of 1 or more the experts' own work is as long as their rows are under way,
and a schedule exists that hides all of it. Below, none does without work of others:
attention, shared experts, another layer. Backward there are twice the FLOPs, one
product for the rows' gradient and one for the weights', and the same bytes.

Every GPU is taken to have the mean of everything. The fuller GPU of a real router waits
for both longer; messages' latency and processors that copy come on top.
"""

from collections.abc import Callable
from dataclasses import dataclass

from tiny_lm.config import ModelConfig
from tiny_lm.costs import fp8_row_bytes
from tiny_lm.counts import forward_flops_by_part
from tiny_lm.hardware import Machine
from tiny_lm.parallel.traffic import Copies

# Work for the same bytes; a pair is a forward and a backward beside each other.
PASSES = {"forward": 1.0, "backward": 2.0, "pair": 1.5}
TOGETHER: dict[str, Callable[[float, float], float]] = {
    "pipelined": max,
    "series": lambda network, nvlink: network + nvlink,
}


@dataclass(frozen=True, kw_only=True)
class ExpertWork:
    """One layer's routed experts, as a token meets them.

    Args:
        out_bytes, home_bytes: of one copy's row.
    """

    name: str
    d_model: int
    d_expert: int
    top_k: int
    out_bytes: int
    home_bytes: int

    @property
    def flops_per_copy(self) -> int:
        """Forward: gate, up and down."""
        return 6 * self.d_model * self.d_expert

    @property
    def flops_per_byte(self) -> float:
        """Of one copy that crosses a link once in each direction."""
        return self.flops_per_copy / (self.out_bytes + self.home_bytes)


@dataclass(frozen=True, kw_only=True)
class Rates:
    """What a GPU computes and sends in a second, one direction.

    Args:
        flops_per_s: of the experts' products.
        core_flops_per_s: of attention's, which V3 keeps in BF16.
    """

    name: str
    flops_per_s: float
    core_flops_per_s: float
    network_bytes_per_s: float
    nvlink_bytes_per_s: float


def work_of(config: ModelConfig, fp8: bool = True) -> ExpertWork:
    """A config's experts; rows go out as FP8, unless that is off, and home as BF16.

    Raises:
        ValueError: the model has no experts, or no FP8 to send.
    """
    if config.moe is None or (fp8 and config.fp8 is None):
        raise ValueError(f"{config.name} has no {'FP8' if config.moe else 'experts'}")
    d = config.d_model
    return ExpertWork(
        name=config.name,
        d_model=d,
        d_expert=config.moe.d_expert,
        top_k=config.moe.top_k,
        out_bytes=fp8_row_bytes(d, config.fp8.tile) if fp8 else 2 * d,
        home_bytes=2 * d,
    )


def rates_of(machine: Machine, achieved: bool, fp8: bool = True) -> Rates:
    """A machine's line rates and peaks, or the shares of them that programs reach.

    Raises:
        ValueError: the machine lacks one of them.
    """

    def rate(what: str, unit: str) -> float:
        found = getattr(machine, f"{what}_{unit}_per_s")
        if found is None:
            raise ValueError(f"{machine.name}: no rate of {what} is known")
        return found * (getattr(machine, f"{what}_efficiency") if achieved else 1.0)

    return Rates(
        name=f"{machine.name}, {'achieved' if achieved else 'data sheet'}",
        flops_per_s=rate("fp8" if fp8 else "bf16", "flops"),
        core_flops_per_s=rate("bf16", "flops"),
        network_bytes_per_s=rate("network", "bytes"),
        nvlink_bytes_per_s=rate("nvlink", "bytes"),
    )


def experts_s(work: ExpertWork, rates: Rates) -> float:
    """Of one token, forward: the products of its experts."""
    return work.top_k * work.flops_per_copy / rates.flops_per_s


def exchange_s(
    work: ExpertWork, copies: Copies, rates: Rates, hops: str = "pipelined"
) -> float:
    """Of one token, one direction of training: its rows out and home.

    Args:
        hops: `pipelined` or `series`.
    """
    row = work.out_bytes + work.home_bytes
    network = copies.network * row / rates.network_bytes_per_s
    nvlink = copies.nvlink * row / rates.nvlink_bytes_per_s
    return TOGETHER[hops](network, nvlink)


def beside_s(config: ModelConfig, rates: Rates, seq_len: int) -> float:
    """Of one token, forward: what else a layer of experts computes.

    Attention and the shared experts; norms and the router are left out.
    """
    flops = forward_flops_by_part(config, seq_len)
    products = flops["attention"] / config.num_layers
    products += flops["shared_experts"] / config.num_moe_layers
    core = flops["attention_core"] / (config.num_layers + config.num_mtp)
    return products / rates.flops_per_s + core / rates.core_flops_per_s


def margin(
    work: ExpertWork,
    copies: Copies,
    rates: Rates,
    hops: str = "pipelined",
    *,
    direction: str = "forward",
    beside: float = 0.0,
) -> float:
    """Seconds of work over seconds of exchange: from 1 on, all of it can be hidden.

    Args:
        direction: `forward`, `backward`, which has twice the work, or a `pair` of both.
        beside: seconds of other work of the token, forward, that may be put there, too.
    """
    computed = PASSES[direction] * (experts_s(work, rates) + beside)
    return computed / exchange_s(work, copies, rates, hops)


def needed_bytes_per_s(work: ExpertWork, flops_per_s: float) -> float:
    """What a link must carry, if each copy crosses it and the experts alone hide it."""
    return flops_per_s / work.flops_per_byte
