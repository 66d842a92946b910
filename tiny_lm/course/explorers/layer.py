"""One layer of DeepSeek-V3 on eight GPUs, forward and backward, as tapes.

Chapter: 05_comm
Source: deepseek_v3, sections 3.2 and 3.3

Each GPU holds a group of 32 experts. A token goes to four groups, so its row leaves for
3.5 other GPUs on average: as often as in V3 for other nodes. A GPU runs the layer
forward (F) for one micro-batch and backward (B) for another, a pair as in DualPipe.

With two hops each of these GPUs stands for a node of eight, and is the one at its first
place: a row that comes in over the network is handed on over NVLink to each neighbour
that has one of its experts, and results come home the same way.

What is left out: norms and the router, below one per cent of the FLOPs; memory traffic
between the products of one bar, and their launches, as a bar is one kernel here; and
what V3 recomputes. The routing is made up, of experts that are a little unequal.
"""

from collections.abc import Sequence
from functools import cache

import torch
from jaxtyping import Int
from torch import Tensor

from tiny_lm.config import deepseek_v3
from tiny_lm.costs import V3_RECIPE, fp8_row_bytes
from tiny_lm.counts import attention_core_flops, attention_parameters, expert_parameters
from tiny_lm.replay.tape import Collective, Kernel, Mark, Record, Tape, Wait
from tiny_lm.router import route

V3 = deepseek_v3()
NUM_GPUS = V3.moe.num_groups
MOST_TOKENS = 4096  # a sequence of V3, one a GPU and micro-batch
SPREAD = 0.2  # how unequal the experts are, where a token's own taste is 1


@cache
def chosen_experts(micro_batch: int) -> Int[Tensor, "B T k"]:
    """The experts of each token of the longest sequence; row b is GPU b's sequence."""
    moe, generator = V3.moe, torch.Generator().manual_seed(micro_batch)
    liking = SPREAD * torch.randn(moe.num_experts, generator=generator)
    shape = NUM_GPUS * MOST_TOKENS, moe.num_experts
    scores = torch.sigmoid(torch.randn(shape, generator=generator) + liking)
    bias = torch.zeros(moe.num_experts)
    _, experts = route(scores, bias, moe.top_k, moe.num_groups, moe.top_groups)
    return experts.unflatten(0, (NUM_GPUS, -1))


def copies(experts: Int[Tensor, "B T k"]) -> list[list[int]]:
    """[GPU, GPU]: tokens of the first that have an expert on the second."""
    owner = experts // (V3.moe.num_experts // NUM_GPUS)
    there = torch.zeros(*owner.shape[:2], NUM_GPUS, dtype=torch.long)
    return there.scatter(-1, owner, 1).sum(dim=1).tolist()


def handed_on(experts: Int[Tensor, "B T k"]) -> list[int]:
    """Rows that go over NVLink in each node, to seven neighbours of the first place.

    An expert's node has 32 of them, four on each of its GPUs.
    """
    owner = experts // (V3.moe.num_experts // NUM_GPUS**2)
    there = torch.zeros(*owner.shape[:2], NUM_GPUS**2, dtype=torch.long)
    rows = there.scatter(-1, owner, 1).sum(dim=(0, 1)).unflatten(0, (NUM_GPUS, -1))
    return rows[:, 1:].sum(dim=1).tolist()


def kernel(
    name: str, macs: int, weights: int, row_bytes: int, precision: str = "fp8"
) -> Kernel:
    """A bar of the layer; the last letter of its name is its direction.

    Backward every product becomes two, rows are read and written twice, and the
    gradient of each weight is written.

    Args:
        macs: multiply-adds of the forward pass.
        weights: parameters, each of them read once.
    """
    passes, per_weight = 1, V3_RECIPE.weight
    if name.endswith("B"):
        passes, per_weight = 2, V3_RECIPE.weight + V3_RECIPE.gradient
    num_bytes = passes * row_bytes + per_weight * weights
    return Kernel(name, passes * 2 * macs, num_bytes, precision)


def kernels(tokens: int, pairs: int, met: int, way: str) -> list[Kernel]:
    """What one GPU computes for a micro-batch in one direction.

    Args:
        pairs: (token, expert) pairs that come to this GPU's routed experts.
        met: routed experts here that at least one token chose.
        way: `F` or `B`.
    """
    a, row = V3.attention, (1 + 2) * V3.d_model  # FP8 in, BF16 out
    project, expert = attention_parameters(V3), expert_parameters(V3)
    core_macs = attention_core_flops(a, tokens // 2) // 2 * tokens
    core_bytes = tokens * a.num_heads * 2 * (2 * a.d_qk + 2 * a.d_value)
    rows = tokens + pairs  # every token comes to the shared expert of its own GPU
    weights = (V3.moe.num_shared + met) * expert
    return [
        kernel(f"projections {way}", tokens * project, project, tokens * row),
        kernel(f"attention {way}", core_macs, 0, core_bytes, "bf16"),
        kernel(f"experts {way}", rows * expert, weights, rows * row),
    ]


def exchanges(
    matrix: list[list[int]], gpu: int, way: str, handed: list[int] | None
) -> list[Collective]:
    """What one GPU sends: rows to the experts in FP8, and back in BF16.

    Backward gradients take the same two ways: a combine's leaves as a dispatch.

    Args:
        handed: rows of a second hop, by node. Then ranks are twice as many, for each
            GPU is followed by one that stands for its neighbours.
    """
    out, back = fp8_row_bytes(V3.d_model), 2 * V3.d_model
    sent = tuple(count * out for count in matrix[gpu])
    returned = tuple(row[gpu] * back for row in matrix)
    group = tuple(range(NUM_GPUS))
    if handed:
        near = [handed[gpu] if peer == gpu else 0 for peer in group]
        sent = _in_turns(sent, [rows * out for rows in near])
        returned = _in_turns(returned, [rows * back for rows in near])
        group = tuple(range(2 * NUM_GPUS))
    return [
        Collective(f"dispatch {way}", "all_to_all", sent, group, 0),
        Collective(f"combine {way}", "all_to_all", returned, group, 0),
    ]


def _in_turns(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    return tuple(n for pair in zip(first, second, strict=True) for n in pair)


NEEDS = {  # on the other stream; the rest is in the streams' own order
    "dispatch F": "attention F",
    "experts F": "dispatch F",
    "combine F": "experts F",
    "experts B": "dispatch B",
    "combine B": "experts B",
    "attention B": "combine B",
}
APART = ("projections F", "attention F", "dispatch F", "experts F", "combine F")
APART += ("dispatch B", "experts B", "combine B", "attention B", "projections B")
# Beside each exchange runs what the other micro-batch computes meanwhile.
WOVEN = ("dispatch B", "projections F", "attention F", "dispatch F", "experts B")
WOVEN += ("combine B", "experts F", "combine F", "attention B", "projections B")


def weave(work: dict[str, Record], overlap: bool) -> tuple[Record, ...]:
    """Records of one GPU in order, with a mark and a wait wherever streams meet."""
    records: list[Record] = []
    calls = 0
    for name in WOVEN if overlap else APART:
        record = work[name]
        if isinstance(record, Collective):
            record = record._replace(sequence=calls)
            calls += 1
        if name in NEEDS:
            records.append(Wait(APART.index(NEEDS[name]), record.stream))
        records.append(record)
        if name in NEEDS.values():
            records.append(Mark(APART.index(name), record.stream))
    return tuple(records)


@cache
def tapes(tokens: int, overlap: bool, two_hops: bool = False) -> tuple[Tape, ...]:
    """All tapes of the pair of micro-batches; with two hops, of every second rank."""
    work: list[dict[str, Record]] = [{} for _ in range(NUM_GPUS)]
    for micro_batch, way in enumerate("FB"):
        experts = chosen_experts(micro_batch)[:, :tokens]
        matrix = copies(experts)
        handed = handed_on(experts) if two_hops else None
        load = experts.flatten().bincount(minlength=V3.moe.num_experts)
        for gpu, mine in enumerate(load.unflatten(0, (NUM_GPUS, -1))):
            pairs, met = int(mine.sum()), int((mine > 0).sum())
            records = kernels(tokens, pairs, met, way)
            records += exchanges(matrix, gpu, way, handed)
            work[gpu] |= {record.name: record for record in records}
    apart = 2 if two_hops else 1
    return tuple(Tape(apart * n, weave(mine, overlap)) for n, mine in enumerate(work))
