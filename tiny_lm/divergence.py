"""Stop where a loss is no number any more, with the last weights that had a good one.

Chapter: 06_together/full_model

A step that is too long throws the weights so far that the next loss is infinite or NaN,
and from there every weight becomes NaN. The weights worth keeping are those of the step
before, whose loss was still a number. So a copy is taken before every step and kept
until the next loss has shown that it may go.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn


class NotFinite(RuntimeError):
    """A loss or a gradient that is infinite or NaN.

    step: at which step, from 1
    kept: the step whose loss belongs to the weights that the model has now; 0 if none
    """

    def __init__(self, name: str, value: float, step: int, kept: int) -> None:
        super().__init__(f"{name} was {value} at step {step}, so training stopped")
        self.step, self.kept = step, kept


class LastGood:
    """The weights and balance biases of the last step whose losses were numbers."""

    def __init__(self, model: nn.Module) -> None:
        self.step = 0
        self._names = list(model.state_dict())
        self._live = [x.detach() for x in model.state_dict().values()]
        self._next = [torch.empty_like(x) for x in self._live]
        self._good = [torch.empty_like(x) for x in self._live]

    @property
    def weights(self) -> dict[str, Tensor]:
        """Those weights, by the names that the model has for them."""
        return dict(zip(self._names, self._good, strict=True))

    def before_step(self) -> None:
        """Copy what the step is about to change."""
        _copy(self._next, self._live)

    def check(self, metrics: dict[str, Any]) -> None:
        """After a step: its losses say whether the weights before it were good.

        Raises:
            NotFinite: a loss or the gradient is no number; the model has the last good
                weights again.
        """
        step = metrics["step"]
        losses = {k: v for k, v in metrics.items() if k.endswith("loss")}
        before = {k: v for k, v in losses.items() if k != "val_loss"}
        if all(map(math.isfinite, before.values())) and self.step < step:
            self._good, self._next, self.step = self._next, self._good, step
        for name, value in (losses | {"grad_norm": metrics["grad_norm"]}).items():
            if not math.isfinite(value):
                if self.step:
                    _copy(self._live, self._good)
                raise NotFinite(name, value, step, self.step)


@torch.no_grad()
def _copy(targets: list[Tensor], sources: list[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
