"""The language model: blocks of attention and feed-forward, from a config.

Chapter: 06_together/full_model
Source: deepseek_v3, section 2; eqs. 21-25 for multi-token prediction

Bytes become vectors, every block adds what it found to them, and the last vector of
each position becomes a score for every possible next byte.
"""

import zlib
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tiny_lm import fp8
from tiny_lm.cache import Cache, Context, require_length
from tiny_lm.config import ModelConfig
from tiny_lm.kinds import OURS, Kinds
from tiny_lm.layers import (
    PLAIN,
    FullPrecision,
    Linear,
    Products,
    RMSNorm,
    cross_entropy,
    refuse_autocast,
)
from tiny_lm.moe import Dispatcher, MoE
from tiny_lm.rope import Place
from tiny_lm.router import Router


@dataclass(frozen=True)
class Loss:
    """What is minimised, and what it is made of; nats per byte."""

    total: Float[Tensor, ""]
    next_token: Float[Tensor, ""]
    mtp: Float[Tensor, ""]
    balance: Float[Tensor, ""]


class Block(nn.Module):
    """Attention, then a feed-forward; each reads a normed copy and adds its result."""

    def __init__(
        self,
        config: ModelConfig,
        sparse: bool,
        products: Products = PLAIN,
        dispatcher: Dispatcher | None = None,
        kinds: Kinds = OURS,
    ) -> None:
        super().__init__()
        c = config
        self.attention_norm = RMSNorm(c.d_model, c.norm_eps)
        self.attention = kinds.attention(c, products)
        self.ffn_norm = RMSNorm(c.d_model, c.norm_eps)
        self.ffn = kinds.feed_forward(c, sparse, products, dispatcher)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        cache: Cache | None = None,
        place: Place | None = None,
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, ""]]:
        """The block's output, and its balance loss: zero for a dense block."""
        x, normed = self.attend(x, cache, place)
        found = self.ffn(normed)
        found, balance = found if isinstance(found, tuple) else (found, x.new_zeros(()))
        return x + found, balance

    def attend(
        self, x: Float[Tensor, "B T D"], *where: Cache | Place | None
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B T D"]]:
        """The first half: the stream after attention, and what the second reads."""
        x = x + self.attention(self.attention_norm(x), *where)
        return x, self.ffn_norm(x)


class MTPModule(nn.Module):
    """One more token ahead: mix the state with the token that came next, one block.

    Differs: state first, embedding second, as in the paper; released weights have
    them the other way round.

    Source: deepseek_v3, eqs. 21-22
    """

    def __init__(
        self,
        config: ModelConfig,
        products: Products,
        dispatcher: Dispatcher | None,
        kinds: Kinds = OURS,
    ) -> None:
        super().__init__()
        d, eps = config.d_model, config.norm_eps
        self.state_norm = RMSNorm(d, eps)
        self.token_norm = RMSNorm(d, eps)
        self.mix = Linear(2 * d, d, products.linear)  # M_k
        sparse = config.num_moe_layers > 0
        self.block = Block(config, sparse, products, dispatcher, kinds)
        self.norm = RMSNorm(d, eps)

    def forward(
        self, h: Float[Tensor, "B T D"], emb: Float[Tensor, "B T D"]
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, ""]]:
        return self.block(self.enter(h, emb))

    def enter(self, h: Tensor, emb: Tensor) -> Float[Tensor, "B T D"]:
        """What its block reads."""
        return self.mix(torch.cat([self.state_norm(h), self.token_norm(emb)], dim=-1))


class LanguageModel(FullPrecision):
    """Scores for the next byte, from a config.

    Args:
        dispatcher: brings tokens to experts; by default all experts live here.
        seed: of the initial weights, which are the same for any number of ranks.
        products: how it multiplies; by default as `config.fp8` says.
        kinds: of attention and of feed-forward that it is made of.
    """

    def __init__(
        self,
        config: ModelConfig,
        dispatcher: Dispatcher | None = None,
        seed: int = 0,
        products: Products | None = None,
        kinds: Kinds = OURS,
    ) -> None:
        super().__init__()
        c = self.config = config
        products = products or (fp8.products(c.fp8) if c.fp8 else PLAIN)
        self.embedding = nn.Embedding(c.vocab_size, c.d_model)
        self.blocks = nn.ModuleList(
            Block(c, layer >= c.num_dense_layers, products, dispatcher, kinds)
            for layer in range(c.num_layers)
        )
        self.norm = RMSNorm(c.d_model, c.norm_eps)
        self.head = Linear(c.d_model, c.vocab_size, products.head)
        self.mtp = nn.ModuleList(
            MTPModule(c, products, dispatcher, kinds) for _ in range(c.num_mtp)
        )
        initialize(self, seed)

    @property
    def routers(self) -> list[Router]:
        """The router of every MoE layer, first layer first."""
        return [m for m in self.modules() if isinstance(m, Router)]

    def new_context(
        self, batch_size: int, max_len: int, prefix: Context | None = None
    ) -> Context:
        """Memory for a batch of sequences, empty or starting with what was read before.

        Raises:
            ValueError: no room for the prefix, or it comes from another model or batch.
        """
        caches = [b.attention.new_cache(batch_size, max_len) for b in self.blocks]
        return Context(caches, self.config.max_len, prefix)

    def hidden(
        self,
        tokens: Int[Tensor, "B T"],
        context: Context | None = None,
        real: Bool[Tensor, "B T"] | None = None,
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, ""]]:
        """The state after the last block, and the balance losses added up."""
        place = self._place(tokens, context, real)
        caches = context.layers if context else [None] * len(self.blocks)
        x = self.embedding(tokens)
        refuse_autocast(x)
        total = x.new_zeros(())
        for block, cache in zip(self.blocks, caches, strict=True):
            x, balance = block(x, cache, place)
            total = total + balance
        return x, total

    def forward(
        self,
        tokens: Int[Tensor, "B T"],
        context: Context | None = None,
        real: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T V"]:
        """Logits of the next token at every position.

        Args:
            context: of the tokens before these; it is extended in place.
            real: False where a token is padding, for batches of unequal lengths; what
                comes out there means nothing.

        Raises:
            ValueError: there is no token, a sequence is longer than `config.max_len`,
                the context is full or of another batch, `real` has no context, or
                autocast is on.
        """
        return self.head(self.norm(self.hidden(tokens, context, real)[0]))

    def loss(self, tokens: Int[Tensor, "B T1"]) -> Loss:
        """Mean cross-entropy of every token after the first, and the other terms.

        Args:
            tokens: one more than the model reads; each is the target of the one
                before.
        """
        h, balance = self.hidden(tokens[:, :-1])
        logits = self.head(self.norm(h))
        next_token = cross_entropy(logits, tokens[:, 1:])
        mtp, mtp_balance = self._mtp_loss(h, tokens)
        balance = balance + mtp_balance
        total = next_token + self.config.mtp_weight * mtp + balance
        return Loss(total, next_token, mtp, balance)

    def _mtp_loss(self, h: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss of the further tokens, each module reading the last one's state.

        Source: deepseek_v3, eqs. 23-25
        """
        losses, total = [h.new_zeros(())], h.new_zeros(())
        for depth, module in enumerate(self.mtp, start=1):
            emb = self.embedding(tokens[:, depth:-1])
            h, balance = module(h[:, :-1], emb)
            logits = self.head(module.norm(h))
            losses.append(cross_entropy(logits, tokens[:, depth + 1 :]))
            total = total + balance
        return torch.stack(losses).sum() / max(len(self.mtp), 1), total

    def _place(
        self, tokens: Tensor, context: Context | None, real: Tensor | None
    ) -> Place | None:
        """Where these tokens stand, the same in all layers; None: at the beginning."""
        if tokens.shape[1] == 0:
            raise ValueError("there is no token to read")
        if context is None:
            if real is not None:
                raise ValueError("padding needs a context: model.new_context(…)")
            require_length(tokens.shape[1], self.config.max_len)
            return None
        start = context.longest
        positions, hidden = context.advance(*tokens.shape, real)
        num = context.longest - start
        return self.blocks[0].attention.place(start, num, positions, hidden)


def is_expert(name: str) -> bool:
    """Whether a parameter of that name is stacked by expert, so that ranks share it."""
    return ".experts." in name


def multiplied_in_fp8(model: nn.Module) -> list[nn.Parameter]:
    """The weights that a model, or some of its layers, multiplies in FP8.

    All matrices but the embedding, and gate and head unless the config says so.
    """
    of_modules = {"embedding": False}
    if model.config.fp8:
        of_modules |= {"head": model.config.fp8.head, "router": model.config.fp8.gate}
    return [
        weight
        for name, weight in model.named_parameters()
        if weight.dim() > 1 and of_modules.get(name.split(".")[-2], True)
    ]


@torch.no_grad()
def initialize(model: LanguageModel, seed: int) -> None:
    """Draw every matrix from a generator of its own, normal with `init_std`.

    The generator is seeded by the parameter's name and the expert's global number, so
    a rank that holds four experts starts from the weights those four have anywhere.
    """
    std = model.config.init_std
    first = {
        f"{name}.experts": moe.dispatcher.local_experts.start
        for name, moe in model.named_modules()
        if isinstance(moe, MoE)
    }
    for name, weight in model.named_parameters():
        if weight.dim() == 3:
            for local, one in enumerate(weight):
                expert = first[name.rpartition(".")[0]] + local
                _draw(one, std, f"{seed} {name} {expert}")
        elif weight.dim() == 2:
            _draw(weight, std, f"{seed} {name}")


def _draw(weight: Tensor, std: float, key: str) -> None:
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    alike = {"dtype": torch.float32, "device": "cpu"}  # whatever torch's defaults are
    weight.copy_(torch.randn(weight.shape, generator=generator, **alike) * std)
