"""A run's folder: the config, the weights, the metrics, the summary.

Chapter: 06_together/full_model

    config.json         the model and how it was trained
    model.safetensors   the weights, experts of all ranks together
    metrics.jsonl       one line a step
    summary.json        what `train --json` prints
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from tiny_lm.config import ModelConfig
from tiny_lm.model import LanguageModel


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
    (folder / "config.json").write_text(json.dumps(about, indent=2) + "\n")
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in state.items()
    }
    save_file(tensors, folder / "model.safetensors")


def load_model(folder: Path) -> LanguageModel:
    """The trained model of a run, on one rank.

    Raises:
        ValueError: the folder holds no run, or not a whole one.
    """
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} is not a run: it has no {name}")
    try:
        about = json.loads((folder / "config.json").read_text())
        model = LanguageModel(ModelConfig.from_dict(about["model"]))
        model.load_state_dict(load_file(folder / "model.safetensors"))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{folder} is not a run of this version: {error}") from error
    return model.eval()


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    """The metrics of every step, in order.

    Raises:
        ValueError: the folder has no metrics.
    """
    path = folder / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"{folder} is not a run: it has no metrics.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]
