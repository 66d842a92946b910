"""A model cut into stages: which layers a rank of a pipeline holds.

Chapter: 05_comm/pipelines
Source: gpipe

The first stage has the embedding, the last one the head. What goes from stage to stage
is the hidden state of every position, and the balance losses that arose so far.
"""

from jaxtyping import Float
from torch import Tensor, nn

from tiny_lm.model import LanguageModel
from tiny_lm.parts import require
from tiny_lm.router import Router


class Share(nn.Module):
    """The layers of one rank, under the names that they have in the whole model.

    Args:
        model: the whole one, with this rank's experts.
        stages: which of them this rank holds, first one first.

    Raises:
        ValueError: the layers do not divide, or the model predicts further tokens.
    """

    def __init__(self, model: LanguageModel, stages: list[int], num_stages: int):
        super().__init__()
        config = self.config = model.config
        require(
            config.num_layers % num_stages == 0,
            f"{config.num_layers} layers cannot be cut into {num_stages} equal stages",
        )
        require(
            config.num_mtp == 0,
            "a module that predicts a further token needs the first stage's embedding "
            "and the last one's head: this pipeline has none",
        )
        each = config.num_layers // num_stages
        self.blocks = nn.ModuleDict()
        self.parts: list[Stage] = []
        for stage in stages:
            layers = range(stage * each, (stage + 1) * each)
            mine = {str(layer): model.blocks[layer] for layer in layers}
            self.blocks.update(mine)
            if stage == 0:
                self.embedding = model.embedding
            if stage == num_stages - 1:
                self.norm, self.head = model.norm, model.head
            self.parts.append(Stage(self, mine, stage, num_stages))

    @property
    def routers(self) -> dict[int, Router]:
        """The routers of this rank by the number of their layer."""
        return {
            int(layer): module
            for layer, block in self.blocks.items()
            for module in block.modules()
            if isinstance(module, Router)
        }


class Stage(nn.Module):
    """Some layers: tokens or hidden states in, hidden states or logits out."""

    def __init__(
        self, share: Share, blocks: dict[str, nn.Module], number: int, num_stages: int
    ) -> None:
        super().__init__()
        self.number = number
        self.blocks = nn.ModuleDict(blocks)
        self.embedding = share.embedding if number == 0 else None
        last = number == num_stages - 1
        self.norm, self.head = (share.norm, share.head) if last else (None, None)

    def forward(
        self, x: Tensor, balance: Float[Tensor, " 1"] | None = None
    ) -> tuple[Tensor, Float[Tensor, " 1"]]:
        """What the next stage reads, and the balance losses so far."""
        if self.embedding is not None:
            x = self.embedding(x)
            balance = x.new_zeros(1)
        for block in self.blocks.values():
            x, more = block(x)
            balance = balance + more
        return (x if self.head is None else self.head(self.norm(x))), balance
