"""What a training run is asked to do, and whether it can.

Chapter: 06_together/full_model

Bad input is found here, before any process starts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from tiny_lm import data, events, files, runs
from tiny_lm.config import ModelConfig, TrainConfig
from tiny_lm.layout import Layout


class Maker(Protocol):
    """Makes a run's workers from other parts than the package's own.

    sources: their texts by name; a run goes on only with the same
    """

    sources: Mapping[str, str]

    def check(self, job: "Job") -> None:
        """Refuse what does not go together, with a `ValueError`."""

    def worker(self, job: "Job", group: Any, device: Any) -> Any:
        """What one rank does of the run: as `step.build_worker`."""

    def notes(self, job: "Job") -> dict[str, Any]:
        """What the run's summary says of the parts."""

    def identity(self) -> dict[str, Any]:
        """What tells these parts from others: of a run that is resumed, the same."""

    def write(self, model: Any, prompt: str, num_bytes: int) -> str:
        """A continuation by a trained model, as `generate.generate` gives it."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """All that a rank has to know of a run.

    `data` is a UTF-8 file or a folder; None takes the default corpus. Without `out` the
    run gets a folder of its own, `runs/NAME-N`. Without a `maker`, all of it is the
    package's own.

    checkpoint_every: steps between two checkpoints; 0: none
    resume: go on with the run in `out`, where its newest checkpoint is
    start: that checkpoint, when it was found
    """

    config: ModelConfig
    training: TrainConfig
    out: Path | None = None
    ranks: int = 4
    data: Path | None = None
    device: str = "cpu"
    progress: bool = True
    layout: Layout = Layout()
    tensorboard: bool = False  # event files beside the metrics
    maker: Maker | None = None
    checkpoint_every: int = 0
    resume: bool = False
    start: Path | None = None

    def check(self) -> None:
        """Refuse what cannot run, before any process starts.

        Raises:
            ValueError: what was wanted, and what came.
        """
        _check_model(self.config, self.training)
        _check_ranks(self.config, self.training, self.ranks)
        self.layout.check(self.config, self.training, self.ranks)
        _check_device(self.device)
        if self.tensorboard:
            events.writer_class()
        if self.maker:
            self.maker.check(self)
        self._check_keeping()
        batches(self, *read_corpus(self)[1:])

    def _check_keeping(self) -> None:
        if self.checkpoint_every < 0:
            raise ValueError(
                f"--checkpoint-every must not be negative, got {self.checkpoint_every}"
            )
        if self.resume and self.out is None:
            raise ValueError("--resume goes on with the run in a folder: add --out DIR")

    def open_folder(self) -> Self:
        """The job with a folder that is nobody else's, made now; metrics are empty.

        Raises:
            ValueError: it cannot be written, or there is something in it already.
        """
        if self.out is None:
            out = files.claim_next(Path("runs"), self.config.name)
            (out / runs.METRICS).touch()
            return replace(self, out=out)
        try:
            files.claim(self.out, runs.METRICS)
        except ValueError as error:
            ways = "name another --out"
            if (self.out / "checkpoints").is_dir():
                ways = "--resume goes on with the run in it, or name another --out"
            raise ValueError(f"{error}; {ways}") from error
        return self


def _check_model(config: ModelConfig, training: TrainConfig) -> None:
    if config.vocab_size < 256:
        raise ValueError(f"bytes have 256 values, vocab_size={config.vocab_size}")
    if training.seq_len > config.max_len:
        raise ValueError(
            f"seq_len={training.seq_len} is longer than max_len={config.max_len}"
        )
    if training.seq_len <= config.num_mtp:
        raise ValueError(
            f"num_mtp={config.num_mtp} further tokens need sequences longer than that, "
            f"and seq_len={training.seq_len}"
        )
    if torch.get_default_dtype() != torch.float32:
        raise ValueError(
            f"torch's default dtype is {torch.get_default_dtype()}, and training keeps "
            "its weights in torch.float32: set it back before"
        )


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


def _check_device(device: str) -> None:
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device cuda was asked for, but torch sees no GPU here")


def choose_device(asked: str | None, local_ranks: int) -> str:
    """Where to train: as asked; else on GPUs, if every rank here gets one of its own.

    Args:
        local_ranks: how many torchrun started on this machine; 0 without it, when
            ranks are emulated and belong to the CPU.

    Raises:
        ValueError: there are GPUs, but too few.
    """
    gpus = torch.cuda.device_count() if local_ranks else 0
    if asked or not gpus:
        return asked or "cpu"
    if gpus < local_ranks:
        raise ValueError(
            f"{local_ranks} ranks here and {gpus} GPU(s): start as many ranks as GPUs "
            f"(--nproc-per-node {gpus}), or add --device cpu"
        )
    return "cuda"


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
