"""What a training run is asked to do, and whether it can.

Chapter: 06_together/full_model

Bad input is found here, before any process starts.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from tiny_lm import data
from tiny_lm.config import ModelConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a rank has to know of a run.

    `data` is a UTF-8 file or a folder; None takes the default corpus.
    """

    config: ModelConfig
    training: TrainConfig
    out: Path
    ranks: int = 4
    data: Path | None = None
    device: str = "cpu"
    progress: bool = True

    def check(self) -> None:
        """Refuse what cannot run, before any process starts.

        Raises:
            ValueError: what was wanted, and what came.
        """
        _check_ranks(self.config, self.training, self.ranks)
        _check_device(self.device)
        batches(self, *read_corpus(self)[1:])

    def open_folder(self) -> None:
        """Make the run's folder, with empty metrics.

        Raises:
            ValueError: it cannot be written, or it holds a run already.
        """
        if (self.out / "model.safetensors").exists():
            raise ValueError(f"{self.out} holds a run already; name another --out")
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            (self.out / "metrics.jsonl").write_text("")
        except OSError as error:
            raise ValueError(f"cannot write to {self.out}: {error.strerror}") from error


def _check_ranks(config: ModelConfig, training: TrainConfig, ranks: int) -> None:
    if ranks < 1:
        raise ValueError(f"ranks must be at least 1, got {ranks}")
    if config.moe and config.moe.num_experts % ranks:
        raise ValueError(
            f"{ranks} ranks cannot share {config.moe.num_experts} experts evenly"
        )
    if training.batch_size % ranks:
        raise ValueError(
            f"{ranks} ranks cannot share {training.batch_size} sequences evenly"
        )
    if training.seq_len > config.max_len:
        raise ValueError(
            f"seq_len={training.seq_len} is longer than max_len={config.max_len}"
        )


def _check_device(device: str) -> None:
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but torch sees no GPU here")


def read_corpus(job: Job) -> tuple[data.Corpus, Tensor, Tensor]:
    """The corpus and its two parts.

    Raises:
        ValueError: nothing usable at `job.data`.
    """
    corpus = data.load_corpus(job.data) if job.data else data.default_corpus()
    return corpus, *data.split(corpus, min_bytes=job.training.seq_len + 1)


def batches(
    job: Job, train: Tensor, validation: Tensor
) -> tuple[data.Batches, data.EvalBatches]:
    """Batches of both parts.

    Raises:
        ValueError: a part is shorter than one sequence.
    """
    t = job.training
    return (
        data.Batches(train, t.batch_size, t.seq_len, t.seed),
        data.EvalBatches(validation, t.batch_size, t.seq_len, t.eval_batches),
    )


def new_run_folder(parent: Path, name: str) -> Path:
    """`parent/name-1`, or the next number that is free."""
    return next(
        folder
        for number in itertools.count(1)
        if not (folder := parent / f"{name}-{number}").exists()
    )
