"""Text by the learner's pieces: drawn byte by byte, or the likeliest throughout.

Chapter: 06_together/full_model
Source: nucleus_sampling
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiny_lm.cache import Context
from tiny_lm.course.assembly.chosen import Chosen
from tiny_lm.data import decode, encode
from tiny_lm.model import LanguageModel

SAMPLED, LIKELIEST = ("baseline.next_byte_probabilities",), ("mla.decode",)


@torch.no_grad()
def write(
    mine: Chosen,
    model: LanguageModel,
    prompt: str,
    num_bytes: int,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 0,
) -> str:
    """A continuation, drawn from the learner's probabilities."""
    model.eval()
    tokens, new = encode(prompt).long(), []
    context = model.new_context(1, len(tokens) + num_bytes)
    dice = torch.Generator().manual_seed(seed)
    probabilities = mine("baseline.next_byte_probabilities")
    while len(new) < num_bytes:
        logits = model(tokens[None], context)[0, -1]
        p = probabilities(logits.float(), temperature, top_p)
        tokens = torch.multinomial(p, 1, generator=dice)
        new.append(int(tokens))
    return decode(torch.tensor(new, dtype=torch.uint8))


@torch.no_grad()
def likeliest(mine: Chosen, model: LanguageModel, prompt: str, num_bytes: int) -> str:
    """The continuation that the learner's `decode` finds."""
    model.eval()

    def read(
        tokens: Int[Tensor, " n"], start: int, context: Context
    ) -> Float[Tensor, "n V"]:
        return model(tokens[None], context)[0]

    def new_caches(room: int) -> Context:
        return model.new_context(1, room)

    found = mine("mla.decode")(read, new_caches, encode(prompt).long(), num_bytes)
    return decode(found.to(torch.uint8))
