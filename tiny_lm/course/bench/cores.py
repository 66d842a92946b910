"""Attention over a cache alone: what a step does beside its products with weights.

Chapter: 03_mla/absorption
Source: course

On a large GPU reading a cache is what decoding waits for, and so a smaller cache is a
faster one. Here both sides are timed without anything around them: `tiny`'s latent
attention, and plain attention with as many heads, at the same context. Every layer has
a cache of its own, as in a model. The control reads the latents and only adds them up.

All is timed on one core by the time that it worked: short work and long are compared,
and other programs disturb the long one more often.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tiny_lm import costs, counts
from tiny_lm.config import MHAConfig, tiny
from tiny_lm.course.bench.turns import ROUNDS, Step, in_turns
from tiny_lm.decoder import mix

FP32_BYTES = 4


@dataclass(frozen=True, kw_only=True)
class Core:
    """Attention of all layers for one token of each sequence."""

    name: str
    cache_bytes: int
    flops: int
    seconds: float

    @property
    def flops_per_s(self) -> float:
        """What was reached, of products that have few rows."""
        return self.flops / self.seconds

    @property
    def bytes_per_s(self) -> float:
        """At least: of memory, or of a processor's cache where all of it fits."""
        return self.cache_bytes / self.seconds


def plain_heads() -> MHAConfig:
    """Multi-head attention with `tiny`'s number of heads and their width."""
    a = tiny().attention
    return MHAConfig(num_heads=a.num_heads, num_kv_heads=a.num_heads, d_head=a.d_nope)


def cores(
    context: int = 4096, batch_size: int = 1, rounds: int = ROUNDS
) -> dict[str, Core]:
    """Absorbed MLA and MHA over caches in FP32, and a sum of the latents, in turns."""
    latent, heads = tiny().attention, plain_heads()
    numbers = {"mla": costs.kv_elements_per_token(latent)}
    numbers |= {"mha": costs.kv_elements_per_token(heads), "sum": numbers["mla"]}
    flops = {
        "mla": counts.decode_flops_per_key(latent),
        "mha": counts.decode_flops_per_key(heads),
        "sum": numbers["sum"],
    }
    ways = _latent(context, batch_size) | {"mha": _heads(context, batch_size)}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.inference_mode():
        seconds = in_turns(ways, rounds, clock=time.thread_time)
    torch.set_num_threads(threads)
    keys = tiny().num_layers * batch_size * context
    return {
        name: Core(
            name=name,
            cache_bytes=FP32_BYTES * keys * numbers[name],
            flops=keys * flops[name],
            seconds=seconds[name],
        )
        for name in numbers
    }


def _latent(context: int, batch_size: int) -> dict[str, Step]:
    """All heads ask the one latent of each token, and get a mean of latents."""
    a = tiny().attention
    wide = a.d_latent_kv + a.d_rope
    q = torch.randn(batch_size, a.num_heads, wide)
    layers = [torch.randn(batch_size, context, wide) for _ in range(tiny().num_layers)]
    return {
        "mla": lambda: _each(
            layers, lambda m: mix(q, m, m[..., : a.d_latent_kv], None)
        ),
        "sum": lambda: _each(layers, torch.sum),
    }


def _heads(context: int, batch_size: int) -> Step:
    """Every head asks keys of its own."""
    heads = plain_heads()
    rows, width = batch_size * heads.num_heads, heads.d_head
    q = torch.randn(rows, 1, width)
    layers = [torch.randn(2, rows, context, width) for _ in range(tiny().num_layers)]
    return lambda: _each(layers, lambda kv: mix(q, kv[0], kv[1], None))


def _each(layers: list[Tensor], attend: Callable[[Tensor], Tensor]) -> None:
    for layer in layers:
        attend(layer)
