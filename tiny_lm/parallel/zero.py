"""ZeRO-1: the optimizer's states of what all ranks share, kept once over all ranks.

Chapter: 05_comm/sharding
Source: zero; deepseek_v3, section 3.2

Every rank holds the shared parameters, and plain data parallelism has every rank do the
same update to all of them, from equal states. Here each rank updates its part alone:

    backward    gradients are summed by reduce-scatter: each rank gets its part's sum
    step        the optimizer of this rank moves its part of the weights
    after it    an all-gather brings every rank the parts of the others

An all-reduce is those two collectives with nothing between them, so no byte is added.
What is saved are (p - 1) / p of the states.

A rank's part is an equal slice of every bucket of gradients, wherever that cuts. A
slice holds pieces of parameters; for AdamW every number is on its own, so a piece moves
as it would in the whole. Experts stay as they are: each is on one rank only.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from tiny_lm.gpus import comm, mesh
from tiny_lm.gpus.mesh import Group
from tiny_lm.parallel import shard
from tiny_lm.parallel.buckets import BUCKET_BYTES, Buckets, flatten, slice_length
from tiny_lm.parallel.shard import IsExpert

# An optimizer of matrices, which may decay, and of vectors.
Make = Callable[[list[Tensor], list[Tensor]], torch.optim.Optimizer]


class Piece(NamedTuple):
    """A run of numbers of one parameter that this rank updates.

    weights: those numbers in the parameter's own memory, as a leaf for the optimizer
    is_matrix: whether they come from a matrix
    of: the parameter
    first: which of the parameter's numbers is the first one here
    """

    weights: nn.Parameter
    is_matrix: bool
    of: nn.Parameter
    first: int


def cut(bucket: list[nn.Parameter], rank: int, size: int) -> list[Piece]:
    """The pieces in a rank's equal slice of the bucket."""
    length = slice_length(bucket, size)
    start, stop = rank * length, (rank + 1) * length
    pieces, place = [], 0
    for parameter in bucket:
        first = max(start - place, 0)
        last = min(stop - place, parameter.numel())
        if first < last:
            weights = parameter.detach().view(-1)[first:last]
            pieces.append(
                Piece(nn.Parameter(weights), parameter.dim() > 1, parameter, first)
            )
        place += parameter.numel()
    return pieces


def state_bytes(optimizer: "torch.optim.Optimizer | ShardedOptimizer") -> int:
    """Bytes that an optimizer keeps on this rank, its counters of steps left out."""
    return sum(
        value.nbytes
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor) and value.dim()
    )


class ShardedOptimizer:
    """An optimizer with states for this rank's part; steps as if it had all of them.

    It takes the gradients of the shared parameters as the backward pass makes them.
    So a step is: backward; `agree`; `clip_to`; `step`; `zero_grad`. Experts get theirs
    as ever.

    Args:
        group: ranks that hold the same shared parameters; all of them must make one.
        make: the optimizer, from what it is to move.
        bucket_bytes: size that a bucket of gradients does not exceed.
        times: backward passes in a step.
    """

    def __init__(
        self,
        model: nn.Module,
        group: Group,
        is_expert: IsExpert,
        make: Make,
        bucket_bytes: int = BUCKET_BYTES,
        times: int = 1,
    ) -> None:
        self._group = mesh.apart(group)
        self.buckets = Buckets(
            shard.shared_parameters(model, is_expert),
            bucket_bytes,
            group.size,
            lambda bucket: comm.start_reduce_scatter(bucket, self._group),
            times,
        )
        self.pieces = [
            cut(bucket, group.rank, group.size) for bucket in self.buckets.buckets
        ]
        self._experts = shard.expert_parameters(model, is_expert)
        own = [piece for pieces in self.pieces for piece in pieces]
        own += [Piece(w, w.dim() > 1, w, 0) for w in self._experts]
        self.optimizer = make(
            [piece.weights for piece in own if piece.is_matrix],
            [piece.weights for piece in own if not piece.is_matrix],
        )
        self._after_step: list[Callable[..., object]] = []

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of the optimizer: a rate set here is the rate of the next step."""
        return self.optimizer.param_groups

    @property
    def state(self) -> dict[Tensor, dict[str, Any]]:
        """What the optimizer keeps of each piece, and of each expert, on this rank."""
        return self.optimizer.state

    @torch.no_grad()
    def agree(self) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Wait for this rank's part of the summed gradients.

        Returns:
            Squared lengths: of gradients that every rank has, so none, and of those
            that this rank alone has.
        """
        arrived = self.buckets.finish()
        for pieces, part in zip(self.pieces, arrived, strict=True):
            sizes = [piece.weights.numel() for piece in pieces]
            gradients = part[: sum(sizes)].split(sizes)
            for piece, gradient in zip(pieces, gradients, strict=True):
                piece.weights.grad = gradient
        gradients = [x.grad for x in self._moved() if x.grad is not None]
        length = nn.utils.get_total_norm(gradients)
        return torch.zeros_like(length), length.square()

    @torch.no_grad()
    def clip_to(self, max_norm: float, norm: Float[Tensor, ""]) -> None:
        """Shorten a gradient of this length, of the whole model, to `max_norm`."""
        nn.utils.clip_grads_with_norm_(self._moved(), max_norm, norm)

    @torch.no_grad()
    def step(self) -> None:
        """Move this rank's part, and fetch what the others have moved."""
        self.optimizer.step()
        both = list(zip(self.buckets.buckets, self.pieces, strict=True))
        pending = [
            comm.start_all_gather(self._slice(*pair), self._group)
            for pair in reversed(both)  # the next forward pass needs the last one first
        ]
        for (bucket, _), transfer in zip(reversed(both), pending, strict=True):
            whole = transfer.wait()
            sizes = [parameter.numel() for parameter in bucket]
            parts = whole[: sum(sizes)].split(sizes)
            for parameter, part in zip(bucket, parts, strict=True):
                parameter.copy_(part.view_as(parameter))
        for hook in self._after_step:
            hook(self)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients of the last step."""
        self.optimizer.zero_grad(set_to_none)

    def register_step_post_hook(self, hook: Callable[..., object]) -> None:
        """Have this called after each step, when every rank has all weights again."""
        self._after_step.append(hook)

    def _slice(
        self, bucket: list[nn.Parameter], pieces: list[Piece]
    ) -> Float[Tensor, " n"]:
        """This rank's part of a bucket's weights, as long as every other rank's."""
        length = slice_length(bucket, self._group.size)
        return flatten([piece.weights for piece in pieces], length, bucket[0])

    def _moved(self) -> list[Tensor]:
        return [x for group in self.param_groups for x in group["params"]]
