"""A run's folder: the config, the weights, the metrics, the summary.

Chapter: 06_together/full_model

    config.json         the model and how it was trained
    model.safetensors   the weights, experts of all ranks together
    metrics.jsonl       one line a step
    summary.json        what `train --json` prints
    checkpoints/        until the run has come to its end: what it goes on from
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from tiny_lm import costs
from tiny_lm.config import ModelConfig
from tiny_lm.files import (
    from_json,
    read_json,
    read_text,
    replace_whole,
    to_json,
    write_whole,
)
from tiny_lm.model import LanguageModel

METRICS = "metrics.jsonl"


def save_model(
    folder: Path,
    config: ModelConfig,
    state: Mapping[str, Tensor],
    training: Mapping[str, Any],
) -> None:
    """Write config and weights.

    Args:
        training: how the weights came about; kept for the reader.
    """
    about = {"model": config.to_dict(), "training": dict(training)}
    write_whole(folder / "config.json", to_json(about, indent=2) + "\n")
    save_weights(folder / "model.safetensors", state)


def save_weights(path: Path, state: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, the whole file or none."""
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in state.items()
    }
    replace_whole(path, lambda draft: save_file(tensors, draft))


def load_model(folder: Path) -> LanguageModel:
    """The trained model of a run, on one rank.

    Raises:
        ValueError: the folder holds no run, or not a whole one of this version; names
            the file and what is wrong with it.
    """
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is not a run: it has no {name}")
    config = _read_config(folder / "config.json")
    weights = folder / "model.safetensors"
    state = load_weights(weights)
    _check_size(config, state, weights)
    model = LanguageModel(config)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        fault = " ".join(str(error).split())
        raise ValueError(f"{weights} is not a run of this version: {fault}") from error
    return model.eval()


def load_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        ValueError: it cannot be read, is cut short, or holds NaN or infinity.
    """
    try:
        state = load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is cut short or no safetensors: {error}") from error
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{path} is of no use: {name} is not finite everywhere")
    return state


def _read_config(path: Path) -> ModelConfig:
    about = read_json(path)
    try:
        return ModelConfig.from_dict(about["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is not a run of this version: {error}") from error


def _check_size(config: ModelConfig, state: Mapping[str, Tensor], path: Path) -> None:
    """Before a model is built that the file cannot fill: it may not fit in memory."""
    wanted = costs.count_parameters(config).total
    held = sum(x.numel() for n, x in state.items() if not n.endswith("router.bias"))
    if wanted != held:
        raise ValueError(
            f"{path} is not a run of this version: it holds {held:,} weights, and "
            f"config.json describes {wanted:,}"
        )


def save_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """Write what the run came to."""
    write_whole(folder / "summary.json", to_json(summary, indent=2) + "\n")


def append_metrics(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Add one line to the metrics of a run."""
    with (folder / METRICS).open("a", encoding="utf-8") as file:
        file.write(to_json(metrics) + "\n")


def cut_metrics(folder: Path, count: int) -> None:
    """Leave the metrics of the first steps: those after them will come again.

    Raises:
        ValueError: there are not that many, whole and in order.
    """
    path = folder / METRICS
    lines = path.read_bytes().splitlines(keepends=True)[:count]
    for number, line in enumerate(lines, start=1):
        try:
            whole = json.loads(line)["step"] == number and line.endswith(b"\n")
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            raise ValueError(f"{path}, line {number}, is not that of step {number}")
    if len(lines) < count:
        raise ValueError(f"{path} ends after step {len(lines)}, before step {count}")
    os.truncate(path, sum(map(len, lines)))


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The metrics of every step, in order.

    Raises:
        ValueError: the folder has no metrics, or a line of them is not whole.
    """
    path = folder / METRICS
    if not path.is_file():
        raise ValueError(f"{folder} is not a run: it has no {METRICS}")
    lines = enumerate(read_text(path).splitlines(), start=1)
    return [from_json(line, f"{path}, line {number},") for number, line in lines]
