"""How fast a training step and a replay are, and how far from what is possible.

Chapter: 06_together/full_model

    make bench

Everything that is compared is timed in one run, in turns, and reported as a median.
"""

import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from tiny_lm import costs, memory
from tiny_lm.config import ModelConfig, MoEConfig, TrainConfig, tiny
from tiny_lm.course.bench_experts import (
    EXPERTS_IMPLEMENTATIONS,
    experts_against_others,
)
from tiny_lm.course.oracle import transformers_config
from tiny_lm.course.turns import ROUNDS, Result, Step, in_turns
from tiny_lm.gpus import comm, launch, mesh
from tiny_lm.gpus.mesh import Group
from tiny_lm.gpus.replay import replay
from tiny_lm.gpus.tape import Collective, Kernel, Mark, Tape, Wait
from tiny_lm.hardware import H100_MEASURED, machine
from tiny_lm.train import build_model, build_optimizer, record_step, train_step

TRAINING = TrainConfig()
TOKENS = TRAINING.batch_size * TRAINING.seq_len


def _tokens(batch_size: int = TRAINING.batch_size) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (batch_size, TRAINING.seq_len + 1), generator=generator)


def our_step(config: ModelConfig, group: Group | None = None) -> Step:
    """A whole training step: forward, backward, agreement, AdamW, balance."""
    group = group or mesh.solo()
    model = build_model(config, group, seed=0)
    optimizer = build_optimizer(model, TRAINING)
    tokens = _tokens(TRAINING.batch_size // group.size)
    memory.settle()
    return lambda: train_step(model, optimizer, tokens, group, clip=1.0)


def transformers_step(config: ModelConfig, experts: str) -> Step:
    """The same step for `DeepseekV3ForCausalLM`, without the balance loss."""
    from transformers import DeepseekV3ForCausalLM

    model = DeepseekV3ForCausalLM(
        transformers_config(config, experts_implementation=experts)
    ).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    tokens = _tokens()
    memory.settle()

    def step() -> None:
        logits = model(tokens[:, :-1]).logits
        F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def wide() -> ModelConfig:
    """`tiny` at width 512, two layers, tiles as in `tiny`."""
    config = tiny()
    attention = replace(
        config.attention,
        num_heads=8,
        d_latent_kv=256,
        d_latent_q=256,
        d_nope=64,
        d_rope=32,
        d_value=64,
    )
    moe: MoEConfig = replace(config.moe, d_expert=256)
    return replace(
        config, d_model=512, num_layers=2, d_ffn=1280, attention=attention, moe=moe
    )


def matmul_peak() -> float:
    """FLOP/s of a large FP32 product, with the threads that are set."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return 2 * 2048**3 / in_turns({"peak": lambda: a @ b})["peak"]


def _rank_seconds(rank: int, config: ModelConfig, num_steps: int) -> float:
    group = mesh.world()
    step = our_step(config, group)
    step()
    comm.barrier(group)
    start = time.perf_counter()
    for _ in range(num_steps):
        step()
    comm.barrier(group)
    return (time.perf_counter() - start) / num_steps


def against_transformers() -> list[Result]:
    """Tokens per second of `tiny` in FP32, ours and theirs."""
    plain = replace(tiny(), fp8=None)
    theirs = {name: transformers_step(plain, name) for name in EXPERTS_IMPLEMENTATIONS}
    once = in_turns(theirs, rounds=1)
    best = min(once, key=once.__getitem__)
    seconds = in_turns({"ours": our_step(plain), best: theirs[best]})
    peak, flops = matmul_peak(), costs.flops_per_token(plain, TRAINING.seq_len)
    ours = TOKENS / seconds["ours"]
    limit = f"{peak / flops:,.0f} at the matmul peak of {peak / 1e9:,.0f} GFLOP/s"
    return [
        Result("tiny fp32", ours, "tokens/s", limit=limit),
        Result(f"transformers fp32, {best}", TOKENS / seconds[best], "tokens/s"),
        Result("tiny / transformers", seconds[best] / seconds["ours"], "x", "≥ 1.5"),
        Result("share of the matmul peak", 100 * ours * flops / peak, "%"),
    ]


def fp8_against_fp32() -> list[Result]:
    """What emulating FP8 costs, as a multiple of the FP32 step."""
    results = []
    for name, config, aim in (("tiny", tiny(), "≤ 2"), ("width 512", wide(), "≤ 1.6")):
        plain = replace(config, fp8=None)
        steps = {"fp8": our_step(config), "fp32": our_step(plain)}
        seconds = in_turns(steps, rounds=7 if name != "tiny" else ROUNDS)
        ratio = seconds["fp8"] / seconds["fp32"]
        results.append(Result(f"fp8 / fp32 step, {name}", ratio, "x", aim))
    return results


def ranks_against_one_process() -> list[Result]:
    """Tokens per second of 4 ranks, over those of one process with two threads."""
    results = []
    for name, config in (("fp8", tiny()), ("fp32", replace(tiny(), fp8=None))):
        one, many, step = [], [], our_step(config)
        for _ in range(5):
            one.append(in_turns({"one": step}, rounds=8)["one"])
            many.append(max(launch.run_ranks(4, _rank_seconds, config, 10)))
        one_s, many_s = statistics.median(one), statistics.median(many)
        results += [
            Result(f"4 ranks, {name}", TOKENS / many_s, "tokens/s"),
            Result(f"4 ranks / 1 process, {name}", one_s / many_s, "x", "≥ 0.75"),
        ]
    return results


def moe_tapes(num_ranks: int, num_layers: int) -> list[Tape]:
    """A forward of many MoE layers, each with a dispatch beside its shared expert."""
    group = tuple(range(num_ranks))
    rows = (32 * 7392,) * num_ranks  # 32 tokens for each rank, in FP8
    tapes = []
    for rank in group:
        records = []
        for layer in range(num_layers):
            sent, here = 2 * layer, 2 * layer + 1
            records += [
                Kernel("attention", 10**10 + rank, 10**7),
                Kernel("norm", 0, 10**6),
                Kernel("router", 10**7, 10**5),
                Mark(sent),
                Wait(sent, "comm"),
                Collective("dispatch", "all_to_all", rows, group, layer),
                Mark(here, "comm"),
                Kernel("shared expert", 10**9, 10**6, "fp8"),
                Wait(here),
                Kernel("experts", 10**10, 10**7, "fp8"),
            ]
        tapes.append(Tape(rank, tuple(records)))
    return tapes


def replay_of_a_million() -> list[Result]:
    """Seconds to replay a million records of 8 and of 64 ranks, and how they grow."""
    h800 = machine("h800").achieving(H100_MEASURED)
    # Any α will do to measure the replay's own speed.
    h800 = replace(h800, nvlink_alpha_s=1e-6, network_alpha_s=1e-6)
    results = []
    replay(moe_tapes(8, 1000), h800)  # the first one is slower
    for num_ranks in (8, 64):
        seconds = {}
        for num_records in (250_000, 1_000_000):
            tapes = moe_tapes(num_ranks, num_records // num_ranks // 10)
            start = time.perf_counter()
            replay(tapes, h800)
            seconds[num_records] = time.perf_counter() - start
        name = f"replay, {num_ranks} ranks"
        growth = seconds[1_000_000] / seconds[250_000]
        results += [
            Result(f"{name}, 1,000,000 records", seconds[1_000_000], "s", "≤ 20"),
            Result(f"{name}, 4 times the records", growth, "x", "≈ 4"),
        ]
    return results


def recording_against_the_step() -> list[Result]:
    """What recording a step as a tape costs, as a multiple of that step."""
    group, tokens = mesh.solo(), _tokens()
    model = build_model(tiny(), group, seed=0)
    optimizer = build_optimizer(model, TRAINING)
    steps = {
        "step": lambda: train_step(model, optimizer, tokens, group, clip=1.0),
        "recorded": lambda: record_step(model, optimizer, tokens, group, clip=1.0),
    }
    seconds = in_turns(steps)
    ratio = seconds["recorded"] / seconds["step"]
    return [Result("recorded step / step, tiny", ratio, "x", "≤ 3")]


PARTS = (
    against_transformers,
    experts_against_others,
    fp8_against_fp32,
    ranks_against_one_process,
    recording_against_the_step,
    replay_of_a_million,
)


def main(out: Path = Path("_build/bench.json")) -> None:
    """Measure everything, print the table, write it as JSON."""
    print(f"benchmarks on {torch.get_num_threads()} threads; about five minutes")
    results: list[Result] = []
    for part in PARTS:
        for result in part():
            value = f"{result.value:,.2f} {result.unit}"
            print(f"{result.name:34} {value:>18}  {result.aim:8} {result.limit}")
            results.append(result)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps([vars(result) for result in results], indent=2) + "\n")


if __name__ == "__main__":
    main()
