"""Multi-head Latent Attention: remember one short vector a token, not every head.

Chapter: 03_mla
Source: deepseek_v3, eqs. 1-11; deepseek_v2, section 2.1

Keys and values of all heads are linear maps of one latent vector c of width d_c, so c
is all that has to be cached. Position would spoil this: a rotation between the query
and the up-projection depends on the token and cannot be folded away. So position
travels apart, in a narrow key that is rotated and shared by all heads.

The same attention can be computed in two orders. *Expanded*: make every head's keys
and values from c, then attend; fewest FLOPs when many positions ask at once, as in
training. *Absorbed*: carry the query into the latent space and attend to c itself;
the expanded keys and values never exist, which is what makes the small cache pay.
"""

import torch
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from tiny_lm.attention import attend
from tiny_lm.cache import Cache, QuantizedCache
from tiny_lm.config import MLAConfig
from tiny_lm.layers import PLAIN, Linear, Products, RMSNorm, Rotary, rotate
from tiny_lm.rope import Place, in_force, score_boost


def absorbing_pays(config: MLAConfig, num_queries: int, num_keys: int) -> bool:
    """Whether the absorbed form takes fewer multiply-adds than the expanded one.

    A head that is absorbed compares wider vectors, for every pair of query and key. One
    that is expanded has its keys and values made anew, once for each key. At V3's
    widths they meet near 171 queries, if most keys come from a cache.
    """
    c = config
    made_once = c.d_latent_kv * (c.d_nope + c.d_value)  # for a key, or a query
    pairs = num_queries * num_keys
    expanded = pairs * (c.d_qk + c.d_value) + num_keys * made_once
    absorbed = pairs * (2 * c.d_latent_kv + c.d_rope) + num_queries * made_once
    return absorbed < expanded


class LatentAttention(Rotary):
    """MLA with the shared rotary key.

    Without a cache it computes the expanded form; with one, whichever takes fewer
    products: absorbed for a token that is written, expanded for a prompt that is read.

    Differs: with FP8 products the absorbed form multiplies with the up-projection in
    full precision, since it is folded into the query and never meets a token.

    Source: deepseek_v3, eqs. 1-11
    """

    def __init__(
        self,
        config: MLAConfig,
        d_model: int,
        max_len: int,
        products: Products = PLAIN,
        norm_eps: float = 1e-6,
    ) -> None:
        super().__init__()
        c = self.config = config
        linear, d_query = products.linear, config.num_heads * config.d_qk
        yarn = in_force(c.yarn, max_len)
        self.scale = c.d_qk**-0.5 * score_boost(yarn)  # of the joint score, both parts
        if c.d_latent_q is None:
            self.q = Linear(d_model, d_query, linear)
        else:
            self.q_down = Linear(d_model, c.d_latent_q, linear)  # W^DQ
            self.q_norm = RMSNorm(c.d_latent_q, norm_eps)
            self.q_up = Linear(c.d_latent_q, d_query, linear)  # W^UQ and W^QR
        self.kv_down = Linear(d_model, c.d_latent_kv + c.d_rope, linear)  # W^DKV, W^KR
        self.kv_norm = RMSNorm(c.d_latent_kv, norm_eps)
        d_up = c.num_heads * (c.d_nope + c.d_value)
        self.kv_up = Linear(c.d_latent_kv, d_up, linear)  # per head: W^UK rows, W^UV
        self.out = Linear(c.num_heads * c.d_value, d_model, linear)  # W^O
        self.keep_angles(c.d_rope, max_len, c.rope_theta, yarn)

    def new_cache(self, batch_size: int, max_len: int) -> Cache:
        """An empty cache: the normalised latent and the rotated key, side by side."""
        c, like = self.config, self.kv_up.weight
        if c.cache_tile is not None:
            widths = (c.d_latent_kv, c.d_rope)
            return QuantizedCache(batch_size, max_len, widths, c.cache_tile, like)
        return Cache(batch_size, max_len, [(c.d_latent_kv + c.d_rope,)], like)

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
        if place is None:
            place = self.place(0 if cache is None else cache.length, x.shape[1])
        q_nope, q_rope = self.queries(x, place)
        latent, k_rope = self.compress(x, place)
        if cache is None:
            y = self.expanded(q_nope, q_rope, latent, k_rope, place.hidden)
        else:
            (memory,) = cache.append(torch.cat([latent, k_rope], dim=-1))
            y = self.attend_to(memory, q_nope, q_rope, place.hidden)
        return self.out(rearrange(y, "B H T v -> B T (H v)"))

    def attend_to(
        self,
        memory: Float[Tensor, "B S latent_rope"],
        q_nope: Float[Tensor, "B H T nope"],
        q_rope: Float[Tensor, "B H T rope"],
        hidden: Bool[Tensor, "B S"] | None = None,
    ) -> Float[Tensor, "B H T v"]:
        """Attend to what a cache returned, in the cheaper of the two forms."""
        c = self.config
        if absorbing_pays(c, q_nope.shape[2], memory.shape[1]):
            return self.absorbed(q_nope, q_rope, memory, hidden)
        latent, k_rope = memory.split([c.d_latent_kv, c.d_rope], dim=-1)
        return self.expanded(q_nope, q_rope, latent, k_rope, hidden)

    def queries(
        self, x: Float[Tensor, "B T D"], place: Place
    ) -> tuple[Float[Tensor, "B H T nope"], Float[Tensor, "B H T rope"]]:
        """Every head's query: the part without position, and the rotated part."""
        c = self.config
        if c.d_latent_q is None:
            q = self.q(x)
        else:
            q = self.q_up(self.q_norm(self.q_down(x)))
        q = rearrange(q, "B T (H qk) -> B H T qk", H=c.num_heads)
        q_nope, q_rope = q.split([c.d_nope, c.d_rope], dim=-1)
        return q_nope, rotate(q_rope, *place.per_head)

    def compress(
        self, x: Float[Tensor, "B T D"], place: Place
    ) -> tuple[Float[Tensor, "B T latent"], Float[Tensor, "B T rope"]]:
        """What the cache keeps of each token: its latent, and one rotated key."""
        c = self.config
        latent, k_rope = self.kv_down(x).split([c.d_latent_kv, c.d_rope], dim=-1)
        return self.kv_norm(latent), rotate(k_rope, place.cos, place.sin)

    def expanded(
        self,
        q_nope: Float[Tensor, "B H T nope"],
        q_rope: Float[Tensor, "B H T rope"],
        latent: Float[Tensor, "B S latent"],
        k_rope: Float[Tensor, "B S rope"],
        hidden: Bool[Tensor, "B S"] | None = None,
    ) -> Float[Tensor, "B H T v"]:
        """Make every head's keys and values, then attend as ever."""
        c = self.config
        kv = rearrange(self.kv_up(latent), "B S (H d) -> B H S d", H=c.num_heads)
        k_nope, v = kv.split([c.d_nope, c.d_value], dim=-1)
        shared = k_rope.unsqueeze(1).expand(-1, c.num_heads, -1, -1)
        k = torch.cat([k_nope, shared], dim=-1)
        return attend(torch.cat([q_nope, q_rope], dim=-1), k, v, self.scale, hidden)

    def absorbed(
        self,
        q_nope: Float[Tensor, "B H T nope"],
        q_rope: Float[Tensor, "B H T rope"],
        memory: Float[Tensor, "B S latent_rope"],
        hidden: Bool[Tensor, "B S"] | None = None,
    ) -> Float[Tensor, "B H T v"]:
        """Carry the queries into the latent space and attend to the latents.

        q · (W c) = (Wᵀ q) · c, so the up-projection of the keys moves to the query,
        and that of the values to the result. To every head the latents are the one
        key and the one value, read where they lie.

        Args:
            memory: latent and rotary key side by side, as the cache keeps them.
        """
        w_k, w_v = self.up_projections()
        q = einsum(q_nope, w_k, "B H T nope, H nope latent -> B H T latent")
        keys = memory.unsqueeze(1)
        values = keys[..., : self.config.d_latent_kv]
        y = attend(torch.cat([q, q_rope], dim=-1), keys, values, self.scale, hidden)
        return einsum(y, w_v, "B H T latent, H v latent -> B H T v")

    def up_projections(
        self,
    ) -> tuple[Float[Tensor, "H nope latent"], Float[Tensor, "H v latent"]]:
        """Every head's map from the latent to its key and to its value: W^UK, W^UV."""
        c = self.config
        w = rearrange(self.kv_up.weight, "(H d) latent -> H d latent", H=c.num_heads)
        return w.split([c.d_nope, c.d_value], dim=1)
