"""The machine on which `tiny` meets what DeepSeek-V3 met on H800s, derived.

Chapter: 05_comm/emulated_time
Source: deepseek_v3, sections 3.2 and 4.2; course

`replay.twin` scales a machine; here its factors come from. The unit is one MoE layer
and one micro-batch on one GPU, forward and backward: for V3 a sequence of 4096 tokens,
for `tiny` a rank's share of a batch. Each kind of cost is to take as long on the twin
as V3's layer takes on an H800:

    products      FLOPs of both, from `costs` and from the tape. BF16 products count as
                  many times as they are slower than FP8. The FP32 of `tiny`, which
                  stands for V3's BF16, runs at the BF16 rate
    memory        bytes of all kernels that multiply no matrices. What V3's own program
                  moves is not published, so this is what *this* program would move at
                  V3's widths. It is recorded at a sixteenth of all widths, where each
                  such kernel moves a sixteenth; and halved, for V3 keeps activations
                  in BF16
    launches      as many as this program launches for a layer, at any width
    links         set last, so that dispatch and combine take as long as the three
                  above together: the 1 : 1 that DeepSeek-V3 reports before overlap.
                  All links by one factor, so NVLink stays as much faster

V3's kernels are fused further than these, so its true share of memory and launches is
smaller. Rounding weights to FP8 is left out: V3 does it once for many micro-batches.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch

from tiny_lm import counts
from tiny_lm.config import ModelConfig, TrainConfig, deepseek_v3, tiny
from tiny_lm.costs import V3_RUN
from tiny_lm.files import to_json, write_whole
from tiny_lm.gpus import launch, mesh
from tiny_lm.hardware import Machine
from tiny_lm.replay import specs
from tiny_lm.replay.prices import PS_PER_S
from tiny_lm.replay.simulation import replay
from tiny_lm.replay.tape import Collective, Kernel, Record, Tape
from tiny_lm.replay.timeline import COMM
from tiny_lm.replay.twin import Factors, Work, scaled_twin
from tiny_lm.step import build_model, build_optimizer, record_step, train_step

NARROW = 16
NUM_RANKS, SEQUENCES, SEQ_LEN = 4, 16, 128
GPUS_PER_NODE = 2  # so that four ranks are two nodes, as V3's 64 are eight
CLIP = TrainConfig().clip


def record_tapes(
    config: ModelConfig,
    num_ranks: int = NUM_RANKS,
    sequences: int = SEQUENCES,
    seq_len: int = SEQ_LEN,
    *,
    gpus: launch.Cluster | None = None,
) -> list[Tape]:
    """One training step of a fresh model on every rank: the second, the first warms up.

    Args:
        sequences: in the batch, over all ranks.
        gpus: a cluster of so many ranks that is warm already; by default a new one.
    """
    call = _record, config, sequences, seq_len
    return gpus.run(*call) if gpus else launch.run_ranks(num_ranks, *call)


def _record(rank: int, config: ModelConfig, sequences: int, seq_len: int) -> Tape:
    group = mesh.world()
    model = build_model(config, group, seed=0)
    optimizer = build_optimizer(model, TrainConfig())
    generator = torch.Generator().manual_seed(0)
    shape = (2, sequences, seq_len + 1)
    batches = torch.randint(config.vocab_size, shape, generator=generator)
    first, second = batches.chunk(group.size, dim=1)[rank]
    train_step(model, optimizer, first, group, CLIP)
    return record_step(model, optimizer, second, group, CLIP)[1]


def narrow_v3(by: int = NARROW) -> ModelConfig:
    """DeepSeek-V3 with all widths divided; one layer of each sort, heads as wide."""
    v3 = deepseek_v3()
    a, moe = v3.attention, v3.moe
    return replace(
        v3,
        name=f"deepseek_v3 / {by}",
        vocab_size=256,
        d_model=v3.d_model // by,
        num_layers=2,
        num_dense_layers=1,
        d_ffn=v3.d_ffn // by,
        attention=replace(
            a,
            num_heads=a.num_heads // by,
            d_latent_kv=a.d_latent_kv // by,
            d_latent_q=a.d_latent_q // by,
        ),
        moe=replace(
            moe, num_experts=moe.num_experts // by, d_expert=moe.d_expert // by
        ),
    )


def layer_work(tapes: Sequence[Tape], layers: Sequence[int], machine: Machine) -> Work:
    """What one of the layers costs a GPU in a step, a mean over layers and ranks.

    Bytes on links are left open, at 0: `exchange_s` says what they cost.

    Args:
        machine: for the weight of BF16 products.
    """
    total = dict.fromkeys(Work.__dataclass_fields__, 0.0)
    slower = _fp8_rate(machine) / _bf16_rate(machine)
    for tape in tapes:
        for record in _of_layers(tape, layers):
            if isinstance(record, Collective):
                total["messages"] += 1
            elif isinstance(record, Kernel) and "round_weight" not in record.name:
                total["launches"] += 1
                total["memory_bytes"] += 0 if record.flops else record.num_bytes
                weight = 1.0 if record.precision == "fp8" else slower
                total["flops"] += record.flops * weight
    parts = len(tapes) * len(layers)
    return Work(**{kind: amount / parts for kind, amount in total.items()})


def v3_layer_work(narrow: Sequence[Tape], machine: Machine, by: int = NARROW) -> Work:
    """The same for a layer of DeepSeek-V3 and 4096 tokens.

    Args:
        narrow: tapes of `narrow_v3(by)`, from `record_tapes`.
    """
    v3, num_tokens = deepseek_v3(), V3_RUN.seq_len
    active = counts.count_parameters(v3).active_by_part
    router = active["router"] // v3.num_moe_layers
    experts = active["shared_experts"] + active["routed_experts"]
    fp8 = counts.attention_parameters(v3) + experts // v3.num_moe_layers
    core = counts.attention_core_flops(v3.attention, num_tokens / 2)
    slower = _fp8_rate(machine) / _bf16_rate(machine)
    per_token = 3 * (2 * fp8 + slower * (2 * router + core))
    ours = layer_work(narrow, [1], machine)
    recorded = SEQUENCES * SEQ_LEN / len(narrow)
    bf16 = 1 / 2  # of the bytes of FP32
    return replace(
        ours,
        flops=num_tokens * per_token,
        memory_bytes=ours.memory_bytes * by * bf16 * num_tokens / recorded,
    )


def compute_s(work: Work, machine: Machine) -> dict[str, float]:
    """Seconds of products, memory and launches, one after the other."""
    memory = machine.memory_bytes_per_s * machine.memory_efficiency
    return {
        "products": work.flops / _fp8_rate(machine),
        "memory": work.memory_bytes / memory,
        "launches": work.launches * machine.launch_s,
    }


def exchange_s(tapes: Sequence[Tape], layers: Sequence[int], machine: Machine) -> float:
    """Seconds that a layer's collectives are under way, a mean over layers and ranks.

    By replay, for an exchange lasts as long as its busiest port, not its mean one.
    """
    wanted = _names(layers)
    busy_ps = sum(
        span.end_ps - span.start_ps
        for span in replay(tapes, machine).spans
        if span.kind == COMM and _layer(span.name) in wanted
    )
    return busy_ps / PS_PER_S / len(tapes) / len(layers)


def derive_factors(
    small: Sequence[Tape],
    layers: Sequence[int],
    real: Work,
    machine: Machine,
    gpus_per_node: int,
) -> Factors:
    """Factors by which a layer of the small tapes costs what the real one does.

    Args:
        small: tapes of all ranks of one step.
        layers: its MoE layers.
        real: from `v3_layer_work`.
        machine: the one that is scaled; with launch cost and α.
        gpus_per_node: of the twin; ranks beyond it are joined by the network.
    """
    base = replace(
        machine,
        fp32_flops_per_s=machine.bf16_flops_per_s,
        fp32_efficiency=machine.bf16_efficiency,
        gpus_per_node=gpus_per_node,
    )
    ours = layer_work(small, layers, base)
    at_once = replace(base, nvlink_alpha_s=0.0, network_alpha_s=0.0)
    links = exchange_s(small, layers, at_once) / sum(compute_s(real, base).values())
    return Factors(
        flops=ours.flops / real.flops,
        memory=ours.memory_bytes / real.memory_bytes,
        nvlink=links,
        network=links,
        launch=real.launches / ours.launches,
        alpha=real.messages / ours.messages,
    )


def derive_twin(
    small: Sequence[Tape],
    layers: Sequence[int],
    real: Work,
    machine: Machine,
    gpus_per_node: int,
) -> Machine:
    """The twin on which a layer of the small tapes costs what the real one does.

    Arguments are those of `derive_factors`; FP32 costs what BF16 does.
    """
    by = derive_factors(small, layers, real, machine, gpus_per_node)
    base = replace(
        machine,
        fp32_flops_per_s=machine.bf16_flops_per_s,
        fp32_efficiency=machine.bf16_efficiency,
    )
    return scaled_twin(base, by, gpus_per_node=gpus_per_node)


def derive_kept(small: Sequence[Tape], narrow: Sequence[Tape]) -> dict[str, Any]:
    """What `replay.specs` keeps of the twin of `tiny`.

    Args:
        small: freshly recorded tapes of `tiny`.
        narrow: those of `narrow_v3()`.
    """
    machine, config = specs.real("h800"), tiny()
    layers = range(config.num_dense_layers, config.num_layers)
    real = v3_layer_work(narrow, machine)
    by = derive_factors(small, layers, real, machine, GPUS_PER_NODE)
    return {
        "of": f"{config.name}, {NUM_RANKS} ranks, {SEQUENCES} x {SEQ_LEN} tokens",
        "machine": machine.name,
        "gpus_per_node": GPUS_PER_NODE,
        "factors": {name: float(f"{value:.4g}") for name, value in asdict(by).items()},
    }


def _of_layers(tape: Tape, layers: Sequence[int]) -> Iterator[Record]:
    wanted = _names(layers)
    for record in tape.records:
        if isinstance(record, Kernel | Collective) and _layer(record.name) in wanted:
            yield record


def _names(layers: Sequence[int]) -> set[str]:
    return {f"blocks.{layer}" for layer in layers}


def _layer(name: str) -> str:
    """The block in a record's name: `blocks.1` of `blocks.1.ffn counts`."""
    return ".".join(name.partition(" ")[0].split(".")[:2])


def _fp8_rate(machine: Machine) -> float:
    return machine.fp8_flops_per_s * machine.fp8_efficiency


def _bf16_rate(machine: Machine) -> float:
    return machine.bf16_flops_per_s * machine.bf16_efficiency


if __name__ == "__main__":
    with launch.Cluster(NUM_RANKS) as warm:
        fresh = [record_tapes(config, gpus=warm) for config in (tiny(), narrow_v3())]
    write_whole(specs.TWIN, to_json(derive_kept(*fresh), indent=2) + "\n")
    print(f"wrote {specs.TWIN}")
