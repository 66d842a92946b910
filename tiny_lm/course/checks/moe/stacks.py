"""Stacks of experts small enough to check by hand, and random ones.

Chapter: 02_moe/conditional_computation
Source: course

Widths are multiples of 4: torch's grouped product takes no others.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

Stack = tuple[Float[Tensor, "E F2 D"], Float[Tensor, "E D F"]]


def one_expert(gate: list[float], up: list[float], down: float) -> Stack:
    """An expert that reads and writes a token's first number, by two neurons."""
    gate_up, narrow = torch.zeros(1, 8, 4), torch.zeros(1, 4, 4)
    gate_up[0, :2, 0], gate_up[0, 4:6, 0] = torch.tensor(gate), torch.tensor(up)
    narrow[0, 0, :2] = down
    return gate_up, narrow


def factors(*numbers: float) -> Stack:
    """Experts that multiply the first number of a token (v, 1, 0, 0) by a factor."""
    gate_up, down = torch.zeros(len(numbers), 8, 4), torch.zeros(len(numbers), 4, 4)
    gate_up[:, 0, 1] = 20.0  # silu(20) is 20 to seven digits
    gate_up[:, 4, 0] = torch.tensor(numbers)
    down[:, 0, 0] = 1 / 20
    return gate_up, down


def tokens(*numbers: float) -> Float[Tensor, "N D"]:
    """Tokens (v, 1, 0, 0)."""
    x = torch.zeros(len(numbers), 4)
    x[:, 0], x[:, 1] = torch.tensor(numbers), 1.0
    return x


def even_choices(num_tokens: int) -> Int[Tensor, "N k"]:
    """Two choices each, as many for each of 4 experts."""
    first = torch.arange(num_tokens) % 4
    return torch.stack([first, (first + 1) % 4], dim=-1)


def random(
    generator: torch.Generator,
    experts: Int[Tensor, "N k"],
    num_experts: int,
    D: int = 8,
    F: int = 12,
) -> list[Tensor]:
    """Arguments of task 2.4 for these choices, all else random."""
    return [
        torch.randn(len(experts), D, generator=generator),
        experts,
        torch.rand(experts.shape, generator=generator),
        torch.randn(num_experts, 2 * F, D, generator=generator) / D**0.5,
        torch.randn(num_experts, D, F, generator=generator) / F**0.5,
    ]
