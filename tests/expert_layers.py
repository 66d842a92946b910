"""A layer of experts, whole or one rank's part, for tests of what brings it tokens."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from cloudpickle import register_pickle_by_value
from torch import Tensor

from tiny_lm.matmul import grouped_loop
from tiny_lm.moe import Dispatcher

register_pickle_by_value(sys.modules[__name__])  # so that ranks need not import pytest

WIDTH, TILE, TOP_K, NUM_TOKENS = 12, 4, 3, 24
Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Layer:
    """All tokens, their routes and their experts: a layer, whole or one rank's part."""

    x: Tensor  # [N, D]
    experts: Tensor  # [N, k]
    weights: Tensor  # [N, k]
    matrices: Tensor  # [E, D, D], one for each expert
    out_grad: Tensor  # [N, D]

    def part(self, rank: int, shares: list[int], local: range) -> "Layer":
        def mine(whole):
            return whole.split(shares)[rank]

        return Layer(
            mine(self.x),
            mine(self.experts),
            mine(self.weights),
            self.matrices[local.start : local.stop],
            mine(self.out_grad),
        )


def make_layer(
    routing: str, dtype: torch.dtype = torch.float64, num_experts: int = 8
) -> Layer:
    """Tokens that choose evenly, mostly one expert, or the experts of the last rank."""
    generator = torch.Generator().manual_seed(5)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    scores = normal(NUM_TOKENS, num_experts)
    liking = torch.zeros(num_experts, dtype=dtype)
    if routing == "skewed":  # everybody wants expert 1, nobody the second half
        liking[1], liking[num_experts // 2 :] = 9, -9
    if routing == "one rank":  # the last three experts get every row
        liking[:-3] = -9
    scores = scores + liking
    return Layer(
        x=normal(NUM_TOKENS, WIDTH),
        experts=scores.topk(TOP_K).indices,
        weights=normal(NUM_TOKENS, TOP_K).sigmoid(),
        matrices=normal(num_experts, WIDTH, WIDTH) / WIDTH**0.5,
        out_grad=normal(NUM_TOKENS, WIDTH),
    )


def run_layer(
    layer: Layer, dispatcher: Dispatcher, around: tuple[Change, Change] | None = None
) -> list[Tensor]:
    """The layer's output and its gradients: by token, by choice, by expert.

    Args:
        around: what is done to the rows before and after the experts, as on a wire.
    """
    x, weights, matrices = (
        whole.detach().clone().requires_grad_()
        for whole in (layer.x, layer.weights, layer.matrices)
    )
    rows, ends, way_back = dispatcher.dispatch(x, layer.experts)
    before, after = around or (_same, _same)
    rows = after(grouped_loop(before(rows), matrices, ends).tanh())
    y = dispatcher.combine(rows, weights, way_back)
    y.backward(layer.out_grad)
    return [y.detach(), x.grad, weights.grad, matrices.grad]


def _same(rows: Tensor) -> Tensor:
    return rows
