"""How many directions the keys and values of a trained model really have.

Chapter: 03_mla/latent_attention
Source: course

All heads' keys and values of one token, side by side, are one long vector. Over many
tokens these vectors fill a cloud, and the singular values say along how many directions
it extends. A direction with little of the cloud may still matter to what is predicted.
So the second measure asks the model: keys and values are replaced by their projection
onto the first few directions, in every layer, and the loss is taken again.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor

from tiny_lm.course.experiments.captured import Record
from tiny_lm.data import EvalBatches
from tiny_lm.gpus import mesh
from tiny_lm.model import LanguageModel
from tiny_lm.step import evaluate

BATCHES = 8  # from which the directions are taken


@torch.no_grad()
def keys_and_values(
    model: LanguageModel, batches: EvalBatches
) -> list[Float[Tensor, "N kv"]]:
    """For every layer, keys before their rotation and values, a row a token."""
    found: list[list[Tensor]] = [[] for _ in model.blocks]
    hooks = [
        block.attention.kv.register_forward_hook(
            lambda module, given, made, rows=rows: rows.append(made.flatten(0, 1))
        )
        for block, rows in zip(model.blocks, found, strict=True)
    ]
    device = model.head.weight.device
    for number in range(len(batches)):
        model(batches.at(number, 0, 1).to(device)[:, :-1])
    for hook in hooks:
        hook.remove()
    return [torch.cat(rows).double() for rows in found]


def energy(x: Float[Tensor, "N kv"]) -> list[float]:
    """Share of the sum of squares that the first 1, 2, 3 … directions hold."""
    squares = torch.linalg.svdvals(x).square()
    return [round(share, 6) for share in (squares.cumsum(0) / squares.sum()).tolist()]


@contextmanager
def projected(
    model: LanguageModel, directions: Sequence[Float[Tensor, "r kv"]]
) -> Iterator[None]:
    """Inside the `with`, each layer's keys and values lie in its directions alone."""
    hooks = []
    for block, rows in zip(model.blocks, directions, strict=True):
        onto = (rows.T @ rows).to(model.head.weight.dtype)
        hooks.append(
            block.attention.kv.register_forward_hook(
                lambda module, given, made, onto=onto: made @ onto
            )
        )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def measure(
    model: LanguageModel,
    untrained: LanguageModel,
    training: EvalBatches,
    validation: EvalBatches,
    ranks: Sequence[int],
) -> Record:
    """Energy by direction, and loss by how many directions are left.

    Args:
        training: batches from which directions are taken; the loss is of `validation`.
    """
    seen = keys_and_values(model, training)
    noise = torch.Generator().manual_seed(0)
    directions = [torch.linalg.svd(x, full_matrices=False).Vh for x in seen]
    losses = []
    for rank in ranks:
        with projected(model, [rows[:rank] for rows in directions]):
            losses.append(round(evaluate(model, validation, mesh.solo()), 6))
    return {
        "tokens": len(seen[0]),
        "trained": [energy(x) for x in seen],  # [layer][directions - 1]
        "untrained": [energy(x) for x in keys_and_values(untrained, training)],
        "noise": energy(torch.randn(seen[0].shape, generator=noise)),
        "ranks": list(ranks),
        "val_loss": losses,
        "whole_val_loss": round(evaluate(model, validation, mesh.solo()), 6),
    }
