"""What experts on several ranks cost beyond their compute and a bare exchange.

Chapter: 05_comm/hiding

The layer brings rows to experts and back, forward and backward. Beside it are timed, in
turns on the same ranks: the same experts on as many rows that live here already, and
four all-to-alls of the same rows with nothing around them.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tiny_lm.config import tiny
from tiny_lm.course.bench.turns import Result, Step
from tiny_lm.gpus import comm, launch, mesh
from tiny_lm.layers import PLAIN
from tiny_lm.moe import Dispatcher, Experts, LocalDispatcher
from tiny_lm.parallel.dispatch import ExpertParallelDispatcher

NUM_TOKENS = 512  # a rank's share of a batch of `tiny`
CLOCKS = {"wall": time.perf_counter, "CPU": time.process_time}


@dataclass(frozen=True)
class Setting:
    """Tokens of one rank, their choices, and the experts that live there."""

    x: Tensor
    weights: Tensor
    experts: Tensor
    layer: Experts

    def step(self, dispatcher: Dispatcher) -> None:
        """There and back, forward and backward."""
        self.x.grad = self.weights.grad = None
        rows, ends, way_back = dispatcher.dispatch(self.x, self.experts)
        y = dispatcher.combine(self.layer(rows, ends), self.weights, way_back)
        y.backward(y.detach())


def _setting(rank: int, num_experts: int, num_local: int) -> Setting:
    """Choices fall on all experts alike, so each rank gets about as many rows."""
    config, generator = tiny(), torch.Generator().manual_seed(rank)
    moe, width = config.moe, config.d_model

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    layer = Experts(num_local, width, moe.d_expert, PLAIN.grouped)
    for matrices in layer.parameters():
        matrices.data.copy_(normal(*matrices.shape) / width**0.5)
    experts = normal(NUM_TOKENS, num_experts).topk(moe.top_k).indices
    x, weights = normal(NUM_TOKENS, width), normal(NUM_TOKENS, moe.top_k).sigmoid()
    return Setting(x.requires_grad_(), weights.requires_grad_(), experts, layer)


def _seconds(rank: int, rounds: int) -> dict[str, dict[str, float]]:
    """Median seconds of each workload, by both clocks."""
    group, moe = mesh.world(), tiny().moe
    dispatcher = ExpertParallelDispatcher(moe.num_experts, group)
    num_local = len(dispatcher.local_experts)
    here = _setting(rank, moe.num_experts, num_local)
    there = _setting(rank, num_local, num_local)
    local = LocalDispatcher(num_local)
    route = dispatcher.start_plan(here.experts).wait()
    rows = torch.randn(sum(route.send_counts), here.x.shape[1])
    back = torch.randn(sum(route.receive_counts), here.x.shape[1])
    ways = route.send_counts, route.receive_counts

    def bare() -> None:
        for _ in range(2):  # dispatch and combine, forward and backward
            comm.all_to_all(rows, *ways, group)
            comm.all_to_all(back, *ways[::-1], group)

    return _in_turns(
        {
            "layer": lambda: here.step(dispatcher),
            "compute": lambda: there.step(local),
            "bare": bare,
        },
        rounds,
        lambda: comm.barrier(group),
    )


def _in_turns(
    workloads: dict[str, Step], rounds: int, meet: Callable[[], None]
) -> dict[str, dict[str, float]]:
    times = {name: {clock: [] for clock in CLOCKS} for name in workloads}
    for turn in range(rounds + 2):
        for name, step in workloads.items():
            meet()
            starts = {clock: read() for clock, read in CLOCKS.items()}
            step()
            for clock, read in CLOCKS.items():
                if turn >= 2:
                    times[name][clock].append(read() - starts[clock])
    return {
        name: {clock: statistics.median(some) for clock, some in by_clock.items()}
        for name, by_clock in times.items()
    }


def experts_on_ranks(rounds: int = 40) -> list[Result]:
    """The layer on 2 and 4 ranks, over its own compute and the bare exchange."""
    results = []
    for num_ranks in (2, 4):
        ranks = launch.run_ranks(num_ranks, _seconds, rounds, checked=False)
        for clock in CLOCKS:
            layer, compute, bare = (
                statistics.fmean(rank[name][clock] for rank in ranks)
                for name in ("layer", "compute", "bare")
            )
            overhead = 100 * (layer / (compute + bare) - 1)
            limit = f"{1e3 * compute:.1f} ms compute, {1e3 * bare:.1f} ms bare exchange"
            name = f"experts on {num_ranks} ranks, {clock}"
            results.append(Result(name, overhead, "% more", "≤ 15", limit))
    return results
