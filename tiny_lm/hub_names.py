"""The names of released weights, and where each of them lies in our model.

Chapter: 06_together/into_the_ecosystem
Source: deepseek_v3_code; transformers

One list serves both ways: `hub.export` reads our model through it, `hub.load` writes.
Three things differ beyond names.

    gate, up        two matrices there, one here; experts lie apart there, stacked here
    rotary pairs    neighbours (0, 1), (2, 3), … in DeepSeek's weights and in ours;
                    Llama's family pairs (i, i + width / 2), so rows are permuted
    eh_proj         reads [token; state] there, and [state; token] here

What stands where in kv_a and kv_b is the same: the latent before the rotary key, and of
each head the key's rows before the value's.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tiny_lm.config import MHAConfig, MLAConfig, ModelConfig


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor of a released file.

    part: where in our tensor it lies
    order: along `dim`, its place i is place order[i] of that part
    in_fp8: it is released in FP8, where anything is
    again: a copy of what an earlier entry holds; a file may lack it
    """

    name: str
    ours: str
    shape: tuple[int, ...]
    part: tuple[int | slice, ...] = ()
    order: tuple[int, ...] | None = None
    dim: int = 0
    in_fp8: bool = False
    again: bool = False

    def read(self, state: dict[str, Tensor]) -> Tensor:
        """The tensor as it is released, from a model's state."""
        part = state[self.ours][self.part]
        if self.order is None:
            return part
        order = torch.tensor(self.order, device=part.device)
        return part.index_select(self.dim, order)

    def write(self, state: dict[str, Tensor], released: Tensor) -> None:
        """Put a released tensor into a model's state."""
        part = state[self.ours][self.part]
        if self.order is not None:
            back = torch.tensor(self.order).argsort()
            released = released.index_select(self.dim, back)
        part.copy_(released)

    def under(self, there: str, here: str) -> "Entry":
        """The same, with something before both names."""
        return replace(self, name=there + self.name, ours=here + self.ours)


def entries(config: ModelConfig, halves: bool) -> Iterator[Entry]:
    """Every tensor of a released model of that shape, layer by layer.

    Args:
        halves: rotary pairs of the file are (i, i + width / 2).
    """
    table, d = (config.vocab_size, config.d_model), config.d_model
    yield _whole("model.embed_tokens.weight", "embedding.weight", *table)
    for layer in range(config.num_layers):
        for entry in _block(config, halves, layer >= config.num_dense_layers):
            yield entry.under(f"model.layers.{layer}.", f"blocks.{layer}.")
    yield _whole("model.norm.weight", "norm.weight", d)
    yield _whole("lm_head.weight", "head.weight", *table)
    for depth in range(config.num_mtp):
        at, ours = f"model.layers.{config.num_layers + depth}.", f"mtp.{depth}."
        for entry in _copies(table):
            yield entry.under(at, "")
        for entry in _entrance(d):
            yield entry.under(at, ours)
        for entry in _block(config, halves, config.num_moe_layers > 0):
            yield entry.under(at, f"{ours}block.")


def _whole(name: str, ours: str, *shape: int) -> Entry:
    return Entry(name=name, ours=ours, shape=shape)


def _matrix(
    name: str, ours: str, rows: int, width: int, order: tuple[int, ...] | None = None
) -> Entry:
    shape, name, ours = (rows, width), f"{name}.weight", f"{ours}.weight"
    return Entry(name=name, ours=ours, shape=shape, order=order, in_fp8=True)


def _copies(table: tuple[int, int]) -> Iterator[Entry]:
    """What a module of multi-token prediction shares with the model, once more."""
    for name, ours in (("embed_tokens", "embedding"), ("shared_head.head", "head")):
        copy = _whole(f"{name}.weight", f"{ours}.weight", *table)
        yield replace(copy, again=True)


def _entrance(d: int) -> Iterator[Entry]:
    """What such a module has beside a block."""
    norms = {"enorm": "token_norm", "hnorm": "state_norm", "shared_head.norm": "norm"}
    for name, ours in norms.items():
        yield _whole(f"{name}.weight", f"{ours}.weight", d)
    mix = _whole("eh_proj.weight", "mix.weight", d, 2 * d)
    yield replace(mix, order=(*range(d, 2 * d), *range(d)), dim=1)


def _block(config: ModelConfig, halves: bool, sparse: bool) -> Iterator[Entry]:
    """Attention, feed-forward, and the norm before each."""
    c, d = config.attention, config.d_model
    yield _whole("input_layernorm.weight", "attention_norm.weight", d)
    yield _whole("post_attention_layernorm.weight", "ffn_norm.weight", d)
    attention = _latent if isinstance(c, MLAConfig) else _heads
    for entry in attention(c, d, halves):
        yield entry.under("self_attn.", "attention.")
    for entry in _experts(config) if sparse else _swiglu(d, config.d_ffn):
        yield entry.under("mlp.", "ffn.")


def _latent(c: MLAConfig, d: int, halves: bool) -> Iterator[Entry]:
    d_query, rows = c.num_heads * c.d_qk, c.d_latent_kv + c.d_rope
    of_heads = _half_split(c.num_heads, c.d_nope, c.d_rope) if halves else None
    of_key = _half_split(1, c.d_latent_kv, c.d_rope) if halves else None
    if c.d_latent_q is None:
        yield _matrix("q_proj", "q", d_query, d, of_heads)
    else:
        yield _matrix("q_a_proj", "q_down", c.d_latent_q, d)
        yield _whole("q_a_layernorm.weight", "q_norm.weight", c.d_latent_q)
        yield _matrix("q_b_proj", "q_up", d_query, c.d_latent_q, of_heads)
    yield _matrix("kv_a_proj_with_mqa", "kv_down", rows, d, of_key)
    yield _whole("kv_a_layernorm.weight", "kv_norm.weight", c.d_latent_kv)
    up = c.num_heads * (c.d_nope + c.d_value)
    yield _matrix("kv_b_proj", "kv_up", up, c.d_latent_kv)
    yield _matrix("o_proj", "out", d, c.num_heads * c.d_value)


def _heads(c: MHAConfig, d: int, halves: bool) -> Iterator[Entry]:
    d_q, d_kv = c.num_heads * c.d_head, c.num_kv_heads * c.d_head
    of_queries = _half_split(c.num_heads, 0, c.d_head) if halves else None
    of_keys = _half_split(c.num_kv_heads, 0, c.d_head) if halves else None
    keys = _matrix("k_proj", "kv", d_kv, d, of_keys)
    values = _matrix("v_proj", "kv", d_kv, d)
    maps = (
        _matrix("q_proj", "q", d_q, d, of_queries),
        replace(keys, part=(slice(d_kv),)),
        replace(values, part=(slice(d_kv, 2 * d_kv),)),
    )
    yield from maps
    for one in maps if c.qkv_bias else ():
        name, ours = (n.replace("weight", "bias") for n in (one.name, one.ours))
        yield replace(one, name=name, ours=ours, shape=one.shape[:1], in_fp8=False)
    yield _matrix("o_proj", "out", d, d_q)


def _swiglu(d: int, width: int) -> Iterator[Entry]:
    for name, rows in (("gate", slice(width)), ("up", slice(width, 2 * width))):
        half = _matrix(f"{name}_proj", "gate_up", width, d)
        yield replace(half, part=(rows,))
    yield _matrix("down_proj", "down", d, width)


def _experts(config: ModelConfig) -> Iterator[Entry]:
    c, d = config.moe, config.d_model
    yield _whole("gate.weight", "router.weight", c.num_experts, d)
    bias = "gate.e_score_correction_bias"
    yield _whole(bias, "router.bias", c.num_experts)
    for expert in range(c.num_experts):
        for entry in _swiglu(d, c.d_expert):
            stacked = replace(
                entry,
                ours=entry.ours.removesuffix(".weight"),
                part=(expert, *entry.part),
            )
            yield stacked.under(f"experts.{expert}.", "experts.")
    if c.num_shared:
        for entry in _swiglu(d, c.num_shared * c.d_expert):
            yield entry.under("shared_experts.", "shared.")


def _half_split(heads: int, before: int, d_rope: int) -> tuple[int, ...]:
    """Of every head, rows without position, then first and then second of each pair."""
    pairs = range(before, before + d_rope)
    of_head = (*range(before), *pairs[::2], *pairs[1::2])
    width = before + d_rope
    return tuple(width * head + row for head in range(heads) for row in of_head)
