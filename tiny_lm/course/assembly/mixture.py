"""Router and experts by the learner's pieces.

Chapter: 06_together/full_model
Source: deepseek_v3, eqs. 12-20

They hold the weights of `router` and `moe`, under the same names.
"""

from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiny_lm.course.assembly.chosen import Chosen
from tiny_lm.kernels import Work, fused, num_bytes, precision
from tiny_lm.layers import PLAIN, at_least_fp32
from tiny_lm.moe import Experts, MoE
from tiny_lm.router import Router

ROUTING = (
    "moe.score_and_choose",
    "moe.gate",
    "moe.limit_groups",
    "moe.load_and_violation",
    "moe.update_bias",
    "moe.sequence_loss",
)
EXPERTS = ("moe.run_experts",)


class YourRouter(Router):
    """Scores, choices, weights, load and both balances are the learner's."""

    def __init__(self, mine: Chosen, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.mine = mine

    def forward(
        self, x: Float[Tensor, "B T D"]
    ) -> tuple[Float[Tensor, "B T k"], Int[Tensor, "B T k"], Float[Tensor, ""]]:
        c, mine = self.config, self.mine
        rows, centroids = at_least_fp32(x).flatten(0, 1), at_least_fp32(self.weight)
        scores = mine("moe.score_and_choose")(rows, centroids, c.top_k)[0].to(rows)
        bias = self.bias + self._ban(scores.detach() + self.bias)
        weights, experts = mine("moe.gate")(scores, bias, c.top_k, c.route_scale)
        if self.training:
            load, _ = mine("moe.load_and_violation")(experts, c.num_experts)
            self.load += load.to(self.load)
        scores, weights, experts = (
            z.unflatten(0, x.shape[:2]) for z in (scores, weights.to(rows), experts)
        )
        balance = mine("moe.sequence_loss")(scores, experts)
        return weights, experts, c.balance_loss * balance.to(rows)

    def _ban(self, choice: Float[Tensor, "N E"]) -> Float[Tensor, "N E"] | float:
        c = self.config
        if c.top_groups == c.num_groups:
            return 0.0
        per_group = max(c.top_k // c.top_groups, 1)
        ban = self.mine("moe.limit_groups")
        return ban(choice, c.num_groups, c.top_groups, per_group).to(choice)

    @torch.no_grad()
    def update_bias(self, load: Int[Tensor, " E"]) -> None:
        rule = self.mine("moe.update_bias")
        self.bias.copy_(rule(self.bias.clone(), load, self.config.bias_rate))
        self.load.zero_()


class YourExperts(Experts):
    """Rows through the experts of this rank.

    `run_experts` multiplies by itself, in FP32. Where a model multiplies otherwise, its
    products are made outside, and `run_experts` gets identities in place of weights:
    who reads what, and what stands between the two products, is still its own.
    """

    def __init__(self, mine: Chosen, *arguments, **options) -> None:
        super().__init__(*arguments, **options)
        self.mine = mine

    def forward(
        self, rows: Float[Tensor, "R D"], ends: Int[Tensor, " E"]
    ) -> Float[Tensor, "R D"]:
        counts = ends.diff(prepend=ends.new_zeros(1))
        expert = torch.arange(len(ends), device=ends.device).repeat_interleave(counts)
        run = partial(self._run, expert.long().unsqueeze(1))
        if self.grouped is PLAIN.grouped:
            if len(rows):
                return fused("experts", _experts_work)(run)(
                    rows, self.gate_up, self.down
                )
            return rows + 0 * (self.gate_up.sum() + self.down.sum())
        hidden = self.grouped(rows, self.gate_up, ends)
        d_expert = self.down.shape[-1]
        if len(rows):
            hidden = fused("swiglu", _swiglu_work)(partial(self._between, run))(hidden)
        return self.grouped(hidden[:, :d_expert], self.down, ends)

    def _run(
        self, expert: Tensor, rows: Tensor, gate_up: Tensor, down: Tensor
    ) -> Tensor:
        ones = rows.new_ones(expert.shape)
        return self.mine("moe.run_experts")(rows, expert, ones, gate_up, down).to(rows)

    def _between(self, run, hidden: Float[Tensor, "R F2"]) -> Float[Tensor, "R F2"]:
        num_experts, width, _ = self.gate_up.shape
        one = torch.eye(width, dtype=hidden.dtype, device=hidden.device)
        every = one.expand(num_experts, -1, -1)
        return run(hidden, every, every[..., : width // 2])


def _experts_work(rows: Tensor, gate_up: Tensor, down: Tensor) -> tuple[Work, Work]:
    """Both products of all experts; backward each is made twice."""
    madds, kind = (
        len(rows) * (gate_up[0].numel() + down[0].numel()),
        precision(rows.dtype),
    )
    moved = num_bytes(rows, rows, gate_up, down)
    return Work(2 * madds, moved, kind), Work(4 * madds, 2 * moved, kind)


def _swiglu_work(hidden: Tensor) -> tuple[Work, Work]:
    """Gate and up are read, half as much is written; backward with a gradient."""
    kind, read = precision(hidden.dtype), num_bytes(hidden)
    return Work(0, read + read // 2, kind), Work(0, 2 * read + read // 2, kind)


class YourMixture(MoE):
    """The mixture, with router and experts that follow the learner's pieces."""

    def __init__(self, mine: Chosen, config, d_model, products=PLAIN, dispatcher=None):
        super().__init__(config, d_model, products, dispatcher)
        if mine.has(*ROUTING):
            self.router = YourRouter(mine, config, d_model, products.gate)
        if mine.has(*EXPERTS):
            sizes = len(self.dispatcher.local_experts), d_model, config.d_expert
            self.experts = YourExperts(mine, *sizes, products.grouped)
