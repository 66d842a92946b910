"""Event files that TensorBoard draws: the metrics of every step, while a run goes on.

Chapter: 06_together/into_the_ecosystem

    tensorboard --logdir runs

They repeat what stands in metrics.jsonl, under the same names, and are written only
where they are asked for: the package `tensorboard` belongs to an extra.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

FOLDER = "tensorboard"
NAMES = "loss val_loss mtp_loss balance_loss grad_norm lr tokens_per_s".split()


def writer_class() -> type:
    """What writes event files.

    Raises:
        ValueError: the package is not installed; says how to install it.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ValueError(
            "--tensorboard wants the package tensorboard, and it is not installed: "
            ".venv/bin/pip install -c constraints.txt tensorboard"
        ) from error
    return SummaryWriter


def scalars(metrics: dict[str, Any], first_layer: int) -> Iterator[tuple[str, float]]:
    """Names and values of what a step measured.

    Args:
        first_layer: number of the first layer with experts; layers count from 0.
    """
    for name in NAMES:
        if name in metrics:
            yield name, metrics[name]
    for layer, excess in enumerate(metrics["max_violation"], start=first_layer):
        yield f"max_violation/layer_{layer}", excess


class Board:
    """Writes the steps of one run into a folder; without a folder, nothing.

    A run that is taken up again goes on at the step it came back to. The new file says
    so, and TensorBoard forgets what an earlier one holds from that step on.
    """

    def __init__(self, folder: Path | None, first_layer: int = 0) -> None:
        self.folder = folder
        self.first_layer = first_layer
        self.writer = None

    def add(self, metrics: dict[str, Any]) -> None:
        """Write the metrics of one step."""
        if self.folder is None:
            return
        step = metrics["step"]
        if self.writer is None:
            self.writer = writer_class()(str(self.folder), purge_step=step)
        for name, value in scalars(metrics, self.first_layer):
            self.writer.add_scalar(name, value, step)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.writer is not None:
            self.writer.close()
