"""Mixture of Experts: many feed-forward layers, of which each token visits a few.

Chapter: 02_moe
Source: deepseek_moe; deepseek_v3, eqs. 12-16

A token and the experts it chose have to meet. That is a `Dispatcher`'s work: it lays
the tokens out as *rows*, one per (token, chosen expert), sorted by expert, so that
every expert's work is one slice; and afterwards it brings the results back and adds
them up at the token. On one rank this is a permutation; across ranks it is an
all-to-all. The experts never know which.
"""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from tiny_lm.config import MoEConfig
from tiny_lm.layers import (
    PLAIN,
    GroupedMatmul,
    Products,
    SwiGLU,
    refuse_autocast,
    swiglu,
)
from tiny_lm.router import Router


@runtime_checkable
class Dispatcher(Protocol):
    """Brings tokens to their experts, and the experts' results back.

    `local_experts` are those whose weights live on this rank.
    """

    local_experts: range

    def dispatch(
        self, x: Float[Tensor, "N D"], experts: Int[Tensor, "N k"]
    ) -> tuple[Float[Tensor, "R D"], Int[Tensor, " E"], Any]:
        """Rows sorted by local expert, where each expert's rows end, the way back."""

    def combine(
        self, rows: Float[Tensor, "R D"], weights: Float[Tensor, "N k"], way_back: Any
    ) -> Float[Tensor, "N D"]:
        """At each token, the weighted sum of its experts' results."""


@dataclass(frozen=True)
class Order:
    """Where each row comes from, and where each choice of a token went.

    token_of_row: [R], the token a row is a copy of; 0 for a padding row
    row_of_choice: [N, k], the row of each token's each choice
    padding: [P], rows that are nobody's copy and must be zero
    ends: [E] int32, where each expert's rows end
    """

    token_of_row: Int[Tensor, " R"]
    row_of_choice: Int[Tensor, "N k"]
    padding: Int[Tensor, " P"]
    ends: Int[Tensor, " E"]


def sort_by_expert(
    experts: Int[Tensor, "N k"], num_experts: int, row_multiple: int = 1
) -> Order:
    """Lay out the rows of each expert one after the other, padded to a multiple.

    Two tokens, two choices each, `experts = [[2, 0], [0, 1]]`: expert 0 reads tokens
    0 and 1, expert 1 reads token 1, expert 2 reads token 0, so

        token_of_row  = [0, 1, 1, 0]
        row_of_choice = [[3, 0], [1, 2]]
        ends          = [2, 3, 4]
    """
    num_tokens, top_k = experts.shape
    flat = experts.flatten()
    sorted_experts, order = flat.sort(stable=True)
    counts = flat.bincount(minlength=num_experts)
    padded = -(-counts // row_multiple) * row_multiple
    ends = padded.cumsum(0)
    shift = (ends - padded) - (counts.cumsum(0) - counts)
    row = torch.arange(len(flat), device=flat.device) + shift[sorted_experts]
    row_of_choice = torch.empty_like(flat).index_copy_(0, order, row)
    num_rows = int(ends[-1])
    token_of_row = flat.new_zeros(num_rows).index_copy_(0, row, order // top_k)
    empty = torch.ones(num_rows, dtype=torch.bool, device=flat.device)
    padding = empty.index_fill_(0, row, False).nonzero().squeeze(-1)
    return Order(
        token_of_row=token_of_row,
        row_of_choice=row_of_choice.view(num_tokens, top_k),
        padding=padding,
        ends=ends.to(torch.int32),
    )


def copy_to_rows(x: Shaped[Tensor, "N D"], order: Order) -> Shaped[Tensor, "R D"]:
    """One copy of a token for each expert it chose; padding rows are zero."""
    return x.index_select(0, order.token_of_row).index_fill_(0, order.padding, 0.0)


def rows_of_tokens(
    rows: Shaped[Tensor, "R D"], order: Order
) -> Shaped[Tensor, "N k D"]:
    """The rows of each token, in the order of its choices."""
    picked = rows.index_select(0, order.row_of_choice.flatten())
    return picked.unflatten(0, order.row_of_choice.shape)


def sum_at_tokens(
    rows: Float[Tensor, "R D"],
    order: Order,
    weights: Float[Tensor, "N k"] | None = None,
) -> Float[Tensor, "N D"]:
    """The sum of each token's rows, weighted or not, in the order of its choices.

    PyTorch knows it from language models as the embedding of a bag of words. It reads
    the rows where they are, without a copy.
    """
    return F.embedding_bag(
        order.row_of_choice, rows, mode="sum", per_sample_weights=weights
    )


class _Spread(torch.autograd.Function):
    """Tokens to rows. Backward, a token's gradient is the sum over its rows."""

    @staticmethod
    def forward(ctx, x, order):
        ctx.order = order
        return copy_to_rows(x, order)

    @staticmethod
    def backward(ctx, grad_rows):
        return sum_at_tokens(grad_rows, ctx.order), None


class _Collect(torch.autograd.Function):
    """Rows to tokens, weighted. Backward, each row gets its token's gradient."""

    @staticmethod
    def forward(ctx, rows, weights, order):
        ctx.order = order
        ctx.save_for_backward(rows, weights)
        return sum_at_tokens(rows, order, weights)

    @staticmethod
    def backward(ctx, grad):
        rows, weights = ctx.saved_tensors
        order, grad = ctx.order, grad.contiguous()
        weight_of_row = weights.new_zeros(len(rows), 1)
        weight_of_row[order.row_of_choice.flatten()] = weights.reshape(-1, 1)
        bags_of_one = order.token_of_row.unsqueeze(1)
        grad_rows = F.embedding_bag(
            bags_of_one, grad, mode="sum", per_sample_weights=weight_of_row
        )
        return grad_rows, _dot_rows(rows, grad, order), None


def _dot_rows(
    rows: Float[Tensor, "R D"], x: Float[Tensor, "N D"], order: Order
) -> Float[Tensor, "N k"]:
    """Each of a token's rows times the token's own vector: `sum_at_tokens` backward."""
    num_tokens, top_k = order.row_of_choice.shape
    choices = torch.arange(num_tokens * top_k, device=x.device)
    dots = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        x,
        rows,
        order.row_of_choice.flatten(),
        offsets=choices[::top_k].contiguous(),
        offset2bag=choices // top_k,
        mode=0,  # a sum
    )
    return dots.view(num_tokens, top_k)


def spread(x: Float[Tensor, "N D"], order: Order) -> Float[Tensor, "R D"]:
    """`copy_to_rows`, with a backward that gathers instead of scattering.

    Gathering adds in a fixed order, so equal seeds give equal bits.
    """
    return _Spread.apply(x, order)


def collect(
    rows: Float[Tensor, "R D"], weights: Float[Tensor, "N k"], order: Order
) -> Float[Tensor, "N D"]:
    """At each token, the weighted sum of its rows: `spread` the other way round."""
    return _Collect.apply(rows, weights, order)


class LocalDispatcher:
    """Every expert lives here: dispatch is a sort."""

    def __init__(self, num_experts: int, row_multiple: int = 1) -> None:
        self.local_experts = range(num_experts)
        self.row_multiple = row_multiple

    def dispatch(
        self, x: Float[Tensor, "N D"], experts: Int[Tensor, "N k"]
    ) -> tuple[Float[Tensor, "R D"], Int[Tensor, " E"], Order]:
        order = sort_by_expert(experts, len(self.local_experts), self.row_multiple)
        return spread(x, order), order.ends, order

    def combine(
        self, rows: Float[Tensor, "R D"], weights: Float[Tensor, "N k"], way_back: Order
    ) -> Float[Tensor, "N D"]:
        return collect(rows, weights, way_back)


class Experts(nn.Module):
    """The feed-forward layers that live on this rank, stacked along the first dim."""

    def __init__(
        self, num_experts: int, d_model: int, d_expert: int, grouped: GroupedMatmul
    ) -> None:
        super().__init__()
        self.gate_up = nn.Parameter(torch.empty(num_experts, 2 * d_expert, d_model))
        self.down = nn.Parameter(torch.empty(num_experts, d_model, d_expert))
        self.grouped = grouped

    def forward(
        self, rows: Float[Tensor, "R D"], ends: Int[Tensor, " E"]
    ) -> Float[Tensor, "R D"]:
        hidden = swiglu(self.grouped(rows, self.gate_up, ends))
        return self.grouped(hidden, self.down, ends)


class MoE(nn.Module):
    """Router, routed experts, and a shared expert that reads every token.

    Source: deepseek_v3, eq. 12
    """

    def __init__(
        self,
        config: MoEConfig,
        d_model: int,
        products: Products = PLAIN,
        dispatcher: Dispatcher | None = None,
    ) -> None:
        super().__init__()
        self.router = Router(config, d_model, products.gate)
        self.dispatcher = dispatcher or LocalDispatcher(
            config.num_experts, products.row_multiple
        )
        num_local = len(self.dispatcher.local_experts)
        self.experts = Experts(num_local, d_model, config.d_expert, products.grouped)
        d_shared = config.num_shared * config.d_expert
        self.shared = SwiGLU(d_model, d_shared, products.linear) if d_shared else None

    def forward(
        self, x: Float[Tensor, "B T D"]
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, ""]]:
        """The mixture's output, and the balance loss to add to the objective."""
        weights, experts, balance = self.route(x)
        rows, ends, way_back = self.dispatcher.dispatch(x.flatten(0, 1), experts)
        rows = self.experts(rows, ends)
        y = self.dispatcher.combine(rows, weights, way_back).view_as(x)
        return (y if self.shared is None else y + self.shared(x)), balance

    def route(
        self, x: Float[Tensor, "B T D"]
    ) -> tuple[Float[Tensor, "N k"], Int[Tensor, "N k"], Float[Tensor, ""]]:
        """What the router says of each token, one after the other over sequences."""
        refuse_autocast(x)
        weights, experts, balance = self.router(x)
        return weights.to(x.dtype).flatten(0, 1), experts.flatten(0, 1), balance
