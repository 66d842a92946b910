"""Attention as everybody had it: queries, keys and values, and a cache of the last two.

Chapter: 01_baseline/probability_machine
Source: attention; gqa
"""

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from tiny_lm import passes
from tiny_lm.cache import Cache
from tiny_lm.config import MHAConfig
from tiny_lm.kernels import Work, fused, num_bytes, precision
from tiny_lm.layers import PLAIN, Linear, Products, Rotary, rotate
from tiny_lm.rope import Place


def attention_work(
    q: Tensor, k: Tensor, v: Tensor, scale: float, hidden: Tensor | None = None
) -> tuple[Work, Work]:
    """What attention costs as one kernel that keeps the scores on the chip.

    Only the keys that a query may see are multiplied, half of them in training, and
    the backward pass counts twice the forward pass: the scores that it makes once more
    do not count. So the FLOPs are those of `costs`.
    """
    batch, heads, T, d_qk = q.shape
    S, d_value = v.shape[-2:]
    flops = batch * heads * (d_qk + d_value) * T * (2 * S - T)
    y_bytes = batch * heads * T * d_value * q.element_size()
    read, kind = num_bytes(q, k, v), precision(q.dtype)
    # Backward q, k, v, y and its gradient are read; three gradients are written.
    backward = Work(2 * flops, 2 * read + 2 * y_bytes, kind)
    return Work(flops, read + y_bytes, kind), backward


@fused("attention", attention_work)
def attend(
    q: Float[Tensor, "B H T qk"],
    k: Float[Tensor, "B G S qk"],
    v: Float[Tensor, "B G S v"],
    scale: float,
    hidden: Bool[Tensor, "B S"] | None = None,
) -> Float[Tensor, "B H T v"]:
    """Each position mixes the values of the positions up to its own.

    The last query sits at the last key: with T < S the queries are the newest T
    positions, which is how a cache is read. A key-value head serves H / G heads: their
    queries stand below each other as rows of one product, and nothing is copied.

    Args:
        hidden: padding, which nobody sees. A position that sees nothing else gets a
            mean of what there is, and nobody reads it.

    Source: attention, eq. 1; gqa
    """
    if hidden is None and q.shape == k.shape and passes.suit(q, k, v):
        return passes.causal_attention(q, k, v, scale)  # training, on a CPU
    (T, S), G = (q.shape[-2], k.shape[-2]), k.shape[1]
    rows = q.reshape(q.shape[0], G, -1, q.shape[-1])
    scores = (rows * scale) @ k.transpose(-1, -2)
    if T > 1:
        future = torch.full((T, S), float("-inf"), dtype=q.dtype, device=q.device)
        scores = scores + future.triu(S - T + 1).repeat(q.shape[1] // G, 1)
    if hidden is not None:
        nobody = torch.finfo(q.dtype).min  # minus infinity would make NaN of a row
        scores = scores.masked_fill(hidden[:, None, None], nobody)
    return (scores.softmax(dim=-1) @ v).reshape(*q.shape[:-1], v.shape[-1])


class MultiHeadAttention(Rotary):
    """Every head has its own query; `num_kv_heads` keys and values are shared by them.

    Source: attention; gqa
    """

    def __init__(
        self,
        config: MHAConfig,
        d_model: int,
        max_len: int,
        products: Products = PLAIN,
    ) -> None:
        super().__init__()
        self.config = config
        c, d_kv = config, config.num_kv_heads * config.d_head
        d_q = c.num_heads * c.d_head
        self.q = Linear(d_model, d_q, products.linear, bias=c.qkv_bias)
        self.kv = Linear(d_model, 2 * d_kv, products.linear, bias=c.qkv_bias)
        self.out = Linear(d_q, d_model, products.linear)
        self.keep_angles(c.d_head, max_len, c.rope_theta)

    def new_cache(self, batch_size: int, max_len: int) -> Cache:
        """An empty cache: keys and values of every key-value head."""
        head = (self.config.num_kv_heads, self.config.d_head)
        return Cache(batch_size, max_len, [head, head], like=self.kv.weight)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        cache: Cache | None = None,
        place: Place | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Attention over this call's positions and, through a cache, all before them.

        Args:
            place: where the tokens stand; by default behind what the cache holds.

        Raises:
            ValueError: the cache is full, or a position lies beyond `max_len`.
        """
        c = self.config
        if place is None:
            place = self.place(0 if cache is None else cache.length, x.shape[1])
        q = rearrange(self.q(x), "B T (H d) -> B H T d", H=c.num_heads)
        kv = rearrange(self.kv(x), "B T (two G d) -> two B G T d", two=2, d=c.d_head)
        k, v = rotate(kv[0], *place.per_head), kv[1]
        if cache is not None:
            k, v = cache.append(k, v)
        y = attend(
            rotate(q, *place.per_head), k, v, c.d_head**-0.5, hidden=place.hidden
        )
        return self.out(rearrange(y, "B H T d -> B T (H d)"))
