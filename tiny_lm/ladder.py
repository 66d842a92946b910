"""What each technique makes of a step's price, and of the price of a loss.

Chapter: 06_together/cost_ladder
Source: deepseek_v3, sections 3 and 4.2; course

A cheaper step is worth nothing if more of them are needed, and fewer steps are worth
nothing if each is dearer. So both are measured, apart, and multiplied:

    cost to a loss  =  tokens until a whole schedule ends at that loss
                       × emulated seconds for each token

The seconds come from a step of the very model, recorded on four emulated GPUs and
replayed on the scaled twin. What the step does for each micro-batch and what it does
once, however many micro-batches it has, are priced apart: a model that trains on 4
micro-batches a step adds up gradients thirty times as often as one that trains on 120.

Without FP8, products are priced as BF16, and rows travel as BF16. *Overlap* is no part
of a model: two micro-batches take turns, the numbers stay.
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from tiny_lm.config import ModelConfig, TrainConfig, tiny, tiny_dense
from tiny_lm.gpus import launch, mesh
from tiny_lm.gpus.mesh import Group
from tiny_lm.hardware import Machine
from tiny_lm.model import LanguageModel, is_expert
from tiny_lm.parallel import overlap as turns
from tiny_lm.parallel.dispatch import build_dispatcher
from tiny_lm.parallel.wire import BF16, WireFormat
from tiny_lm.parts import require
from tiny_lm.replay.prices import PS_PER_S
from tiny_lm.replay.recorder import recording
from tiny_lm.replay.simulation import replay
from tiny_lm.replay.specs import machines
from tiny_lm.replay.tape import Collective, Kernel, Tape
from tiny_lm.runs import load_weights
from tiny_lm.step import build_optimizer, train_step, whole

TECHNIQUES = ("moe", "mla", "fp8", "overlap")
OF_THE_MODEL = TECHNIQUES[:3]
ORDER = tuple(TECHNIQUES[:count] for count in range(len(TECHNIQUES) + 1))
NUM_RANKS, SEQUENCES, SEQ_LEN = 4, 16, 128  # a micro-batch, as of `twins`
# Between two sums of gradients. V3's: deepseek_v3, section 4.2, over its 128 pipelines
MICRO_BATCHES = {"as V3": 120, "as trained": 4}
BACKWARD, ROUND_WEIGHT = " backward", "round_weight"


def subsets() -> list[tuple[str, ...]]:
    """Every choice of techniques, in the order of `TECHNIQUES`: sixteen."""
    counts = range(len(TECHNIQUES) + 1)
    return [some for count in counts for some in combinations(TECHNIQUES, count)]


def combination(techniques: Collection[str]) -> ModelConfig:
    """`tiny_dense` with some of the techniques of `tiny`; `overlap` changes no model.

    Raises:
        ValueError: no such technique.
    """
    unknown = sorted(set(techniques) - set(TECHNIQUES))
    require(not unknown, f"no technique {unknown}; there are: {', '.join(TECHNIQUES)}")
    full, plain = tiny(), tiny_dense()
    base = full if "moe" in techniques else plain
    return replace(
        base,
        name="_".join(t for t in OF_THE_MODEL if t in techniques) or "dense",
        attention=(full if "mla" in techniques else plain).attention,
        fp8=full.fp8 if "fp8" in techniques else None,
    )


def record(
    config: ModelConfig,
    overlap: bool = False,
    *,
    tokens: Int[Tensor, "two B T1"] | None = None,
    weights: Path | None = None,
    gpus: launch.Cluster | None = None,
) -> list[Tape]:
    """A whole training step on four emulated GPUs: the second, the first warms up.

    Args:
        overlap: two micro-batches in turn, in place of one.
        tokens: the batches of both steps; by default drawn at random.
        weights: of the whole model; by default fresh ones.
        gpus: a cluster that is warm already; by default a new one.

    Raises:
        ValueError: there is nothing to overlap: a dense model exchanges no rows.
    """
    require(not overlap or config.moe is not None, "a dense model has nothing to hide")
    if tokens is None:
        generator = torch.Generator().manual_seed(0)
        shape = (2, SEQUENCES * (2 if overlap else 1), SEQ_LEN + 1)
        tokens = torch.randint(config.vocab_size, shape, generator=generator)
    call = _record, config, overlap, tokens, weights
    return gpus.run(*call) if gpus else launch.run_ranks(NUM_RANKS, *call)


def _record(
    rank: int, config: ModelConfig, overlap: bool, tokens: Tensor, weights: Path | None
) -> Tape:
    group = mesh.world()
    model = build(config, group)
    if weights:
        _load_share(model, load_weights(weights))
    differentiate = turns.loss_and_gradients if overlap else whole
    optimizer = build_optimizer(model, TrainConfig(lr=1e-9))  # what is priced stays
    first, second = tokens.chunk(group.size, dim=1)[rank]
    step = partial(
        train_step, model, optimizer, group=group, clip=1.0, differentiate=differentiate
    )
    step(tokens=first)
    with recording(rank, model) as recorder:
        step(tokens=second)
    return recorder.tape()


def build(config: ModelConfig, group: Group, seed: int = 0) -> LanguageModel:
    """As `step.build_model`, but without FP8 rows travel as BF16, as they would."""
    dispatcher = build_dispatcher(config, group, plain=WireFormat(BF16(), BF16()))
    return LanguageModel(config, dispatcher, seed)


def _load_share(model: LanguageModel, state: Mapping[str, Tensor]) -> None:
    """Of experts those that are here, of all else everything."""
    layers = (block.ffn for block in model.blocks)
    moe = next((ffn for ffn in layers if hasattr(ffn, "dispatcher")), None)
    here = moe.dispatcher.local_experts if moe else range(0)
    model.load_state_dict(
        {
            name: x[here.start : here.stop] if is_expert(name) else x
            for name, x in state.items()
        }
    )


class Price(NamedTuple):
    """What a step costs on a machine, emulated.

    Args:
        pass_us: forward and backward, for each token of the batch.
        once_us: what a step does once, however many tokens it has: it adds up
            gradients, clips, updates weights, and rounds them to FP8.
    """

    pass_us: float
    once_us: float

    def per_token_us(
        self, num_micro_batches: int, micro_tokens: int = SEQUENCES * SEQ_LEN
    ) -> float:
        """Microseconds a token in a step of so many micro-batches."""
        return self.pass_us + self.once_us / (num_micro_batches * micro_tokens)


def price(
    tapes: Sequence[Tape],
    num_tokens: int,
    machine: Machine | None = None,
    hops: str = "pipelined",
) -> Price:
    """Replay a recorded step of so many tokens, as a whole and without its end.

    Args:
        machine: by default the scaled twin.
        hops: as of `replay`; an answer needs both.

    Raises:
        ValueError: the tapes hold no backward pass.
    """
    machine = machine or machines()["scaled_twin"]
    us = {}
    for part, some in (("whole", tapes), ("pass", [passes(t) for t in tapes])):
        us[part] = replay(some, machine, hops=hops).step_ps / PS_PER_S * 1e6
    return Price(us["pass"] / num_tokens, us["whole"] - us["pass"])


def passes(tape: Tape) -> Tape:
    """Forward and backward of a recorded step, without what a step does once.

    Raises:
        ValueError: the tape holds no backward pass.
    """
    back = [
        place
        for place, record in enumerate(tape.records)
        if isinstance(record, Kernel | Collective) and record.name.endswith(BACKWARD)
    ]
    require(bool(back), f"the tape of rank {tape.rank} holds no backward pass")
    kept = tape.records[: back[-1] + 1]
    return Tape(tape.rank, tuple(r for r in kept if not _rounds_a_weight(r)))


def _rounds_a_weight(record: object) -> bool:
    return isinstance(record, Kernel) and record.name.endswith(ROUND_WEIGHT)


def sent_bytes(tapes: Iterable[Tape]) -> dict[str, int]:
    """Bytes that leave their rank, over all ranks: of the passes, and once a step."""
    total = {"passes": 0, "once": 0}
    for tape in tapes:
        in_passes, both = _sent(passes(tape)), _sent(tape)
        total["passes"] += in_passes
        total["once"] += both - in_passes
    return total


def _sent(tape: Tape) -> int:
    calls = (r for r in tape.records if isinstance(r, Collective))
    return sum(call.sent_bytes(tape.rank) for call in calls)


def steps_to(level: float, ends: Iterable[tuple[int, float]]) -> float:
    """Steps of a whole schedule that ends at this loss, between those that were run.

    Straight lines between the ends, on logarithmic scales: losses fall about as a power
    of the steps. Where the line crosses more than once, the first time counts.

    Args:
        ends: steps and last loss of whole schedules. Never points within one: halfway
            through, its rate has not come down.

    Raises:
        ValueError: the level lies beyond what was run, at either end; nothing is
            extrapolated.
    """
    ends = sorted(ends)
    require(len(ends) > 1, "a line needs schedules of two lengths")
    (shortest, first), (longest, _) = ends[0], ends[-1]
    require(
        first >= level,
        f"{shortest:,} steps, the fewest, end below {level:.4f} already: {first:.4f}",
    )
    for (before, above), (after, below) in zip(ends, ends[1:], strict=False):
        if above >= level >= below:
            if above == below:
                return float(before)
            part = math.log(above / level) / math.log(above / below)
            return before * (after / before) ** part
    lowest = min(loss for _, loss in ends)
    raise ValueError(
        f"{longest:,} steps, the most, do not reach {level:.4f}: the lowest is "
        f"{lowest:.4f}"
    )
