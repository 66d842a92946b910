"""Expert parallelism by the learner's pieces: rows travel to experts, and home.

Chapter: 06_together/full_model
Source: deepseek_v3, section 3.2.2
"""

from functools import partial

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from tiny_lm.config import ModelConfig
from tiny_lm.course.assembly.chosen import Chosen
from tiny_lm.gpus import comm
from tiny_lm.gpus.mesh import Group

TRAVEL = ("comm.dispatch", "comm.combine", "comm.fp8_wire")


class YourDispatcher:
    """Brings rows to experts on any rank of the group, and their results back."""

    def __init__(self, mine: Chosen, config: ModelConfig, group: Group) -> None:
        self.num_experts, self.group = config.moe.num_experts, group
        share = self.num_experts // group.size
        self.local_experts = range(group.rank * share, (group.rank + 1) * share)
        self.mine = mine
        if config.fp8 and config.fp8.wire:
            self.roads = tuple(mine("comm.fp8_wire")(group, config.fp8.tile))
        else:
            road = partial(_as_they_are, group=group)
            self.roads = road, road

    def dispatch(
        self, x: Float[Tensor, "N D"], experts: Int[Tensor, "N k"]
    ) -> tuple[Float[Tensor, "R D"], Int[Tensor, " E"], tuple]:
        """Rows for the experts of this rank, sent by all ranks of the group."""
        rows, load, way = _Sent.apply(x, experts, self)
        here = slice(self.local_experts.start, self.local_experts.stop)
        return rows, load[here].cumsum(0).to(torch.int32), way

    def combine(
        self, rows: Float[Tensor, "R D"], weights: Float[Tensor, "N k"], way_back: tuple
    ) -> Float[Tensor, "N D"]:
        """The weighted sum at each token of what its experts made of it."""
        return self.mine("comm.combine")(rows, weights, way_back, *self.roads).to(rows)


def _as_they_are(
    rows: Shaped[Tensor, "n D"], sends: list[int], receives: list[int], group: Group
) -> Shaped[Tensor, "R D"]:
    """A road that knows no gradient, as they are written in the lab."""
    return comm.all_to_all(rows.detach(), sends, receives, group)


class _Sent(torch.autograd.Function):
    """The learner's dispatch, whose way back is a combine with weights of 1."""

    @staticmethod
    def forward(ctx, x, experts, to):
        there, _ = to.roads
        dispatch = to.mine("comm.dispatch")
        rows, load, way = dispatch(x, experts, to.num_experts, to.group, there)
        ctx.way, ctx.to, ctx.choices = way, to, experts.shape
        ctx.mark_non_differentiable(load)
        return rows.to(x), load, way

    @staticmethod
    def backward(ctx, grad, *_):
        ones = grad.new_ones(ctx.choices)
        combine = ctx.to.mine("comm.combine")
        return combine(grad, ones, ctx.way, *ctx.to.roads).to(grad), None, None
