"""What messages and sums cost by latency and bandwidth, and the floor of decoding.

Chapter: 05_comm/collectives
Source: collective_cost; deepseek_isca, section 2.3.2

A message of n bytes takes α + n β. A sum of n bytes over p ranks takes

    ring              2 (p - 1) (α + n / p β)    a part to the neighbour at each step
    tree              2 ⌈log₂ p⌉ (α + n β)       all of it, in pairs, up and down
    straight          2 (α + (p - 1) / p n β)    every part to its rank, all at once

`straight` is a best case: all its messages leave at once and share a port. One after
the other they take as long as a ring. `replay.links` plays the first two.
"""

from math import ceil, log2
from typing import NamedTuple

from tiny_lm.config import deepseek_v3

WAYS = ("ring", "tree", "straight")


class Link(NamedTuple):
    """One direction of a link.

    alpha_s: what a message takes beside its bytes
    """

    name: str
    bytes_per_s: float
    alpha_s: float

    @property
    def even_bytes(self) -> float:
        """A message of so many bytes takes as long for them as for its start."""
        return self.alpha_s * self.bytes_per_s

    def message_s(self, num_bytes: float) -> float:
        """Time of one message."""
        return self.alpha_s + num_bytes / self.bytes_per_s


def all_reduce_s(way: str, num_bytes: float, num_ranks: int, link: Link) -> float:
    """Time of a sum over ranks that are joined by links of one kind.

    Raises:
        ValueError: `way` is not one of `WAYS`.
    """
    if way not in WAYS:
        raise ValueError(f"way must be one of {', '.join(WAYS)}, got {way!r}")
    part = num_bytes / num_ranks
    if way == "ring":
        return 2 * (num_ranks - 1) * link.message_s(part)
    if way == "tree":
        return 2 * ceil(log2(num_ranks)) * link.message_s(num_bytes)
    return 2 * link.message_s((num_ranks - 1) * part)


class Floor(NamedTuple):
    """What decoding takes at least if nothing but the exchange of experts counts.

    exchange_s: tokens of one micro-batch to their experts and back
    """

    exchange_s: float
    token_s: float

    @property
    def tokens_per_s(self) -> float:
        """Of one sequence."""
        return 1 / self.token_s


NUM_TOKENS, COPIES = 32, 9  # of a GPU's micro-batch; eight routed experts, one shared
PUBLISHED_COPY_BYTES = 3 * 7000  # there in FP8, home in BF16, and a rounded width


def decode_floor(
    copy_bytes: float,
    link: Link,
    latency: bool = False,
    second: Link | None = None,
) -> Floor:
    """The floor of a decoding step of V3 whose experts sit one on each GPU.

    Two micro-batches take turns on the link, so a layer lasts two exchanges.

    Args:
        copy_bytes: of a token's copy, there and home.
        latency: count α as well, once on the way there and once on the way home.
        second: a link over which every copy is handed on once it has come, in series.
    """
    links = (link,) if second is None else (link, second)
    num_bytes = NUM_TOKENS * COPIES * copy_bytes
    exchange = sum(num_bytes / one.bytes_per_s for one in links)
    if latency:
        exchange += sum(2 * one.alpha_s for one in links)
    return Floor(exchange, exchange * 2 * deepseek_v3().num_layers)
