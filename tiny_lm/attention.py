"""Attention as everybody had it: queries, keys and values, and a cache of the last two.

Chapter: 01_baseline/probability_machine
Source: attention; gqa
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from tiny_lm import passes
from tiny_lm.config import MHAConfig
from tiny_lm.kernels import Work, fused, num_bytes, precision
from tiny_lm.layers import PLAIN, Linear, Products, rotary_table, rotate


def attention_work(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Work, Work]:
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
    k: Float[Tensor, "B #H S qk"],
    v: Float[Tensor, "B #H S v"],
    scale: float,
) -> Float[Tensor, "B H T v"]:
    """Each position mixes the values of the positions up to its own.

    The last query sits at the last key: with T < S the queries are the newest T
    positions, which is how a cache is read. A single key-value head serves them all.

    Source: attention, eq. 1
    """
    if q.shape == k.shape and passes.suit(q, k, v):  # training, on a CPU
        return passes.causal_attention(q, k, v, scale)
    T, S = q.shape[-2], k.shape[-2]
    future = torch.full((T, S), float("-inf"), dtype=q.dtype, device=q.device)
    scores = (q * scale) @ k.transpose(-1, -2) + future.triu(S - T + 1)
    return scores.softmax(dim=-1) @ v


class Cache:
    """What one attention layer remembers of the tokens it has seen.

    Room for `max_len` positions is taken at once, so that appending copies nothing.

    Args:
        widths: one tensor "B S width" is kept for each; their sum is what a token
            costs, in elements.
    """

    def __init__(
        self, batch_size: int, max_len: int, widths: tuple[int, ...], like: Tensor
    ) -> None:
        self.length = 0
        self.max_len = max_len
        self.stores = [like.new_empty(batch_size, max_len, width) for width in widths]

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one more token of one sequence takes in this layer."""
        return sum(s.shape[-1] * s.element_size() for s in self.stores)

    def append(self, *new: Float[Tensor, "B T _"]) -> list[Float[Tensor, "B S _"]]:
        """Add the newest positions and return all of them.

        Raises:
            ValueError: the cache is full.
        """
        end = self.length + new[0].shape[1]
        if end > self.max_len:
            raise ValueError(f"the cache holds {self.max_len} positions, asked {end}")
        for store, x in zip(self.stores, new, strict=True):
            store[:, self.length : end] = x
        self.length = end
        return [store[:, :end] for store in self.stores]


class MultiHeadAttention(nn.Module):
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
        cos, sin = rotary_table(c.d_head, max_len, c.rope_theta)
        self.register_buffer("cos", cos.float(), persistent=False)
        self.register_buffer("sin", sin.float(), persistent=False)

    def new_cache(self, batch_size: int, max_len: int) -> Cache:
        """An empty cache: keys and values of every key-value head."""
        d_kv = self.config.num_kv_heads * self.config.d_head
        return Cache(batch_size, max_len, (d_kv, d_kv), like=self.kv.weight)

    def forward(
        self, x: Float[Tensor, "B T D"], cache: Cache | None = None
    ) -> Float[Tensor, "B T D"]:
        c, T = self.config, x.shape[1]
        start = 0 if cache is None else cache.length
        cos, sin = self.cos[start : start + T], self.sin[start : start + T]
        q = rearrange(self.q(x), "B T (H d) -> B H T d", H=c.num_heads)
        k, v = self.kv(x).chunk(2, dim=-1)
        k = rearrange(k, "B T (G d) -> B G T d", G=c.num_kv_heads)
        k = rearrange(rotate(k, cos, sin), "B G T d -> B T (G d)")
        if cache is not None:
            k, v = cache.append(k, v)
        k, v = (self._spread_heads(one) for one in (k, v))
        y = attend(rotate(q, cos, sin), k, v, scale=c.d_head**-0.5)
        return self.out(rearrange(y, "B H T d -> B T (H d)"))

    def _spread_heads(self, x: Float[Tensor, "B S _"]) -> Float[Tensor, "B H S d"]:
        """Give each query head the key-value head of its group."""
        x = rearrange(x, "B S (G d) -> B G S d", G=self.config.num_kv_heads)
        copies = self.config.num_heads // self.config.num_kv_heads
        return x if copies == 1 else x.repeat_interleave(copies, dim=1)
