"""The tape of a whole training step, from a config and a layout, without a GPU.

Chapter: 05_comm/slower_link
Source: deepseek_v3, section 3; deepseek_isca

A layout says which GPU holds what. With P stages, E expert ranks and C copies there are
P · E · C GPUs; those of one stage are neighbours, and do the same to other tokens.
So one tape a stage tells all: `replay(tapes, machine, mirror=True)` lets those without
a tape do as their neighbours do, and the time to replay grows with the stages, not with
the GPUs. `step_tape.write` makes these tapes, or those of all GPUs, to check just that.

    inside a node       GPUs 8 n … 8 n + 7: a token that came to the node is handed on
    expert group        E neighbours of one stage; each holds 1 / E of all experts
    copies of experts   the same place in each expert group of the stage
    copies of the rest  all GPUs of the stage
    pipeline            the same place in each stage

Routing is balanced: each token picks its groups and its experts in them by lot, and
every GPU gets the mean. A real router is uneven, and everybody waits for the fullest.
Dispatch and combine run on a stream of their own beside the kernels, unless the layout
says `overlap=False`; then all of it runs one after the other on a single stream.
"""

from dataclasses import dataclass
from functools import cached_property
from math import comb

from tiny_lm.config import ModelConfig, MoEConfig
from tiny_lm.costs import fp8_row_bytes
from tiny_lm.counts import forward_flops_by_part
from tiny_lm.parallel.chunks import DISPATCH, Chunk, Shape, build_chunk
from tiny_lm.parallel.schedules import OF_WHOLE_STAGES, stage_of
from tiny_lm.parts import require, require_positive


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Which GPU does what; the default is DeepSeek-V3's, on 2048 GPUs.

    Args:
        num_expert_ranks: GPUs that share one set of experts (EP).
        num_expert_copies: sets of experts in a stage; times `num_expert_ranks` it is
            how many GPUs share the stage's data (DP).
        gpus_per_node: has to be that of the machine on which it is replayed.
        sequences_per_micro: not published for V3; one is the least there can be.
        tensor_parallel: GPUs of a node that divide the heads of one attention among
            them, and see each other's tokens for it; V3 uses none.
        overlap: transfers run beside kernels.

    Raises:
        ValueError: a count that is not positive, does not divide, or an unknown
            schedule.
    """

    num_stages: int = 16
    num_expert_ranks: int = 64
    num_expert_copies: int = 2
    gpus_per_node: int = 8
    batch_size: int = 15_360  # sequences a step, over all GPUs
    seq_len: int = 4096
    sequences_per_micro: int = 1
    tensor_parallel: int = 1
    schedule: str = "dualpipe"
    overlap: bool = True

    def __post_init__(self) -> None:
        counts = "num_stages num_expert_ranks num_expert_copies gpus_per_node"
        require_positive(self, *counts.split(), "batch_size", "seq_len")
        require_positive(self, "sequences_per_micro", "tensor_parallel")
        require(
            self.schedule in OF_WHOLE_STAGES,
            f"unknown schedule {self.schedule!r}; "
            f"there are: {', '.join(OF_WHOLE_STAGES)}",
        )
        share = self.gpus_per_stage * self.sequences_per_micro
        require(
            self.batch_size % share == 0,
            f"batch_size={self.batch_size} does not divide into micro-batches of "
            f"{self.sequences_per_micro} on {self.gpus_per_stage} GPUs a stage",
        )
        nodes = (self.gpus_per_stage, self.gpus_per_node)
        experts = (self.num_expert_ranks, self.gpus_per_node)
        require(
            max(nodes) % min(nodes) == 0 and max(experts) % min(experts) == 0,
            f"stages of {nodes[0]} GPUs and groups of {experts[0]} expert ranks do not "
            f"divide into nodes of {self.gpus_per_node}",
        )
        require(
            min(nodes) % self.tensor_parallel == 0,
            f"tensor_parallel={self.tensor_parallel} does not divide a node of "
            f"{min(nodes)}",
        )

    @property
    def gpus_per_stage(self) -> int:
        """All of them see different tokens."""
        return self.num_expert_ranks * self.num_expert_copies

    @property
    def num_gpus(self) -> int:
        """Of the whole cluster."""
        return self.num_stages * self.gpus_per_stage

    @property
    def num_micro(self) -> int:
        """Micro-batches that one pipeline of GPUs works off in a step."""
        return self.batch_size // (self.gpus_per_stage * self.sequences_per_micro)

    @property
    def num_pipelines(self) -> int:
        """Stages that a GPU holds, so copies of each stage: 2 in DualPipe."""
        return 2 if self.schedule == "dualpipe" else 1


def reach(moe: MoEConfig, num_experts: int) -> float:
    """Chance that a token, choosing by lot, picks any of so many neighbouring experts.

    First it draws `top_groups` groups, then `top_k` experts in them.

    Args:
        num_experts: a part of one group, or some whole groups.

    Raises:
        ValueError: the experts are neither.
    """
    size = moe.num_experts // moe.num_groups
    require(
        max(size, num_experts) % min(size, num_experts) == 0,
        f"{num_experts} experts are neither a part of a group of {size} nor whole ones",
    )
    groups, each = max(1, num_experts // size), min(num_experts, size)
    missed = 0.0
    for drawn in range(min(groups, moe.top_groups) + 1):
        rest = moe.top_groups * size - drawn * each
        ways = comb(groups, drawn) * comb(
            moe.num_groups - groups, moe.top_groups - drawn
        )
        missed += ways * comb(rest, moe.top_k)
    all_ways = comb(moe.num_groups, moe.top_groups)
    return 1 - missed / (all_ways * comb(moe.top_groups * size, moe.top_k))


def split_layers(config: ModelConfig, num_stages: int, seq_len: int) -> list[range]:
    """Neighbouring layers for each stage, as even in FLOPs as whole layers allow.

    The heads count as the last stage's. Of all splits it takes the one with the least
    sum of squares; V3's own split is not published.

    Raises:
        ValueError: fewer layers than stages.
    """
    num_layers = config.num_layers
    require(
        num_stages <= num_layers,
        f"cannot split num_layers={num_layers} over num_stages={num_stages}",
    )
    before, heads = _flops_before(config, seq_len)
    # best[n]: least sum of squares for the first n layers, and where the cuts are
    best = {n: (before[n] ** 2, (0, n)) for n in range(1, num_layers + 1)}
    for stage in range(1, num_stages):
        last = heads if stage == num_stages - 1 else 0.0
        best = {
            n: min(
                (best[m][0] + (before[n] - before[m] + last) ** 2, (*best[m][1], n))
                for m in range(stage, n)
            )
            for n in range(stage + 1, num_layers + 1)
        }
    cuts = best[num_layers][1]
    return [range(*pair) for pair in zip(cuts, cuts[1:], strict=False)]


def _flops_before(config: ModelConfig, seq_len: int) -> tuple[list[float], float]:
    """FLOPs of one token in the first n layers for each n, and in all heads."""
    flops = forward_flops_by_part(config, seq_len)
    attention = flops["attention"] / config.num_layers
    attention += flops["attention_core"] / (config.num_layers + config.num_mtp)
    experts = flops["shared_experts"] + flops["routed_experts"] + flops["router"]
    dense, routed = config.num_dense_layers, config.num_moe_layers
    before = [0.0]
    for layer in range(config.num_layers):
        ffn = flops["dense_ffn"] / dense if layer < dense else experts / routed
        before.append(before[-1] + attention + ffn)
    return before, float(flops["head"] + flops["mtp"])


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A model on a layout: what each stage does, and who talks to whom how much.

    Raises:
        ValueError: experts that do not divide over their ranks, fewer layers than
            stages, or a schedule that these counts do not fit.
    """

    config: ModelConfig
    layout: Layout

    def __post_init__(self) -> None:
        moe, ranks = self.config.moe, self.layout.num_expert_ranks
        require(
            moe is None or moe.num_experts % ranks == 0,
            f"{moe and moe.num_experts} experts do not divide over "
            f"num_expert_ranks={ranks}",
        )
        self.actions(0)
        assert len(self.chunks) == self.layout.num_stages

    @cached_property
    def chunks(self) -> list[Chunk]:
        """The work of each stage, for one micro-batch."""
        here, count = self.layout, self.layout.num_stages
        tokens = here.sequences_per_micro * here.seq_len
        shape = Shape(
            self.config,
            tokens,
            here.seq_len,
            here.num_expert_ranks,
            here.tensor_parallel,
        )
        return [
            build_chunk(shape, layers, last=stage == count - 1)
            for stage, layers in enumerate(
                split_layers(self.config, count, here.seq_len)
            )
        ]

    @property
    def micro_tokens(self) -> int:
        """Tokens of a micro-batch on one GPU."""
        return self.layout.sequences_per_micro * self.layout.seq_len

    def actions(self, stage: int) -> list[tuple]:
        """What the GPUs of this place in the pipeline do, in order."""
        schedule = OF_WHOLE_STAGES[self.layout.schedule]
        return schedule(self.layout.num_stages, stage, self.layout.num_micro)

    def held(self, stage: int) -> list[Chunk]:
        """The chunks that these GPUs keep, by pipeline."""
        count = self.layout.num_stages
        pipelines = range(self.layout.num_pipelines)
        return [self.chunks[stage_of(p, count, stage)] for p in pipelines]

    def row_bytes(self, transfer: str) -> int:
        """One token's row: out in FP8 if the config says so, back in BF16."""
        fp8, d = self.config.fp8, self.config.d_model
        packed = transfer == DISPATCH and fp8 and fp8.wire
        return fp8_row_bytes(d, fp8.tile) if packed else 2 * d

    def copies(self) -> tuple[float, float]:
        """Copies of one token, on average: to a GPU of its own node, to another node.

        A node gets a token once, however many of its experts want it, at the GPU with
        the sender's place; that GPU hands it on, once to each neighbour in need.
        """
        moe, here = self.config.moe, self.layout
        each = moe.num_experts // here.num_expert_ranks
        in_node = min(here.gpus_per_node, here.num_expert_ranks)
        nodes = here.num_expert_ranks // in_node
        return nodes * reach(moe, each), reach(moe, each * in_node)

    def exchange_bytes(self, transfer: str, place: int) -> tuple[int, ...]:
        """What the GPU at this place of an expert group sends to each of the group."""
        here = self.layout
        near, far = (
            round(self.micro_tokens * copies) * self.row_bytes(transfer)
            for copies in self.copies()
        )
        in_node = min(here.gpus_per_node, here.num_expert_ranks)

        def to(peer: int) -> int:
            if peer // in_node == place // in_node:
                return near
            return far if peer % in_node == place % in_node else 0

        return tuple(to(peer) for peer in range(here.num_expert_ranks))

    def stage_copies(self, rank: int, step: int) -> tuple[int, ...]:
        """GPUs at this place, every `step` GPUs, in all stages that hold the same."""
        width, count = self.layout.gpus_per_stage, self.layout.num_stages
        stages = {
            stage_of(p, count, rank // width) for p in range(self.layout.num_pipelines)
        }
        return tuple(
            stage * width + place
            for stage in sorted(stages)
            for place in range(rank % width % step, width, step)
        )


def block_of(rank: int, size: int) -> tuple[int, ...]:
    """The `size` neighbours among whom the rank is: a node, an expert group."""
    first = rank // size * size
    return tuple(range(first, first + size))
