"""Continue a prompt: ask for the next byte, draw one, remember it, ask again.

Chapter: 01_baseline/probability_machine
Source: nucleus_sampling
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tiny_lm.cache import Context
from tiny_lm.data import decode, encode
from tiny_lm.decoder import next_step
from tiny_lm.model import LanguageModel

CHUNK = 512  # columns of a prompt that are read at once


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
    if not 0 < temperature < float("inf"):  # NaN is neither
        raise ValueError(f"temperature must be positive, got {temperature}")
    if not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], got {top_p}")
    below = logits - logits.amax(-1, keepdim=True)  # else a low temperature overflows
    smallest = torch.finfo(logits.dtype).tiny
    probabilities = (below / max(temperature, smallest)).softmax(dim=-1)
    ordered, token = probabilities.sort(dim=-1, descending=True, stable=True)
    before = ordered.cumsum(-1) - ordered
    ordered = ordered.masked_fill(before >= top_p, 0.0)
    kept = torch.zeros_like(probabilities).scatter(-1, token, ordered)
    return kept / kept.sum(-1, keepdim=True)


def left_pad(
    prompts: Sequence[Int[Tensor, " _"]],
) -> tuple[Int[Tensor, "B T"], Bool[Tensor, "B T"]]:
    """Prompts of unequal length as one table: all end in the last column.

    `[[7, 8, 9], [5]]` becomes tokens `[[7, 8, 9], [0, 0, 5]]`; the second result is
    True where a token is a prompt's.

    Raises:
        ValueError: there is no prompt, or one is empty.
    """
    lengths = [len(prompt) for prompt in prompts]
    if not lengths or min(lengths) == 0:
        raise ValueError("the prompt is empty; give at least one character")
    tokens = torch.zeros(len(prompts), max(lengths), dtype=torch.int64)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[len(row) - len(prompt) :] = prompt
    columns = torch.arange(max(lengths))
    return tokens, columns >= max(lengths) - torch.tensor(lengths).unsqueeze(1)


@torch.inference_mode()
def read(
    model: LanguageModel,
    context: Context,
    tokens: Int[Tensor, "B T"],
    real: Bool[Tensor, "B T"] | None = None,
    chunk: int = CHUNK,
) -> Float[Tensor, "B V"]:
    """Read prompts into a context, chunk by chunk; logits of what follows.

    Attention makes a table of scores, as high as the chunk and as wide as all that was
    read: whole, the one of a long prompt would be larger than the model.

    Raises:
        ValueError: as the model does, or `chunk` is not positive.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be positive, got {chunk}")
    device = model.head.weight.device
    parts = tokens.to(device).split(chunk, dim=1)
    masks = [None] * len(parts) if real is None else real.to(device).split(chunk, dim=1)
    h = None
    for part, mask in zip(parts, masks, strict=True):
        h, _ = model.hidden(part, context, mask)
    if h is None:
        raise ValueError("there is no token to read")
    return model.head(model.norm(h[:, -1]))


@torch.inference_mode()
def stream_batch(
    model: LanguageModel,
    prompts: Sequence[Int[Tensor, " _"]],
    num_bytes: int,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 0,
    prefix: Context | None = None,
    chunk: int = CHUNK,
) -> Iterator[list[int]]:
    """The next byte of every prompt, again and again, reading each token once.

    Each prompt has dice of its own, thrown alike: alone it would continue the same.

    Args:
        prefix: what was read before all of the prompts, by `read`; it is copied, and
            may serve again.
        chunk: columns of the prompts that are read at once.

    Raises:
        ValueError: an empty prompt, or prefix, prompt and continuation exceed
            `max_len`; and as `next_byte_probabilities`.
    """
    tokens, real = left_pad(prompts)
    before = 0 if prefix is None else prefix.longest
    length = before + tokens.shape[1] + num_bytes
    if length > model.config.max_len:
        raise ValueError(
            f"prompt and continuation are {length} bytes, "
            f"max_len={model.config.max_len}"
        )
    model.eval()
    columns = 0 if prefix is None else prefix.num_columns
    room = columns + tokens.shape[1] + num_bytes
    context = model.new_context(len(prompts), room, prefix)
    dice = [torch.Generator().manual_seed(seed) for _ in prompts]
    logits = read(model, context, tokens, real, chunk)
    step = next_step(model, context) if num_bytes > 1 else None
    for number in range(num_bytes):
        if number:
            logits = step(new.to(logits.device))
        p = next_byte_probabilities(logits.float().cpu(), temperature, top_p)
        drawn = zip(p, dice, strict=True)
        new = torch.cat([torch.multinomial(q, 1, generator=die) for q, die in drawn])
        yield new.tolist()


def stream(
    model: LanguageModel,
    prompt: Int[Tensor, " T"],
    num_bytes: int,
    temperature: float = 0.8,
    top_p: float = 0.95,
    seed: int = 0,
) -> Iterator[int]:
    """Byte after byte of one continuation.

    Raises:
        ValueError: as `stream_batch`.
    """
    rows = stream_batch(model, [prompt.long()], num_bytes, temperature, top_p, seed)
    return (row[0] for row in rows)


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
