"""DeepSeek-V3's step without one or more of its techniques, replayed.

Chapter: 06_together/cost_ladder
Source: deepseek_v3, sections 2 and 3; gqa; deepseek_moe

The same layout, batch and machine; what a technique stood for is done as large models
did it before:

    without moe       a dense feed-forward of the FLOPs that a token spends on experts:
                      as wide as V3's own first layers
    without mla       grouped queries, 8 heads of keys and values for 128 of queries
    without fp8       products and rows in BF16
    without overlap   every transfer is waited for

How many steps each would need to be as good is another matter: a replay does not know.
"""

from collections.abc import Collection
from dataclasses import replace

from tiny_lm.config import MHAConfig, ModelConfig, deepseek_v3
from tiny_lm.parallel.bf16_step import without_turning
from tiny_lm.parallel.plan import Layout, Plan
from tiny_lm.parallel.step_tape import write
from tiny_lm.parallel.v3_step import PS_PER_S, machine
from tiny_lm.replay.program import Program
from tiny_lm.replay.simulation import play_ps

KV_HEADS, D_HEAD = 8, 128  # as LLaMA-3.1 and Qwen2.5 have them
# Compute of a mixture over that of a dense model as good: 145B of experts against 67B,
# and 16B against LLaMA2-7B. Source: deepseek_moe
PUBLISHED_SHARES = (0.285, 0.40)


def v3_with(techniques: Collection[str]) -> ModelConfig:
    """V3 with some of `moe`, `mla` and `fp8` alone; without prediction modules."""
    model = replace(deepseek_v3(), num_mtp=0)
    if "moe" not in techniques:
        moe = model.moe
        width = (moe.num_shared + moe.top_k) * moe.d_expert
        model = replace(model, moe=None, num_dense_layers=model.num_layers, d_ffn=width)
    if "mla" not in techniques:
        heads = deepseek_v3().attention.num_heads
        grouped = MHAConfig(num_heads=heads, num_kv_heads=KV_HEADS, d_head=D_HEAD)
        model = replace(model, attention=grouped)
    return model if "fp8" in techniques else replace(model, fp8=None)


def step_s(
    techniques: Collection[str], reached: float, hops: str = "pipelined", **layout
) -> float:
    """Seconds of the step with some of the four techniques, `overlap` among them.

    Args:
        reached: what `v3_step.fit` found.
        hops: as of `replay`; an answer needs both.
        layout: fields of `plan.Layout` that are not to be V3's, as `batch_size`.
    """
    model = v3_with(techniques)
    there = Layout(overlap="overlap" in techniques, **layout)
    tapes = write(Plan(config=model, layout=there))
    if model.fp8 is None:
        tapes = [without_turning(tape) for tape in tapes]
    program = Program(tapes, mirror=True)
    return play_ps(program, machine(reached=reached), hops=hops) / PS_PER_S
