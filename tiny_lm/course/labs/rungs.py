"""The capstone's ladder: what each rung costs, emulated, and its line in a report.

Chapter: 06_together/full_model
Source: course

Prices are those of `ladder`: a step of tiny_lm's own layers, recorded on four emulated
GPUs, so that they are prices of a technique and not of the way somebody wrote it.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, nan
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from tiny_lm import costs, ladder
from tiny_lm.config import ModelConfig
from tiny_lm.course import experiments
from tiny_lm.course.report.facts import Rung
from tiny_lm.gpus.launch import Cluster
from tiny_lm.replay import specs
from tiny_lm.replay.simulation import replay
from tiny_lm.replay.tape import Tape
from tiny_lm.replay.timeline import Timeline

Techniques = tuple[str, ...]

NAMES = dict(
    zip(
        ladder.ORDER,
        ("dense", "+ experts", "+ latents", "+ FP8", "+ overlap"),
        strict=True,
    )
)
COLORS = dict(zip(ladder.TECHNIQUES, ("moe", "mla", "fp8", "comm"), strict=True))
STEPS_APART = ladder.MICRO_BATCHES["as V3"]  # micro-batches between sums of gradients
MICRO_TOKENS = ladder.SEQUENCES * ladder.SEQ_LEN
PARTS = ("compute_ps", "exposed_ps", "bubble_ps")


@dataclass(frozen=True)
class Price:
    """What a step costs on the scaled twin, for each of its tokens.

    Args:
        parts_us: computing, waiting for bytes, waiting for others; means over ranks.
        wire_bytes: that leave a rank, over all ranks.
    """

    parts_us: tuple[float, float, float]
    wire_bytes: float

    @property
    def token_us(self) -> float:
        """All of it."""
        return sum(self.parts_us)


def variants() -> list[Techniques]:
    """All that differ: overlap is something only where rows travel to experts."""
    return [some for some in ladder.subsets() if "moe" in some or "overlap" not in some]


def price(techniques: Techniques, gpus: Cluster) -> Price:
    """Record a step and replay it, with gradients summed as seldom as V3 did."""
    overlap = "overlap" in techniques
    tapes = ladder.record(ladder.combination(techniques), overlap, gpus=gpus)
    micro = 2 if overlap else 1
    whole, passes = _means_us(tapes), _means_us([ladder.passes(t) for t in tapes])
    tokens, spread = micro * MICRO_TOKENS, STEPS_APART * MICRO_TOKENS
    parts = (p / tokens + (w - p) / spread for w, p in zip(whole, passes, strict=True))
    sent = ladder.sent_bytes(tapes)
    return Price(tuple(parts), sent["passes"] / tokens + sent["once"] / spread)


def _means_us(tapes: Sequence[Tape]) -> list[float]:
    ranks = on_twin(tapes).summary()
    return [fmean(getattr(rank, part) for rank in ranks) / 1e6 for part in PARTS]


def on_twin(tapes: Iterable[Tape]) -> Timeline:
    """The step on the scaled twin."""
    return replay(list(tapes), specs.machines()["scaled_twin"])


def as_tensor(prices: Mapping[Techniques, float]) -> Float[Tensor, "2 2 2 2"]:
    """Numbers of all combinations, a dim for each of `ladder.TECHNIQUES`, 1 is on.

    One without experts is the same with and without overlap, and may come without.
    """
    cost = torch.zeros((2,) * len(ladder.TECHNIQUES))
    for on in itertools.product((0, 1), repeat=cost.dim()):
        some = tuple(t for t, is_on in zip(ladder.TECHNIQUES, on, strict=True) if is_on)
        if some not in prices:
            some = tuple(t for t in some if t != "overlap")
        cost[on] = prices[some]
    return cost


def recorded_costs() -> Float[Tensor, "2 2 2 2"]:
    """Costs to the dense model's loss, of the long recorded runs; dense is 1.

    NaN stands for a combination that did not reach it.
    """
    kept = experiments.read("cost_ladder")["cost"]
    costs_of = {tuple(name.split()): value for name, value in kept.items()}
    return as_tensor({some: nan if x is None else x for some, x in costs_of.items()})


def rank_bytes(config: ModelConfig, num_ranks: int = ladder.NUM_RANKS) -> int:
    """Weights, gradients and optimizer that one rank holds, in FP32."""
    count = costs.count_parameters(config)
    routed = count.by_part.get("routed_experts", 0)
    here = count.total - routed + routed // num_ranks
    return sum(costs.training_bytes(here, costs.FP32_RECIPE).values())


def rung(
    techniques: Techniques,
    losses: Sequence[float],
    val_loss: float,
    of: Price,
    cost: float = inf,
) -> Rung:
    """A line of the report.

    Args:
        losses: of every step, nats per byte.
        cost: to the first rung's loss, where that is 1.
    """
    config = ladder.combination(techniques)
    count = costs.count_parameters(config)
    return Rung(
        name=NAMES[techniques],
        technique=COLORS[techniques[-1]] if techniques else "baseline",
        losses=list(losses),
        val_loss=val_loss,
        stored=count.total,
        active=count.active,
        flops=costs.flops_per_token(config, ladder.SEQ_LEN),
        cache_bytes=costs.kv_bytes_per_token(config),
        memory_bytes=rank_bytes(config),
        wire_bytes=of.wire_bytes,
        parts_us=of.parts_us,
        cost=cost,
    )


def even_shares(metrics: Sequence[Mapping[str, Any]], last: int) -> list[list[float]]:
    """Load of every expert in the last steps, a row a layer; 1 is an even share."""
    steps = torch.tensor([m["load"] for m in metrics[-last:]], dtype=torch.float64)
    total = steps.sum(0)
    return (total / total.mean(-1, keepdim=True)).tolist()
