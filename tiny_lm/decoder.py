"""Write token by token as fast as the memory allows: few, large operations.

Chapter: 03_mla
Source: deepseek_v2, section 2.1.2

A token that is written alone gives every operation so little work that starting it
takes longer than doing it. So a `Decoder` prepares once what the model derives anew at
every step: the maps that stand next to each other are multiplied into one, W^UK into
the query's map and W^UV into the output's; those that read the same vector stand below
each other in one matrix. What is left in each layer is about thirty calls, and one
product that reads the cache where it lies.

All experts then read every token, and the router's weights, zero for those not chosen,
pick what counts. That is several times the arithmetic and a fraction of the calls of
sorting tokens by expert, and wins for the few tokens of a decoding step.

Differs: the folded maps are right for small models. At V3's widths W^UQ and W^UK would
make a matrix three times as large as the two, so large models multiply by one after
the other; and reading all experts would read 256 where 8 are wanted.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tiny_lm.attention import MultiHeadAttention
from tiny_lm.cache import Cache, Context
from tiny_lm.layers import PLAIN, Linear, RMSNorm, SwiGLU
from tiny_lm.mla import LatentAttention
from tiny_lm.model import Block, LanguageModel
from tiny_lm.moe import Experts, LocalDispatcher, MoE
from tiny_lm.router import route

MAX_TOKENS = 64  # at 16 experts of which 4 are chosen sorting wins from about 100

Step = Callable[[Tensor], Tensor]


def next_step(model: LanguageModel, context: Context) -> Step:
    """What reads one token of each sequence, and gives the logits of the next.

    The model's own forward pass where something in it is not the package's: FP8
    products or BF16 weights, experts on other ranks, a learner's attention.
    """
    if can_fold(model):
        return Decoder(model, context)
    return lambda tokens: model(tokens.unsqueeze(1), context)[:, -1]


def can_fold(model: LanguageModel) -> bool:
    """Whether a `Decoder` computes what the model does."""
    attentions = {type(block.attention) for block in model.blocks}
    ffns = [block.ffn for block in model.blocks]
    mixtures = [ffn for ffn in ffns if isinstance(ffn, MoE)]
    return (
        model.head.weight.dtype in (torch.float32, torch.float64)
        and attentions <= {MultiHeadAttention, LatentAttention}
        and {type(ffn) for ffn in ffns} <= {SwiGLU, MoE}
        and all(type(moe.experts) is Experts for moe in mixtures)
        and all(type(moe.dispatcher) is LocalDispatcher for moe in mixtures)
        and all(moe.experts.grouped is PLAIN.grouped for moe in mixtures)
        and all(moe.router.matmul is PLAIN.gate for moe in mixtures)
        and all(
            m.matmul is PLAIN.linear for m in model.modules() if isinstance(m, Linear)
        )
    )


class Decoder:
    """A model folded for decoding, and the context it goes on with.

    Weights are copied: after a training step make a new one. Between two calls nobody
    else may extend the context.
    """

    @torch.no_grad()
    def __init__(self, model: LanguageModel, context: Context) -> None:
        self.context = context
        self.embedding = model.embedding.weight
        attention = model.blocks[0].attention
        self.turns = torch.complex(attention.cos, attention.sin)
        self.layers = [
            (_attention(block, cache), _feed_forward(block))
            for block, cache in zip(model.blocks, context.layers, strict=True)
        ]
        self.norm, self.head = _Norm(model.norm), model.head.weight
        self.penalty = self._penalty(getattr(attention.config, "num_kv_heads", 1))

    def _penalty(self, num_groups: int) -> Tensor | None:
        """What is added to the scores: a very negative number at padding."""
        if not self.context.is_padded:
            return None
        nobody = torch.finfo(self.embedding.dtype).min
        hidden = self.context.hidden.to(self.embedding.dtype) * nobody
        return hidden.repeat_interleave(num_groups, dim=0).unsqueeze(1)

    def __call__(self, tokens: Int[Tensor, " B"]) -> Float[Tensor, "B V"]:
        """Read one token of each sequence; logits of the next.

        Raises:
            ValueError: the context is full, or a position lies beyond `max_len`.
        """
        start = self.context.longest
        positions, _ = self.context.advance(len(tokens), 1)
        here = slice(start, start + 1) if positions is None else positions[:, 0]
        turn = self.turns[here].unsqueeze(1)
        penalty = self.penalty
        if penalty is not None:
            penalty = penalty[..., : self.context.num_columns]
        x = F.embedding(tokens, self.embedding)
        for attention, feed_forward in self.layers:
            x = feed_forward(attention(x, turn, penalty))
        return F.linear(self.norm(x), self.head)


def _attention(block: Block, cache: Cache) -> "_Latent | _Heads":
    kind = _Latent if isinstance(block.attention, LatentAttention) else _Heads
    return kind(block.attention, block.attention_norm, cache)


def _feed_forward(block: Block) -> Step:
    if isinstance(block.ffn, SwiGLU):
        return _Dense(block.ffn, block.ffn_norm)
    return _Mixture(block.ffn, block.ffn_norm)


def mix(
    q: Float[Tensor, "rows H qk"],
    k: Float[Tensor, "rows S qk"],
    v: Float[Tensor, "rows S v"],
    penalty: Float[Tensor, "rows one S"] | None,
) -> Float[Tensor, "rows H v"]:
    """Attention of one query a head; the scale is in the query's map."""
    keys = k.transpose(1, 2)
    scores = torch.bmm(q, keys) if penalty is None else penalty.baddbmm(q, keys)
    return torch.bmm(scores.softmax(dim=-1), v)


def _turned(
    x: Float[Tensor, "B heads rope"], turn: Tensor
) -> Float[Tensor, "B heads rope"]:
    """`layers.rotate`, with the angles as complex numbers."""
    pairs = torch.view_as_complex(x.contiguous().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2)


class _Norm:
    """RMSNorm in four operations: |x|² / D + eps is the square of a hypotenuse / D."""

    def __init__(self, norm: RMSNorm) -> None:
        width = len(norm.weight)
        self.weight = norm.weight * width**0.5
        self.floor = norm.weight.new_tensor((width * norm.eps) ** 0.5)

    def __call__(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B D"]:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return x * self.weight / torch.hypot(length, self.floor)


class _Latent:
    """Absorbed MLA: three products with weights, two with the cache."""

    def __init__(self, a: LatentAttention, norm: RMSNorm, cache: Cache) -> None:
        c = a.config
        self.norm, self.kv_norm, self.cache = _Norm(norm), _Norm(a.kv_norm), cache
        self.num_heads, self.d_latent, self.d_rope = (
            c.num_heads,
            c.d_latent_kv,
            c.d_rope,
        )
        w_k, w_v = a.up_projections()
        compressed = c.d_latent_q is not None
        w_q = (a.q_up if compressed else a.q).weight * a.scale
        w_q = w_q.unflatten(0, (c.num_heads, c.d_qk))
        nope, rope = w_q.split([c.d_nope, c.d_rope], dim=1)
        absorbed = torch.cat([w_k.transpose(1, 2) @ nope, rope], dim=1).flatten(0, 1)
        self.q_norm = _Norm(a.q_norm) if compressed else None
        first = a.q_down.weight if compressed else absorbed
        self.down = torch.cat([first, a.kv_down.weight])
        self.widths = [len(first), c.d_latent_kv, c.d_rope]
        self.q = absorbed if compressed else None
        w_o = a.out.weight.unflatten(1, (c.num_heads, c.d_value)).transpose(0, 1)
        self.out = (w_o @ w_v).transpose(1, 2).flatten(0, 1)  # [H latent, D]

    def __call__(self, x: Tensor, turn: Tensor, penalty: Tensor | None) -> Tensor:
        q, latent, k_rope = F.linear(self.norm(x), self.down).split(self.widths, -1)
        if self.q is not None:
            q = F.linear(self.q_norm(q), self.q)
        q = q.reshape(len(x), self.num_heads, -1)
        q_latent, q_rope = q.split([self.d_latent, self.d_rope], dim=-1)
        turned = _turned(torch.cat([q_rope, k_rope.unsqueeze(1)], dim=1), turn)
        q = torch.cat([q_latent, turned[:, :-1]], dim=-1)
        new = torch.cat([self.kv_norm(latent), turned[:, -1]], dim=-1)
        (memory,) = self.cache.append(new.unsqueeze(1))
        y = mix(q, memory, memory[..., : self.d_latent], penalty)
        return torch.addmm(x, y.flatten(1), self.out)


class _Heads:
    """Multi-head, grouped or multi-query attention."""

    def __init__(self, a: MultiHeadAttention, norm: RMSNorm, cache: Cache) -> None:
        c = a.config
        self.norm, self.cache, self.out = _Norm(norm), cache, a.out.weight.T
        self.d_head = c.d_head
        self.heads = [c.num_heads, c.num_kv_heads, c.num_kv_heads]
        scale = c.d_head**-0.5
        self.qkv = torch.cat([a.q.weight * scale, a.kv.weight])
        biased = c.qkv_bias
        self.bias = torch.cat([a.q.bias * scale, a.kv.bias]) if biased else None

    def __call__(self, x: Tensor, turn: Tensor, penalty: Tensor | None) -> Tensor:
        qkv = F.linear(self.norm(x), self.qkv, self.bias)
        qkv = qkv.unflatten(-1, (-1, self.d_head))
        num_turned = self.heads[0] + self.heads[1]
        q, k = _turned(qkv[:, :num_turned], turn).split(self.heads[:2], dim=1)
        k, v = self.cache.append(k.unsqueeze(2), qkv[:, num_turned:].unsqueeze(2))
        k, v = k.flatten(0, 1), v.flatten(0, 1)  # views: B and G are neighbours
        y = mix(q.reshape(len(k), -1, self.d_head), k, v, penalty)
        return torch.addmm(x, y.reshape(len(x), -1), self.out)


class _Dense:
    """The feed-forward, added to what it read."""

    def __init__(self, ffn: SwiGLU, norm: RMSNorm) -> None:
        self.norm = _Norm(norm)
        self.gate_up, self.down = ffn.gate_up.weight, ffn.down.weight.T

    def __call__(self, x: Tensor) -> Tensor:
        gate, up = F.linear(self.norm(x), self.gate_up).chunk(2, dim=-1)
        return torch.addmm(x, F.silu(gate) * up, self.down)


class _Mixture:
    """All experts read few tokens; many tokens are sorted as ever."""

    def __init__(self, moe: MoE, norm: RMSNorm) -> None:
        self.moe, self.norm, self.router = moe, _Norm(norm), moe.router
        gates, ups = moe.experts.gate_up.chunk(2, dim=1)
        gates, ups = [gates.flatten(0, 1)], [ups.flatten(0, 1)]
        downs = [moe.experts.down.transpose(1, 2).flatten(0, 1)]  # [E F, D]
        self.d_routed = len(downs[0])
        if moe.shared is not None:
            gate, up = moe.shared.gate_up.weight.chunk(2)
            gates, ups = [*gates, gate], [*ups, up]
            downs.append(moe.shared.down.weight.T)
        self.gate_up, self.down = torch.cat([*gates, *ups]), torch.cat(downs)

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) > MAX_TOKENS:
            return x + self.moe(self.norm(x).unsqueeze(1))[0].squeeze(1)
        read = self.norm(x)
        gate, up = F.linear(read, self.gate_up).chunk(2, dim=-1)
        hidden = F.silu(gate) * up
        routed = hidden[:, : self.d_routed].unflatten(
            1, (self.router.weight.shape[0], -1)
        )
        routed.mul_(self.weights(read).unsqueeze(-1))
        return torch.addmm(x, hidden, self.down)

    def weights(self, read: Float[Tensor, "B D"]) -> Float[Tensor, "B E"]:
        """The router's weight of every expert, zero for those not chosen."""
        c = self.router.config
        scores = torch.sigmoid(F.linear(read, self.router.weight))
        weights, experts = route(
            scores, self.router.bias, c.top_k, c.num_groups, c.top_groups
        )
        return torch.zeros_like(scores).scatter(1, experts, weights * c.route_scale)
