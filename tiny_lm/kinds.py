"""Which classes a language model is made of.

Chapter: 06_together/full_model

A block is attention and a feed-forward, and both come in more than one kind. A config
says which kind is wanted, `Kinds` which class that is. Others may be handed in that
take the same arguments and hold the same weights, under the same names: a run of theirs
can be read back into the package's own.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from tiny_lm.attention import MultiHeadAttention
from tiny_lm.config import MLAConfig, ModelConfig
from tiny_lm.layers import Products, SwiGLU
from tiny_lm.mla import LatentAttention
from tiny_lm.moe import Dispatcher, MoE


@dataclass(frozen=True)
class Kinds:
    """Makers of the two halves of a block; by default the package's own classes."""

    heads: Callable[..., MultiHeadAttention] = MultiHeadAttention
    latent: Callable[..., LatentAttention] = LatentAttention
    mixture: Callable[..., MoE] = MoE

    def attention(
        self, config: ModelConfig, products: Products
    ) -> MultiHeadAttention | LatentAttention:
        """The first half."""
        c, sizes = config, (config.d_model, config.max_len)
        if isinstance(c.attention, MLAConfig):
            return self.latent(c.attention, *sizes, products, c.norm_eps)
        return self.heads(c.attention, *sizes, products)

    def feed_forward(
        self,
        config: ModelConfig,
        sparse: bool,
        products: Products,
        dispatcher: Dispatcher | None,
    ) -> nn.Module:
        """The second half: of experts, or dense."""
        c = config
        if sparse:
            return self.mixture(c.moe, c.d_model, products, dispatcher)
        return SwiGLU(c.d_model, c.d_ffn, products.linear)


OURS = Kinds()
