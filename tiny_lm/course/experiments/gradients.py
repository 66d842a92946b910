"""What each FP8 recipe makes of a gradient, at the same weights and the same batch.

Chapter: 04_fp8/training_in_fp8
Source: course

Two runs drift apart, and chance decides how far. Two gradients of one model do not: the
same batch is read twice, in FP32 and with a recipe, and whatever differs is the
recipe's doing. How much worse a model *learns* this does not say.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiny_lm.config import ModelConfig
from tiny_lm.course.experiments.fp8_training import build

State = Mapping[str, Tensor]
Found = dict[str, dict[str, list[float]]]  # by recipe and measure: a number a batch
BATCHES, SEQUENCES = 8, 16  # that a checkpoint is asked about, and in each of them
MEASURES = ("error", "along", "loss", "choices")


@dataclass(frozen=True)
class Gradient:
    """Of all weights, in one row; with what the forward pass found on the way.

    experts: of each token and each layer of experts, in order of their numbers.
    """

    row: Float[Tensor, " P"]
    loss: float
    experts: Int[Tensor, "L N k"] | None


def gradient(
    config: ModelConfig, weights: State, tokens: Int[Tensor, "B T1"]
) -> Gradient:
    """The gradient of the loss by all weights, of a model with these weights."""
    model = build(config, 0, "cpu")
    model.load_state_dict(weights)
    chosen: list[Tensor] = []
    for router in model.routers:
        router.register_forward_hook(lambda _, __, y: chosen.append(y[1]))
    loss = model.loss(tokens)
    loss.total.backward()
    row = torch.cat([_flat(weight) for weight in model.parameters()])
    experts = torch.stack([e.flatten(0, -2) for e in chosen]) if chosen else None
    ordered = None if experts is None else experts.sort(-1).values
    return Gradient(row, loss.next_token.item(), ordered)


def _flat(weight: Tensor) -> Tensor:
    grad = weight.grad
    return (torch.zeros_like(weight) if grad is None else grad).flatten().detach()


def compare(true: Gradient, of_recipe: Gradient) -> dict[str, float]:
    """How far a recipe's gradient is from the true one.

    Returns:
        error: the length of the difference, as a share of the true length.
        along: how much longer it became in the true direction; the part of the error
            that does not cancel from step to step.
        loss: the relative change of the loss itself.
        choices: the share of tokens that went to other experts, over all layers.
    """
    off, length = of_recipe.row - true.row, true.row.norm()
    moved = 0.0
    if true.experts is not None:
        moved = (of_recipe.experts != true.experts).any(-1).float().mean().item()
    return {
        "error": (off.norm() / length).item(),
        "along": (off @ true.row / length.square()).item(),
        "loss": of_recipe.loss / true.loss - 1,
        "choices": moved,
    }


def measure(
    configs: Mapping[str, ModelConfig],
    weights: State,
    batches: Iterable[Int[Tensor, "B T1"]],
) -> tuple[Found, list[float]]:
    """Each recipe against FP32 on each batch; and each batch against the next.

    Returns:
        By recipe and measure one number a batch; and, as a measure of chance, how far
        the FP32 gradient of a batch is from that of the batch before.
    """
    batches = list(batches)
    plain = replace(next(iter(configs.values())), fp8=None)
    true = [gradient(plain, weights, tokens) for tokens in batches]
    found: Found = {}
    for name, config in configs.items():
        each = [
            compare(exact, gradient(config, weights, tokens))
            for exact, tokens in zip(true, batches, strict=True)
        ]
        found[name] = {m: [round(one[m], 7) for one in each] for m in MEASURES}
    others = [compare(a, b)["error"] for a, b in pairwise(true)]
    return found, [round(other, 5) for other in others]


def recipes(arms: Mapping[str, tuple]) -> dict[str, ModelConfig]:
    """The arms whose gradients can differ: FP8 with exact masters."""
    configs = {name: arm[0] for name, arm in arms.items()}
    return {
        name: config
        for name, config in configs.items()
        if config.fp8 and config.fp8.masters == "fp32"
    }
