"""The router: which experts read a token, and how much each of them counts.

Chapter: 02_moe
Source: deepseek_v3, eqs. 12-20

Left alone, a router sends nearly everything to a few experts, and an expert that is
not chosen learns nothing. Two forces keep it honest here: a bias that is added to the
scores when experts are *chosen*, and a small loss that wants every sequence spread.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from tiny_lm.config import MoEConfig
from tiny_lm.layers import FullPrecision, Matmul, at_least_fp32, plain


def limit_groups(
    choice: Float[Tensor, "N E"], num_groups: int, top_groups: int, per_group: int
) -> Float[Tensor, "N E"]:
    """Set the scores outside each token's best groups to minus infinity.

    A group stands for a node: fewer groups, fewer nodes a token travels to. A group
    is as good as the sum of its `per_group` best scores. Zero would be no mask: a
    biased score can be negative, and then a forbidden expert wins.

    Args:
        choice: scores with the bias added.

    Source: deepseek_v3, section 2.1.2
    """
    groups = choice.unflatten(-1, (num_groups, -1))
    per_group = min(per_group, groups.shape[-1])
    strength = groups.topk(per_group, dim=-1).values.sum(-1)
    kept = strength.topk(top_groups, dim=-1).indices
    closed = torch.ones_like(strength, dtype=torch.bool).scatter(-1, kept, False)
    return groups.masked_fill(closed.unsqueeze(-1), float("-inf")).flatten(-2)


def route(
    scores: Float[Tensor, "N E"],
    bias: Float[Tensor, " E"],
    top_k: int,
    num_groups: int = 1,
    top_groups: int = 1,
) -> tuple[Float[Tensor, "N k"], Int[Tensor, "N k"]]:
    """Pick `top_k` experts per token, and the weight each of them gets.

    The bias steers who is chosen, never how much they count: it is added for the
    choice only, and the weights come from the raw scores. That is why balancing by
    bias disturbs the gradient of no token.

    Args:
        scores: affinity of each token to each expert, in (0, 1), after the sigmoid.
        bias: balance correction per expert; updated by rule, not by gradient.
        num_groups: groups the experts fall into, in order.
        top_groups: groups a token may choose from.

    Returns:
        weights: non-negative, each row sums to 1.
        experts: expert ids in 0..E-1, best first.

    Raises:
        ValueError: `top_k` exceeds the number of experts within reach.

    Source: deepseek_v3, eqs. 13, 15, 16
    """
    reachable = scores.shape[-1] // num_groups * top_groups
    if top_k > reachable:
        raise ValueError(f"cannot choose top_k={top_k} of {reachable} experts")
    choice = scores.detach() + bias
    if top_groups < num_groups:
        per_group = max(top_k // top_groups, 1)
        choice = limit_groups(choice, num_groups, top_groups, per_group)
    experts = choice.topk(top_k, dim=-1).indices
    return shares(scores.gather(-1, experts)), experts


def shares(scores: Float[Tensor, "... n"]) -> Float[Tensor, "... n"]:
    """Each score as a share of its row's sum.

    A score that is too small for its number format is zero. Where a whole row is,
    nothing is left to tell its entries apart, and they count alike: each row sums to 1.
    """
    total = scores.sum(-1, keepdim=True)
    empty = total == 0
    return (scores + empty) / (total + empty * scores.shape[-1])


def expert_load(experts: Int[Tensor, "*rows k"], num_experts: int) -> Int[Tensor, " E"]:
    """How many (token, choice) pairs each expert got."""
    return experts.flatten().bincount(minlength=num_experts)


def max_violation(load: Tensor) -> float:
    """How far the busiest expert lies above the mean; 0 is perfect balance.

    Source: aux_free_balancing, MaxVio
    """
    mean = load.double().mean()
    return float((load.max() - mean) / mean) if mean else 0.0


def sequence_loss(
    scores: Float[Tensor, "B T E"], experts: Int[Tensor, "B T k"]
) -> Float[Tensor, ""]:
    """Complementary balance loss, a mean over sequences; 1 is perfect balance.

    Differs: eq. 18 counts the experts with the best raw scores, and so does
    Megatron-Core. Here those count that were really chosen, bias and groups included.

    Source: deepseek_v3, eqs. 17-20
    """
    B, T, E = scores.shape
    counts = torch.zeros(B, E, dtype=scores.dtype, device=scores.device)
    chosen = experts.flatten(1)
    counts.scatter_add_(1, chosen, torch.ones_like(chosen, dtype=scores.dtype))
    f = counts * E / (experts.shape[-1] * T)
    p = shares(scores).mean(dim=1)
    return (f * p).sum(-1).mean()


class Router(FullPrecision):
    """Scores every expert for every token, in full precision unless told otherwise.

    `load` counts the choices of the current step while training; `update_bias` reads
    the load of the whole batch, over all ranks, and clears it.

    Source: deepseek_v3, eqs. 12-16
    """

    def __init__(self, config: MoEConfig, d_model: int, matmul: Matmul = plain) -> None:
        super().__init__()
        self.config = config
        self.matmul = matmul
        self.weight = nn.Parameter(torch.empty(config.num_experts, d_model))
        self.register_buffer("bias", torch.zeros(config.num_experts))
        load = torch.zeros(config.num_experts, dtype=torch.int64)
        self.register_buffer("load", load, persistent=False)

    def forward(
        self, x: Float[Tensor, "B T D"]
    ) -> tuple[Float[Tensor, "B T k"], Int[Tensor, "B T k"], Float[Tensor, ""]]:
        """Weights and ids of the chosen experts, and the sequence-wise loss."""
        c = self.config
        logits = self.matmul(at_least_fp32(x), at_least_fp32(self.weight))
        scores = torch.sigmoid(logits)
        weights, experts = route(
            scores.flatten(0, 1), self.bias, c.top_k, c.num_groups, c.top_groups
        )
        if self.training:
            self.load += expert_load(experts, c.num_experts)
        weights = (weights * c.route_scale).unflatten(0, x.shape[:2])
        experts = experts.unflatten(0, x.shape[:2])
        return weights, experts, c.balance_loss * sequence_loss(scores, experts)

    @torch.no_grad()
    def update_bias(self, load: Int[Tensor, " E"]) -> None:
        """Raise the bias of experts below the mean load, lower it above.

        Args:
            load: of the whole batch, over all ranks.

        Source: deepseek_v3, section 2.1.2
        """
        load = load.to(self.bias.dtype)
        self.bias += self.config.bias_rate * torch.sign(load.mean() - load)
        self.load.zero_()
