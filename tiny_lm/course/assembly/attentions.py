"""Both attentions by the learner's pieces.

Chapter: 06_together/full_model
Source: attention; gqa; deepseek_v3, eqs. 1-11

They hold the weights of `attention` and `mla`, under the same names. Batches of
sequences of unequal length, which no training step has, are read by tiny_lm's own.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from tiny_lm.attention import MultiHeadAttention, attention_work
from tiny_lm.cache import Cache
from tiny_lm.course.assembly.chosen import Chosen
from tiny_lm.kernels import Work, emulation, fused, num_bytes, precision
from tiny_lm.layers import PLAIN, Linear, Products, RMSNorm, rotate
from tiny_lm.mla import LatentAttention, absorbing_pays
from tiny_lm.rope import Place

HEADS = ("baseline.attention", "mla.grouped_attention", "mla.remember")
EXPANDED = ("mla.compress", "mla.expand", "mla.decoupled_scores")
CACHED = (
    "mla.latent_memory",
    "mla.remember",
    "mla.absorbed_attention",
    "mla.expand",
    "mla.compress",
    "mla.grouped_attention",
)


def _uneven(place: Place) -> bool:
    """Whether sequences of unequal length stand in one table."""
    return place.hidden is not None or place.cos.dim() > 2


def _nobody(memory: Tensor) -> Tensor:
    """Of as many sequences and positions as a memory has, none is padding."""
    shape = memory.shape[0], memory.shape[-2]
    return torch.zeros(shape, dtype=torch.bool, device=memory.device)


class YourHeads(MultiHeadAttention):
    """Every head has its query; keys and values may be shared, and are remembered."""

    def __init__(self, mine: Chosen, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.mine = mine

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        cache: Cache | None = None,
        place: Place | None = None,
    ) -> Float[Tensor, "B T D"]:
        c = self.config
        if place is None:
            place = self.place(0 if cache is None else cache.length, x.shape[1])
        if _uneven(place):
            return super().forward(x, cache, place)
        q = rearrange(self.q(x), "B T (H d) -> B H T d", H=c.num_heads)
        kv = rearrange(self.kv(x), "B T (two G d) -> two B G T d", two=2, d=c.d_head)
        q, k = (rotate(z, *place.per_head) for z in (q, kv[0]))
        y = self._attend(q, k, kv[1], cache)
        return self.out(rearrange(y, "B H T d -> B T (H d)"))

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, cache: Cache | None) -> Tensor:
        if cache is not None:
            k, v = remembered(self.mine, cache, k, v)
        alike = cache is None and q.shape == k.shape
        attend = fused("attention", _heads_work)(self._alike if alike else self._shared)
        return attend(q, k, v).to(q)

    def _alike(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        flat = (rearrange(z, "B H T d -> B T (H d)") for z in (q, k, v))
        y = self.mine("baseline.attention")(*flat, q.shape[1])
        return rearrange(y, "B T (H d) -> B H T d", H=q.shape[1])

    def _shared(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q = q.view_as(q)
        return self.mine("mla.grouped_attention")(q, k, v, _nobody(k))


def _heads_work(q: Tensor, k: Tensor, v: Tensor) -> tuple[Work, Work]:
    return attention_work(q, k, v, 1.0)


def remembered(mine: Chosen, cache: Cache, *new: Tensor) -> list[Tensor]:
    """All that was remembered, the newest included; no gradient flows into it."""
    write, found = mine("mla.remember"), []
    for store, x in zip(cache.stores, new, strict=True):
        filled, end = write(store, cache.length, x.detach())
        found.append(filled)
    cache.length = int(end)
    return found


class YourLatentAttention(LatentAttention):
    """Compressed, expanded, scored, remembered and absorbed as the learner does it.

    The pieces multiply by themselves, in FP32. Where a model multiplies otherwise, its
    products are made outside and a piece gets the identity in place of a weight.
    """

    def __init__(
        self, mine: Chosen, config, d_model, max_len, products: Products = PLAIN, *rest
    ) -> None:
        super().__init__(config, d_model, max_len, products, *rest)
        self.mine, self.is_plain = mine, products.linear is PLAIN.linear

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        cache: Cache | None = None,
        place: Place | None = None,
    ) -> Float[Tensor, "B T D"]:
        if place is None:
            place = self.place(0 if cache is None else cache.length, x.shape[1])
        coded = self.config.cache_tile is not None and cache is not None
        if _uneven(place) or coded:
            return super().forward(x, cache, place)
        if cache is None and self.mine.has(*EXPANDED):
            y = self._at_once(x)
        elif cache is not None and self.mine.has(*CACHED):
            y = self._remembering(x, cache, place)
        else:
            return super().forward(x, cache, place)
        return self.out(rearrange(y, "B H T v -> B T (H v)"))

    def _at_once(self, x: Float[Tensor, "B T D"]) -> Float[Tensor, "B H T v"]:
        """A whole sequence, as in training."""
        width = self.config.d_latent_kv
        read, down = self._factors(x, self.kv_down)
        # Made outside, latent and rotary key are one product, read in two parts.
        of_latent = read if self.is_plain else read[..., :width]
        latent = self._compress(
            of_latent, down[:width, : of_latent.shape[-1]], self.kv_norm
        )
        k_rope = read @ down[width:].T if self.is_plain else read[..., width:]
        k_nope, v = self._expand(latent)
        attend = fused("attention", _latent_work)(self._mix)
        return attend(*self._queries(x), k_nope, k_rope, v)

    def _mix(self, q_nope, q_rope, k_nope, k_rope, v) -> Float[Tensor, "B H T v"]:
        parts = (z.view_as(z) for z in (q_nope, q_rope, k_nope, k_rope))
        scores = self.mine("mla.decoupled_scores")(*parts, self.cos, self.sin).to(v)
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=v.device).triu(
            1
        )
        return scores.masked_fill(future, -torch.inf).softmax(dim=-1) @ v

    def _remembering(
        self, x: Float[Tensor, "B T D"], cache: Cache, place: Place
    ) -> Float[Tensor, "B H T v"]:
        """The newest tokens, and through the cache all before them."""
        c, norm = self.config, self.kv_norm
        factors = self._factors(x, self.kv_down)
        rows = self.mine("mla.latent_memory")(
            *factors, norm.weight, norm.eps, place.cos, place.sin, 0
        )
        (memory,) = remembered(self.mine, cache, rows.to(x))
        q_nope, q_rope = self._queries(x)
        q_rope, nobody = rotate(q_rope, *place.per_head), _nobody(memory)
        if absorbing_pays(c, x.shape[1], memory.shape[1]):
            absorbed = self.mine("mla.absorbed_attention")
            maps = self.up_projections()
            return absorbed(q_nope, q_rope, memory, *maps, nobody).to(x)
        latent, k_rope = memory.split([c.d_latent_kv, c.d_rope], dim=-1)
        k_nope, v = self._expand(latent)
        shared = k_rope.unsqueeze(1).expand(-1, c.num_heads, -1, -1)
        q, k = torch.cat([q_nope, q_rope], -1), torch.cat([k_nope, shared], -1)
        return self.mine("mla.grouped_attention")(q, k, v, nobody).to(x)

    def _queries(self, x: Tensor) -> tuple[Tensor, ...]:
        """Every head's query in its two parts, neither of them turned."""
        c = self.config
        if c.d_latent_q is None:
            q = self.q(x)
        else:
            read, down = self._factors(x, self.q_down)
            q = self.q_up(self._compress(read, down, self.q_norm))
        q = rearrange(q, "B T (H qk) -> B H T qk", H=c.num_heads)
        return q.split([c.d_nope, c.d_rope], dim=-1)

    def _compress(self, x: Tensor, down: Tensor, norm: RMSNorm) -> Tensor:
        piece = self.mine("mla.compress")

        def compress(x: Tensor, down: Tensor, gain: Tensor) -> Tensor:
            return piece(x.view_as(x), down, gain, norm.eps).to(x)

        return fused("compress", _compress_work)(compress)(x, down, norm.weight)

    def _expand(self, latent: Tensor) -> tuple[Tensor, ...]:
        """Every head's keys without position, and its values."""
        c, piece = self.config, self.mine("mla.expand")

        def expand(latent: Tensor, up: Tensor) -> Tensor:
            return torch.cat(piece(latent, up, c.num_heads, c.d_nope), -1).to(latent)

        read, up = self._factors(latent, self.kv_up)
        both = fused("expand", _expand_work)(expand)(read, up)
        return both.split([c.d_nope, c.d_value], dim=-1)

    def _factors(self, x: Tensor, linear: Linear) -> tuple[Tensor, Tensor]:
        """What a piece is to multiply: the weight, or the product made and no more."""
        if self.is_plain:
            return x, linear.weight
        y = linear(x)
        return y, torch.eye(y.shape[-1], dtype=y.dtype, device=y.device)


def _latent_work(q_nope, q_rope, k_nope, k_rope, v) -> tuple[Work, Work]:
    """As `attention_work`, whose rotary key every head has to itself."""
    with emulation():
        q, shared = torch.cat([q_nope, q_rope], -1), k_rope.unsqueeze(1)
        k = torch.cat([k_nope, shared.expand(-1, q.shape[1], -1, -1)], -1)
        return attention_work(q, k, v, 1.0)


def _expand_work(latent: Tensor, up: Tensor) -> tuple[Work, Work]:
    """A product, where a weight takes part; else only views."""
    rows, kind = latent.numel() // latent.shape[-1], precision(latent.dtype)
    if not up.requires_grad:
        return Work(0, 0, kind), Work(0, 0, kind)
    moved = num_bytes(latent, up) + rows * len(up) * latent.itemsize
    madds = rows * up.numel()
    return Work(2 * madds, moved, kind), Work(4 * madds, 2 * moved, kind)


def _compress_work(x: Tensor, down: Tensor, gain: Tensor) -> tuple[Work, Work]:
    """A product, where a weight takes part, and a norm; backward twice as much."""
    rows = x.numel() // x.shape[-1]
    madds = rows * down.numel() if down.requires_grad else 0
    moved = num_bytes(x, down, gain) + rows * len(down) * x.itemsize
    kind = precision(x.dtype)
    return Work(2 * madds, moved, kind), Work(4 * madds, 2 * moved, kind)
