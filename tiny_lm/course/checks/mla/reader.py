"""A stand-in for a model, whose bets depend on all it remembers and on where it stood.

Chapter: 03_mla/absorption
Source: course

A small model repeats itself whatever one does to it. This one bets on the sum, over
all tokens in its cache, of (position + 1) · (token + 1), modulo 11, so that a token
that is missing, read twice or put elsewhere changes what is written from there on.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

TOKENS = 11
RULE = (
    f"this model bets on the sum of (position + 1) · (token + 1)\n"
    f"over all tokens in its cache, modulo {TOKENS}"
)


class Room:
    """The cache of one layer: places, filled one after another."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.filled: list[tuple[int, int]] = []  # position and token


class NewCaches:
    """Makes empty caches of two layers."""

    def __init__(self) -> None:
        self.made: list[list[Room]] = []

    def __call__(self, room: int) -> list[Room]:
        self.made.append([Room(int(room)) for _ in range(2)])
        return self.made[-1]

    def __repr__(self) -> str:
        return "new_caches"


class Read:
    """Reads tokens into caches, and remembers what it was asked to read."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []  # first position and number of tokens
        self.found: list[int] = []  # tokens in the cache before each call

    def __repr__(self) -> str:
        return "read"

    def __call__(self, tokens: Any, start: Any, caches: Any) -> Float[Tensor, "n V"]:
        """Logits of what follows each of the tokens, "n".

        Raises:
            TypeError: an argument is of another kind than a model takes.
        """
        self._require(tokens, caches)
        self.asked.append((int(start), len(tokens)))
        self.found.append(len(caches[0].filled))
        logits = torch.zeros(len(tokens), TOKENS)
        for n, token in enumerate(tokens.tolist()):
            for cache in caches:
                cache.filled.append((int(start) + n, token))
            seen = caches[0].filled
            bet = sum((place + 1) * (token + 1) for place, token in seen)
            logits[n] = n - ((torch.arange(TOKENS) - bet) % TOKENS) / TOKENS
        return logits

    def _require(self, tokens: Any, caches: Any) -> None:
        if not isinstance(tokens, Tensor) or tokens.dim() != 1 or not len(tokens):
            told = tuple(tokens.shape) if isinstance(tokens, Tensor) else tokens
            raise TypeError(f"read takes a row of token ids, shape (n,), got {told}")
        if tokens.is_floating_point():
            raise TypeError(f"read takes a row of token ids, got {tokens.dtype}")
        rooms = caches if isinstance(caches, list) else []
        if len(rooms) != 2 or not all(isinstance(room, Room) for room in rooms):
            raise TypeError("read takes the caches that new_caches made")

    def calls(self, last: int) -> str:
        """Positions that were read, call by call.

        Args:
            last: position of the last token that is written. Nothing follows it, so
                reading it too is needless and does no harm.
        """
        asked = self.asked
        if len(asked) > 1 and asked[-1] == (last, 1):
            asked = asked[:-1]
        return ", then ".join(_span(start, num) for start, num in asked)


def room_in(made: list[list[Room]]) -> str:
    """Whether all caches had room for what was read into them.

    A model's caches refuse what they have no room for; these take it, so that what was
    read and what was asked for can be told apart.
    """
    for room in (cache for caches in made for cache in caches):
        if len(room.filled) > room.size:
            return f"for {room.size} tokens, and {len(room.filled)} came"
    return "enough"


def _span(start: int, num: int) -> str:
    return str(start) if num == 1 else f"{start} to {start + num - 1}"
