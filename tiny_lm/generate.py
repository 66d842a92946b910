"""Continue a prompt: ask for the next byte, draw one, remember it, ask again.

Chapter: 01_baseline/probability_machine
Source: nucleus_sampling
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiny_lm.data import decode, encode
from tiny_lm.model import LanguageModel


def next_byte_probabilities(
    logits: Float[Tensor, "... V"], temperature: float = 1.0, top_p: float = 1.0
) -> Float[Tensor, "... V"]:
    """What is sampled from: sharpened by temperature, cut to the likeliest `top_p`.

    The token that crosses the threshold stays in, so there is always one to draw.

    Args:
        temperature: 1 leaves the model's own probabilities; towards 0 only the
            likeliest token is left.
        top_p: share of the probability that is kept, in (0, 1].

    Returns:
        Each row sums to 1.

    Raises:
        ValueError: temperature or `top_p` out of range.

    Source: nucleus_sampling
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], got {top_p}")
    probabilities = (logits / temperature).softmax(dim=-1)
    ordered, token = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    ordered = ordered.masked_fill(before >= top_p, 0.0)
    kept = torch.zeros_like(probabilities).scatter(-1, token, ordered)
    return kept / kept.sum(-1, keepdim=True)


@torch.inference_mode()
def stream(
    model: LanguageModel,
    prompt: Int[Tensor, " T"],
    num_bytes: int,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 0,
) -> Iterator[int]:
    """Byte after byte, reading each token once through the cache.

    Raises:
        ValueError: an empty prompt, or prompt and continuation exceed `max_len`.
    """
    if len(prompt) == 0:
        raise ValueError("the prompt is empty; give at least one character")
    length = len(prompt) + num_bytes
    if length > model.config.max_len:
        raise ValueError(
            f"prompt and continuation are {length} bytes, "
            f"max_len={model.config.max_len}"
        )
    model.eval()
    device = model.head.weight.device
    generator = torch.Generator().manual_seed(seed)
    caches = model.new_caches(batch_size=1, max_len=length)
    tokens = prompt.long().unsqueeze(0).to(device)
    for _ in range(num_bytes):
        logits = model(tokens, caches)[0, -1].float().cpu()
        p = next_byte_probabilities(logits, temperature, top_p)
        token = int(torch.multinomial(p, 1, generator=generator))
        yield token
        tokens = torch.tensor([[token]], device=device)


def generate(
    model: LanguageModel,
    prompt: str,
    num_bytes: int,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 0,
) -> str:
    """The continuation of a prompt, as text.

    Raises:
        ValueError: as `stream` and `next_byte_probabilities`.
    """
    new = list(stream(model, encode(prompt), num_bytes, temperature, top_p, seed))
    return decode(torch.tensor(new, dtype=torch.uint8))
