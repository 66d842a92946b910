"""What one stage does to one micro-batch: kernels, and the transfers between them.

Chapter: 05_comm/slower_link
Source: deepseek_v3, sections 3.2 and 3.3

A *chunk* is the layers of one stage. Its forward is a chain of pieces, and so is its
backward, the same layers in reverse:

    forward of a layer     attention → dispatch → experts → combine
    backward of a layer    dispatch → experts → combine → attention

The backward of a combine is a dispatch and that of a dispatch a combine, so the chains
look alike. Each piece of the backward also owes weight gradients: nothing in the chain
needs them, and they may come at once or later.

Tensor parallelism, which V3 does without, would gather the hidden states of several
GPUs before each attention and add them up behind it: two transfers more each way.
Differs: its heads are divided among these GPUs, the stored weights are not.

A product with a weight is one kernel for all matrices of its name: 2 FLOPs a weight and
row, forward, for the input's gradient, and for the weight's. It reads its inputs and
weights once and writes its outputs once. Beside the products there is *traffic*, work
without FLOPs worth counting: norms, activations, quantising, permuting rows.
"""

from collections.abc import Iterable
from math import prod
from typing import NamedTuple

from tiny_lm.config import MLAConfig, ModelConfig
from tiny_lm.counts import attention_core_flops
from tiny_lm.replay.tape import Kernel

DISPATCH, COMBINE = "dispatch", "combine"
GATHER, SCATTER = "gather", "scatter"  # of tensor parallelism
RECOMPUTED = "recompute"  # kernels of this name do work that the model's FLOPs omit

# Assumptions about traffic, since no source counts it: whatever enters a product was
# read in BF16 by the kernel before and written in the product's format, once. Weight
# gradients need the tiles the other way round (deepseek_v3, section 3.3): the kept
# input is read and written again, and so is the output's gradient.
BF16_BYTES, FP32_BYTES = 2, 4
FORMAT_BYTES = {"fp8": 1, "bf16": 2}


class Linear(NamedTuple):
    """Matrices of one name, each applied to all rows.

    Args:
        shapes: inputs and outputs of each matrix.
        rows: how many rows pass, over all copies.
        copies: sets of these matrices on one GPU: its experts, else 1.
        again: shapes whose outputs the backward computes a second time.
    """

    name: str
    shapes: tuple[tuple[int, int], ...]
    rows: int
    precision: str
    copies: int = 1
    again: tuple[tuple[int, int], ...] = ()

    @property
    def num_parameters(self) -> int:
        """On one GPU."""
        return self.copies * sum(map(prod, self.shapes))

    @property
    def flops(self) -> int:
        """Of the forward, and of each of the two products of the backward."""
        return 2 * self.rows * sum(map(prod, self.shapes))

    def elements(self, side: int) -> int:
        """Numbers that enter (0) or leave (1) the products."""
        return self.rows * sum(shape[side] for shape in self.shapes)

    def forward(self) -> list[Kernel]:
        """Bring the input into the product's format, multiply."""
        size, into = FORMAT_BYTES[self.precision], self.elements(0)
        moved = size * (into + self.num_parameters) + BF16_BYTES * self.elements(1)
        return [
            _traffic(self.name, (BF16_BYTES + size) * into),
            Kernel(f"{self.name} F", self.flops, moved, self.precision),
        ]

    def backward(self) -> list[Kernel]:
        """The input's gradient: one more product, with the weights transposed."""
        size, out = FORMAT_BYTES[self.precision], self.elements(1)
        moved = size * (out + self.num_parameters) + BF16_BYTES * self.elements(0)
        kernels = []
        if self.again:
            flops = 2 * self.rows * sum(map(prod, self.again))
            written = self.rows * sum(outputs for _, outputs in self.again)
            name = f"{RECOMPUTED} {self.name}"
            kernels += [Kernel(name, flops, BF16_BYTES * written, self.precision)]
        return [
            *kernels,
            _traffic(self.name, (BF16_BYTES + size) * (out + self.elements(0))),
            Kernel(f"{self.name} B", self.flops, moved, self.precision),
        ]

    def weights(self) -> list[Kernel]:
        """The weights' gradient, added in FP32 to that of earlier micro-batches."""
        size = FORMAT_BYTES[self.precision]
        into, out = self.elements(0), self.elements(1)
        moved = size * (into + out) + 2 * FP32_BYTES * self.num_parameters
        again = 2 * size * into + (BF16_BYTES + size) * out
        return [
            _traffic(self.name, again),
            Kernel(f"{self.name} W", self.flops, moved, self.precision),
        ]


def _traffic(name: str, num_bytes: int) -> Kernel:
    return Kernel(f"{name} traffic", 0, num_bytes)


class Piece(NamedTuple):
    """Kernels, the transfers on either side of them, and the gradients they owe."""

    kernels: tuple[Kernel, ...]
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    weights: tuple[Kernel, ...] = ()


class Chunk(NamedTuple):
    """One stage's work for a micro-batch, and the parameters it keeps for it."""

    forward: tuple[Piece, ...]
    backward: tuple[Piece, ...]
    shared_parameters: int  # the same on all ranks of the stage
    expert_parameters: int  # of this rank's own experts


class Shape(NamedTuple):
    """Sizes that all chunks of a step share."""

    config: ModelConfig
    num_tokens: int  # of a micro-batch, on one GPU
    seq_len: int
    num_expert_ranks: int
    tensor_parallel: int


class _Layer(NamedTuple):
    """Forward and backward of one layer, and its weights."""

    forward: list[Piece]
    backward: list[Piece]
    linears: list[Linear]


def build_chunk(shape: Shape, layers: Iterable[int], last: bool) -> Chunk:
    """The chunk of these layers; behind the last one come the heads.

    Args:
        layers: numbers from 0; the embedding belongs to layer 0.
    """
    config = shape.config
    blocks = [_layer(shape, number < config.num_dense_layers) for number in layers]
    kept = config.vocab_size * config.d_model if 0 in layers else 0
    if last:
        head = _linear(shape, "head", [(config.d_model, config.vocab_size)], "bf16")
        blocks.append(_head(head, [head]))
        for _ in range(config.num_mtp):
            project = _linear(shape, "mtp", [(2 * config.d_model, config.d_model)])
            blocks.append(_layer(shape, not config.num_moe_layers, project))
            blocks.append(_head(head, []))  # the same head, so no more parameters
    forward = [piece for block in blocks for piece in block.forward]
    backward = [piece for block in reversed(blocks) for piece in block.backward]
    linears = [linear for block in blocks for linear in block.linears]
    experts = sum(x.num_parameters for x in linears if x.name == "experts")
    shared = kept + sum(x.num_parameters for x in linears) - experts
    return Chunk(_chain(forward), _chain(backward), shared, experts)


def _chain(pieces: list[Piece]) -> tuple[Piece, ...]:
    """Let each piece start what the next one waits for; the first needs a starter."""
    pieces = [Piece(()), *pieces]
    following = [*(piece.before for piece in pieces[1:]), ()]
    joined = [
        piece._replace(before=(), after=piece.after + before)
        for piece, before in zip(pieces, following, strict=True)
    ]
    return tuple(piece for piece in joined if piece.kernels or piece.after)


def _layer(shape: Shape, dense: bool, *before: Linear) -> _Layer:
    config, moe = shape.config, shape.config.moe
    attention = [*before, _projections(shape)]
    if dense:
        ffn = [_ffn(shape, "dense", config.d_ffn)]
    else:
        router = [(config.d_model, moe.num_experts)]
        attention.append(_linear(shape, "router", router, "bf16"))
        rows, copies = moe.top_k, moe.num_experts // shape.num_expert_ranks
        ffn = [_ffn(shape, "experts", moe.d_expert, rows, copies)]
        if moe.num_shared:
            ffn.insert(0, _ffn(shape, "shared", moe.num_shared * moe.d_expert))
    core, core_back = _core(shape)
    forward = (*_all(attention, Linear.forward), core)
    backward = (*core_back, *_all(attention, Linear.backward))
    shared = ((GATHER,), (SCATTER,)) if shape.tensor_parallel > 1 else ((), ())
    routed = ((), ()) if dense else ((DISPATCH,), (COMBINE,))
    return _Layer(
        [
            Piece(forward, *shared),
            Piece(_all(ffn, Linear.forward), *routed),
        ],
        [
            Piece(_all(ffn, Linear.backward), *routed, _all(ffn, Linear.weights)),
            Piece(backward, *shared, _all(attention, Linear.weights)),
        ],
        [*attention, *ffn],
    )


def _all(linears: list[Linear], method) -> tuple[Kernel, ...]:
    return tuple(kernel for linear in linears for kernel in method(linear))


def _linear(
    shape: Shape,
    name: str,
    shapes: list[tuple[int, int]],
    precision: str | None = None,
    rows: int = 1,
    **options,
) -> Linear:
    """In FP8 where the model's products are; `rows` a token."""
    precision = precision or ("fp8" if shape.config.fp8 else "bf16")
    return Linear(name, tuple(shapes), rows * shape.num_tokens, precision, **options)


def _ffn(shape: Shape, name: str, width: int, rows: int = 1, copies: int = 1) -> Linear:
    d = shape.config.d_model
    return _linear(shape, name, [(d, 2 * width), (width, d)], rows=rows, copies=copies)


def _projections(shape: Shape) -> Linear:
    """MLA's backward computes its up-projections again instead of keeping them."""
    d, a = shape.config.d_model, shape.config.attention
    if not isinstance(a, MLAConfig):
        width, into = a.num_heads * a.d_head, a.num_kv_heads * a.d_head
        shapes = [(d, width), (d, 2 * into), (width, d)]
        return _linear(shape, "projections", shapes)
    up = [(a.d_latent_kv, a.num_heads * (a.d_nope + a.d_value))]
    down = [(d, a.d_latent_kv + a.d_rope), (a.num_heads * a.d_value, d)]
    if a.d_latent_q is None:
        down.append((d, a.num_heads * a.d_qk))
    else:
        down.append((d, a.d_latent_q))
        up.append((a.d_latent_q, a.num_heads * a.d_qk))
    return _linear(shape, "projections", [*down, *up], again=tuple(up))


def _core(shape: Shape) -> tuple[Kernel, tuple[Kernel, ...]]:
    """Scores and weighted sums; the backward computes the scores again."""
    a, tokens = shape.config.attention, shape.num_tokens
    latent = isinstance(a, MLAConfig)
    d_qk, d_value = (a.d_qk, a.d_value) if latent else (a.d_head, a.d_head)
    flops = tokens * attention_core_flops(a, 1) * shape.seq_len // 2  # causal
    moved = BF16_BYTES * tokens * 2 * a.num_heads * (d_qk + d_value)
    scores = flops * d_qk // (d_qk + d_value)
    return Kernel("core F", flops, moved), (
        Kernel(f"{RECOMPUTED} scores", scores, 0),
        Kernel("core B", 2 * flops, 2 * moved),
    )


def _head(head: Linear, counted: list[Linear]) -> _Layer:
    """The loss reads the logits and writes their gradient."""
    loss = _traffic("loss", 2 * BF16_BYTES * head.elements(1))
    backward = Piece(tuple(head.backward()), weights=tuple(head.weights()))
    return _Layer([Piece((*head.forward(), loss))], [backward], counted)
