"""A stand-in for trainings, whose losses a person can follow.

Chapter: 04_fp8/adding_up
Source: course
"""

import torch
from jaxtyping import Float
from torch import Tensor

SEED = 7  # of the runs that a check asks for


class Train:
    """Stands in for a training: a table of losses for each kind of products and seed.

    What is not in the table is made up from both, so that a wrong seed is told.
    """

    def __init__(self, **losses: list[float]) -> None:
        self.losses = losses
        self.asked: list[str] = []

    def __repr__(self) -> str:
        return "train"

    def __call__(self, products: str, seed: int) -> Float[Tensor, " steps"]:
        """The losses of a run.

        Raises:
            ValueError: no such products.
        """
        if products not in ("fp32", "fp8", "nudged"):
            raise ValueError(f"there are no products {products!r}")
        self.asked.append(f"{products} with seed {int(seed)}")
        losses = torch.tensor(self.losses[products])
        away = int(seed) - SEED
        return losses * (1 + 0.1 * away) + 0.03 * away * torch.arange(len(losses))
