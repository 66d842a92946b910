"""Task 5.4's inputs, and what is looked at: sums at tokens, gradients, and roads.

Chapter: 05_comm/emulated_gpus
Source: course
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from tiny_lm.course.checks.answer import Answer
from tiny_lm.course.checks.case import Probe
from tiny_lm.course.checks.comm.journeys import chosen_by
from tiny_lm.course.checks.comm.ranks import on_ranks, once_each
from tiny_lm.course.checks.comm.rehearsal import AnyGroup
from tiny_lm.course.checks.comm.roads import Road, Way, carried, ways
from tiny_lm.course.checks.result import conform

Given = list[tuple[Tensor, Tensor, Way]]  # of each rank: rows, weights, way


def pull_of(y: Tensor) -> Tensor:
    """What comes back from behind: the gradient of y, other numbers everywhere."""
    return 1 + torch.arange(y.numel()).view(y.shape).to(y) % 3


def only_there(
    function: Callable, group: AnyGroup, rows: Tensor, weights: Tensor, way: Way
) -> tuple | None:
    """The call of one rank, without its way back."""
    roads = (Road(name, group) for name in ("there", "home"))
    y = function(rows, weights, way, *roads)
    return None if y is None else (y, rows * 0, weights * 0, "", "")


def use(
    function: Callable, group: AnyGroup, rows: Tensor, weights: Tensor, way: Way
) -> tuple | None:
    """The call of one rank, and its way back: y, gradients, and the roads it took."""
    trips: list[tuple[str, int]] = []
    roads = (Road(name, group, trips) for name in ("there", "home"))
    rows, weights = rows.clone().requires_grad_(), weights.clone().requires_grad_()
    y = function(rows, weights, way, *roads)
    if y is None:
        return None
    forward = ", ".join(name for name, _ in trips)
    trips.clear()
    found = [torch.zeros_like(rows), torch.zeros_like(weights)]
    if isinstance(y, Tensor) and y.requires_grad:
        grads = torch.autograd.grad(
            (y * pull_of(y)).sum(), (rows, weights), allow_unused=True
        )
        found = [z if g is None else g for g, z in zip(grads, found, strict=True)]
    y = y.detach() if isinstance(y, Tensor) else y
    return y, *found, forward, ", ".join(name for name, _ in trips)


def observed(answer: Answer, given: Given, back: bool = True) -> dict[str, Any]:
    """What all ranks got, by name."""
    found = on_ranks(answer, use if back else only_there, given)
    seen: dict[str, Any] = {}
    for rank, ((y, *_), (rows, weights, _)) in enumerate(
        zip(found, given, strict=True)
    ):
        like = rows.new_zeros(len(weights), rows.shape[1])
        like = like.new_zeros(y.shape) if getattr(y, "ndim", 0) == 2 else like
        seen[f"y on rank {rank}:"] = conform(y, like, ("y",), False)
    for rank, (_, by_rows, *_) in enumerate(found):
        seen[f"gradient by rows, rank {rank}:"] = by_rows
    for rank, (_, _, by_weights, *_) in enumerate(found):
        seen[f"gradient by weights, rank {rank}:"] = by_weights
    for rank, (*_, forward, backward) in enumerate(found):
        seen[f"forward, rank {rank} goes"] = forward or "nowhere"
        seen[f"backward, rank {rank} goes"] = backward or "nowhere"
    return seen


def small(experts: Sequence[list], num_experts: int, back: bool = True) -> Probe:
    """Rows whose numbers tell expert, rank and token, and easy weights.

    Args:
        experts: of each rank, what its tokens chose.
        back: whether the way back is gone, too.
    """
    top_k = max(len(row) for rank in experts for row in rank)
    chosen = [torch.tensor(e, dtype=torch.int64).view(-1, top_k) for e in experts]

    @once_each
    def see(answer: Answer, generator: Generator) -> dict[str, Any]:
        way = ways(chosen, num_experts)
        values = [
            (100.0 * e + 10 * rank + torch.arange(len(e))[:, None]).view(-1, 1)
            for rank, e in enumerate(chosen)
        ]
        weights = [torch.tensor([[2.0, 0.5][:top_k]]).repeat(len(e), 1) for e in chosen]
        weights = [w / (1 + torch.arange(len(w))[:, None]) for w in weights]
        given = zip(carried(values, way), weights, way, strict=True)
        return observed(answer, [*given], back)

    lines = [
        f"{num_experts} experts on {len(experts)} ranks; expert 3 makes 310 of 10, the",
        "first token of rank 1; weights 2 and 0.5, half of it for a second token",
        *chosen_by(experts),
    ]
    if back:
        lines.append("to y comes back 1, 2, 3, 1, … on each rank")
    return Probe(see, "\n".join(lines))


def random(
    sizes: Sequence[int],
    num_experts: int,
    k: int,
    width: int,
    dtype: torch.dtype = torch.float32,
) -> Probe:
    """Rows, weights and choices at random, so many tokens on each rank."""

    @once_each
    def see(answer: Answer, generator: Generator) -> dict[str, Any]:
        scores = [torch.rand(n, num_experts, generator=generator) ** 2 for n in sizes]
        way = ways([s.topk(k).indices for s in scores], num_experts)
        values = [
            torch.randn(n * k, width, generator=generator, dtype=dtype) for n in sizes
        ]
        weights = [torch.rand(n, k, generator=generator, dtype=dtype) for n in sizes]
        given = zip(carried(values, way), weights, way, strict=True)
        return observed(answer, [*given])

    many = ", ".join(map(str, sizes))
    return Probe(see, f"{many} tokens on the ranks, {num_experts} experts, {k} a token")
