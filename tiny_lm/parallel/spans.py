"""What a rank holds of a model and its optimizer, in a form that any layout shares.

Chapter: 06_together/keep_and_resume
Source: torch_dcp; zero

Every tensor of a training run is a row of numbers, and a rank holds a *span* of it:

    shared weights      the whole row, on every rank
    experts             an equal part of the row, since experts lie along the first dim
    ZeRO's states       whatever run of numbers the rank's slice of a bucket cuts out
    a pipeline's stage  the whole row of its own layers, and nothing of the others'

Names and row lengths are those of the whole model, so they do not depend on how many
ranks there are. Whoever knows where spans begin and end can hand them out anew.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from tiny_lm.gpus.mesh import Group
from tiny_lm.parallel.zero import ShardedOptimizer

IsExpert = Callable[[str], bool]


class Place(NamedTuple):
    """Where some numbers belong: in the row `name` of `size`, from `start` on."""

    name: str
    start: int
    size: int


class Span(NamedTuple):
    """Some numbers of a row, in the memory where they live, and where they belong."""

    numbers: Shaped[Tensor, " n"]
    start: int
    size: int


def place_of(name: str, value: Tensor, group: Group, is_expert: IsExpert) -> Place:
    """Where a tensor that this rank holds belongs in the whole model's."""
    shares, mine = (group.size, group.rank) if is_expert(name) else (1, 0)
    return Place(name, mine * value.numel(), shares * value.numel())


def of_state(
    state: Mapping[str, Tensor], group: Group, is_expert: IsExpert
) -> dict[str, Span]:
    """Spans of a model's state, as `state_dict()` has it on this rank.

    Args:
        group: ranks that share the experts.
    """
    spans = {}
    for name, value in state.items():
        _, start, size = place_of(name, value, group, is_expert)
        spans[name] = Span(value.detach().view(-1), start, size)
    return spans


def of_optimizer(
    optimizer: torch.optim.Optimizer | ShardedOptimizer,
    model: nn.Module,
    group: Group,
    is_expert: IsExpert,
) -> dict[str, Span]:
    """Spans of what the optimizer keeps of each parameter, its step counters left out.

    They are named by what is kept and of which parameter: `exp_avg.head.weight`.
    """
    places = {
        parameter: place_of(name, parameter, group, is_expert)
        for name, parameter in model.named_parameters()
    }
    if isinstance(optimizer, ShardedOptimizer):
        places |= {
            piece.weights: places[piece.of]._replace(start=piece.first)
            for pieces in optimizer.pieces
            for piece in pieces
        }
    return {
        f"{kind}.{places[of].name}": Span(value.view(-1), *places[of][1:])
        for of, kept in optimizer.state.items()
        for kind, value in kept.items()
        if value.dim()
    }


def begin_states(
    optimizer: torch.optim.Optimizer | ShardedOptimizer, step: int
) -> None:
    """Give AdamW the states that it has after `step` steps, all zero yet.

    A fresh one makes its states in the first step, so before that there is nothing that
    could be filled.
    """
    for parameters in optimizer.param_groups:
        for parameter in parameters["params"]:
            optimizer.state[parameter] = {
                "step": torch.tensor(float(step), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter, requires_grad=False),
                "exp_avg_sq": torch.zeros_like(parameter, requires_grad=False),
            }
