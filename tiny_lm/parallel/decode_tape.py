"""Tapes of one decoding step: what attention costs as the context grows.

Chapter: 03_mla
Source: deepseek_v2, section 2.1; deepseek_isca, section 2.1; flash_mla

One new token for each sequence of a batch passes the attention of every layer, on one
GPU that holds all of it; V3 serves its attention so, as data parallel copies. Experts
are on other GPUs and cost the same whatever the attention, so they are left out.

Six ways to attend with as many heads as V3, 128 of width 128:

    mha            a key and a value for each head
    gqa, mqa       for each 16 heads, for all heads
    mla_kept       latents are expanded once, and every head's keys and values kept
    mla_expanded   latents are kept, and expanded anew at every step
    mla_absorbed   latents are kept, and attended to as they are

Everything is BF16. Scores stay on the chip; keys and values made anew do not: they are
written and read again.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from tiny_lm.config import MHAConfig, MLAConfig, ModelConfig, deepseek_v3
from tiny_lm.costs import expanded_kv_bytes_per_token, kv_bytes_per_token
from tiny_lm.counts import attention_parameters
from tiny_lm.hardware import H100_MEASURED, Machine, machine
from tiny_lm.parts import require
from tiny_lm.replay.prices import PS_PER_S
from tiny_lm.replay.simulation import replay
from tiny_lm.replay.tape import Kernel, Tape

BF16_BYTES = 2
KV_HEADS = {"mha": 128, "gqa": 8, "mqa": 1}
FORMS = (*KV_HEADS, "mla_kept", "mla_expanded", "mla_absorbed")
CONTEXTS = tuple(1024 * 2**n for n in range(8))  # 1K to 128K


@dataclass(frozen=True, kw_only=True)
class DecodeCost:
    """One decoding step of all attention layers.

    cache_bytes: of all sequences; peak_bytes: with weights and what a layer makes anew
    step_s: replayed; seconds_per_token: shared by the sequences of the batch
    """

    form: str
    context: int
    batch_size: int
    cache_bytes: int
    peak_bytes: int
    flops: int
    moved_bytes: int
    step_s: float

    @property
    def seconds_per_token(self) -> float:
        return self.step_s / self.batch_size


def model_of(form: str, config: ModelConfig | None = None) -> ModelConfig:
    """V3, or V3 with multi-head, grouped or multi-query attention in place of MLA.

    Raises:
        ValueError: no such form, or the config has no latent attention.
    """
    config = config or deepseek_v3()
    a = config.attention
    require(form in FORMS, f"unknown form {form!r}; there are: {', '.join(FORMS)}")
    require(isinstance(a, MLAConfig), f"{config.name} has no latent attention")
    if form not in KV_HEADS:
        return config
    num_kv_heads = min(KV_HEADS[form], a.num_heads)
    heads = MHAConfig(num_heads=a.num_heads, num_kv_heads=num_kv_heads, d_head=a.d_nope)
    return replace(config, attention=heads)


def cache_bytes_per_token(form: str, config: ModelConfig | None = None) -> int:
    """What one token of one sequence costs in all layers.

    Raises:
        ValueError: as `model_of`.
    """
    model = model_of(form, config)
    if form == "mla_kept":
        return expanded_kv_bytes_per_token(model)
    return int(kv_bytes_per_token(model))


def decode_tape(
    form: str, context: int, batch_size: int = 1, config: ModelConfig | None = None
) -> Tape:
    """One step, on one GPU.

    Args:
        context: tokens that each sequence holds, the new one among them.

    Raises:
        ValueError: as `model_of`, or a count is not positive.
    """
    require(
        context > 0 and batch_size > 0,
        f"context and batch_size must be positive, got {context} and {batch_size}",
    )
    model = model_of(form, config)
    layer = _heads if form in KV_HEADS else _latent
    kernels = tuple(layer(form, model, context, batch_size))
    return Tape(0, kernels * model.num_layers)


def decode_cost(
    form: str,
    context: int,
    batch_size: int = 1,
    on: Machine | None = None,
    config: ModelConfig | None = None,
) -> DecodeCost:
    """Memory and replayed time of one step.

    Args:
        on: by default an H800 at the rates measured on an H100, kernels launched at no
            cost, as from a captured graph; `launched` has the other end.

    Raises:
        ValueError: as `decode_tape`.
    """
    tape = decode_tape(form, context, batch_size, config)
    model, kernels = model_of(form, config), tape.records
    cache = batch_size * context * cache_bytes_per_token(form, config)
    weights = BF16_BYTES * model.num_layers * attention_parameters(model)
    timeline = replay([tape], on or h800())
    return DecodeCost(
        form=form,
        context=context,
        batch_size=batch_size,
        cache_bytes=cache,
        peak_bytes=weights + cache + _made_anew(form, model, context * batch_size),
        flops=sum(k.flops for k in kernels),
        moved_bytes=sum(k.num_bytes for k in kernels),
        step_s=timeline.step_ps / PS_PER_S,
    )


def h800(launched: bool = False) -> Machine:
    """An H800 at measured rates; launching a kernel is free, or what Python takes."""
    reached = machine("h800").achieving(H100_MEASURED)
    return reached if launched else replace(reached, launch_s=0.0)


def sweep(
    contexts: Iterable[int] = CONTEXTS,
    batch_size: int = 1,
    on: Machine | None = None,
    forms: Iterable[str] = FORMS,
) -> list[DecodeCost]:
    """Every form at every context, at V3's shape: what a figure draws."""
    contexts = tuple(contexts)
    return [decode_cost(f, n, batch_size, on) for f in forms for n in contexts]


def _made_anew(form: str, model: ModelConfig, num_tokens: int) -> int:
    if form != "mla_expanded":
        return 0
    a = model.attention
    return BF16_BYTES * num_tokens * a.num_heads * (a.d_nope + a.d_value)


def _product(name: str, rows: int, d_in: int, d_out: int, copies: int = 1) -> Kernel:
    """`rows` vectors times a matrix, for each of `copies` heads."""
    weights = copies * d_in * d_out
    moved = weights + rows * copies * (d_in + d_out)
    return Kernel(name, 2 * rows * weights, BF16_BYTES * moved)


def _core(
    rows: int, heads: int, context: int, widths: tuple[int, int], cached: int
) -> Kernel:
    """Scores of one width, a sum of the other, over `cached` numbers a key."""
    flops = 2 * rows * heads * context * sum(widths)
    moved = rows * (context * cached + heads * sum(widths))
    return Kernel("attention", flops, BF16_BYTES * moved)


def _heads(form: str, model: ModelConfig, context: int, rows: int) -> Iterable[Kernel]:
    a, d = model.attention, model.d_model
    d_q, d_kv = a.num_heads * a.d_head, 2 * a.num_kv_heads * a.d_head
    yield _product("queries, keys, values", rows, d, d_q + d_kv)
    yield _core(rows, a.num_heads, context, (a.d_head, a.d_head), d_kv)
    yield _product("output", rows, d_q, d)


def _latent(form: str, model: ModelConfig, context: int, rows: int) -> Iterable[Kernel]:
    a, d, H = model.attention, model.d_model, model.attention.num_heads
    d_cached, d_up = a.d_latent_kv + a.d_rope, H * (a.d_nope + a.d_value)
    compressed = a.d_latent_q or d
    yield _product("down", rows, d, (a.d_latent_q or 0) + d_cached)
    yield _product("queries", rows, compressed, H * a.d_qk)
    if form == "mla_absorbed":
        yield _product("absorb keys", rows, a.d_nope, a.d_latent_kv, copies=H)
        widths = (d_cached, a.d_latent_kv)
        yield _core(rows, H, context, widths, d_cached)
        yield _product("absorb values", rows, a.d_latent_kv, a.d_value, copies=H)
    else:
        kept = form == "mla_kept"
        made = rows if kept else rows * context
        yield _product("expand", made, a.d_latent_kv, d_up)
        cached = H * (a.d_qk + a.d_value) if kept else d_up + a.d_rope
        yield _core(rows, H, context, (a.d_qk, a.d_value), cached)
    yield _product("output", rows, H * a.d_value, d)
