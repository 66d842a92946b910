"""How fast a training step is, and how far from what is possible.

Chapter: 06_together/full_model

    make bench

Everything that is compared is timed in one run, in turns, and reported as a median.
"""

import statistics
import time
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tiny_lm import costs, memory
from tiny_lm.config import ModelConfig, MoEConfig, TrainConfig, tiny
from tiny_lm.course.bench.experts import EXPERTS_IMPLEMENTATIONS
from tiny_lm.course.bench.oracle import transformers_config
from tiny_lm.course.bench.turns import Result, Step, in_turns
from tiny_lm.gpus import comm, launch, mesh
from tiny_lm.gpus.mesh import Group
from tiny_lm.layers import Products
from tiny_lm.matmul import times
from tiny_lm.model import LanguageModel
from tiny_lm.step import build_model, build_optimizer, record_step, train_step

TRAINING = TrainConfig()
TOKENS = TRAINING.batch_size * TRAINING.seq_len


def _tokens(batch_size: int = TRAINING.batch_size) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (batch_size, TRAINING.seq_len + 1), generator=generator)


def our_step(
    config: ModelConfig,
    group: Group | None = None,
    products: Products | None = None,
) -> Step:
    """A whole training step: forward, backward, agreement, AdamW, balance."""
    group = group or mesh.solo()
    if products is None:
        model = build_model(config, group, seed=0)
    else:
        model = LanguageModel(config, products=products)
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
    """FLOP/s of a large FP32 product by the faster library, on the threads set."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return 2 * 2048**3 / in_turns({"peak": lambda: times(a, b)})["peak"]


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


def ranks_against_one_process() -> list[Result]:
    """Tokens per second of 4 ranks, over those of one process with two threads."""
    results = []
    for name, config in (("fp8", tiny()), ("fp32", replace(tiny(), fp8=None))):
        one, many, step = [], [], our_step(config)
        for _ in range(5):
            one.append(in_turns({"one": step}, rounds=8)["one"])
            seconds = launch.run_ranks(4, _rank_seconds, config, 10, checked=False)
            many.append(max(seconds))
        one_s, many_s = statistics.median(one), statistics.median(many)
        results += [
            Result(f"4 ranks, {name}", TOKENS / many_s, "tokens/s"),
            Result(f"4 ranks / 1 process, {name}", one_s / many_s, "x", "≥ 0.75"),
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
