"""Keep a run, and go on with it on as many ranks as there are then.

Chapter: 06_together/keep_and_resume
Source: torch_dcp

What ranks hold are spans of rows that have the same names and lengths in every layout
(`parallel.spans`); `torch.distributed.checkpoint` writes each number once, and works
out which rank has to read what when a run is resumed on other ranks.

A checkpoint holds four numbers for each weight: the weight, the two of AdamW, and the
last good weight of `divergence.LastGood`. Balance biases count as weights. The batch of
a step follows from the seed and the number of the step, so the step is all there is to
know of the place in the data. No step draws a random number; each rank's generators are
kept all the same, for a model that does, and put back on the same number of ranks.
"""

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import checkpoint as dcp

from tiny_lm import checkpoint_files, runs
from tiny_lm.checkpoint_storage import Reader, SpanLoadPlanner, SpanSavePlanner, Writer
from tiny_lm.divergence import LastGood
from tiny_lm.gpus.mesh import Group
from tiny_lm.job import Job
from tiny_lm.model import is_expert
from tiny_lm.parallel import spans
from tiny_lm.parallel.spans import Span
from tiny_lm.parallel.zero import ShardedOptimizer


class Trains(Protocol):
    """A worker: what one rank does of a run."""

    model: nn.Module
    optimizer: torch.optim.Optimizer | ShardedOptimizer
    group: Group
    device: torch.device


class CheckpointError(RuntimeError):
    """A checkpoint that could not be written or read; the message says why."""


def save(
    run: Path,
    worker: Trains,
    good: LastGood,
    everyone: Group,
    about: Mapping[str, Any],
    sent: int = 0,
) -> None:
    """Write a checkpoint; all ranks must call it.

    Until it is whole the run's older ones stay as they are.

    Args:
        everyone: all ranks of the run.
        about: what it says of itself, as JSON; `step` is the last one done. Of the
            first rank; the others' is not looked at.
        sent: bytes that this rank has sent in the run.

    Raises:
        CheckpointError: it could not be written.
    """
    held = _held(worker, good) | _random(worker.device, everyone)
    with _torch_speaks(f"the checkpoint of step {about['step']} is not written"):
        dcp.save(
            held,
            storage_writer=Writer(run, about, sent),
            planner=SpanSavePlanner(),
            process_group=everyone.process_group,
            no_dist=everyone.process_group is None,
        )


def load(
    checkpoint: Path, worker: Trains, good: LastGood, everyone: Group
) -> dict[str, Any]:
    """Make a fresh worker the one that was kept; all ranks must call it.

    Returns:
        What the checkpoint says of itself.

    Raises:
        CheckpointError: it holds another model, or cannot be read.
    """
    about = checkpoint_files.read_about(checkpoint)
    spans.begin_states(worker.optimizer, about["step"])
    held = _held(worker, good)
    drawn = _random(worker.device, everyone)
    same_ranks = about["training"]["ranks"] == everyone.size
    drawn = {n: s for n, s in drawn.items() if same_ranks and n in about["tensors"]}
    with _torch_speaks(f"{checkpoint} does not fit"):
        dcp.load(
            held | drawn,
            storage_reader=Reader(checkpoint, about),
            planner=SpanLoadPlanner(),
            process_group=everyone.process_group,
            no_dist=everyone.process_group is None,
        )
    good.step = about["step"]
    for name, span in drawn.items():
        _generator(name)[1](span.numbers)
    return about


class Keeper:
    """Keeps a run every so many steps, and lets it go on from where it was kept.

    Args:
        good: of the worker's model.
        everyone: all ranks of the run.
        about: what makes the run the one it is.
    """

    def __init__(
        self,
        job: Job,
        worker: Trains,
        good: LastGood,
        everyone: Group,
        about: Mapping[str, Any],
    ) -> None:
        self._job, self._about = job, about
        self._state = worker, good, everyone
        self._began = time.perf_counter()
        self.first, self.sent, self._seconds = 0, 0, 0.0

    @property
    def seconds(self) -> float:
        """How long the run has taken so far, in all attempts."""
        return self._seconds + time.perf_counter() - self._began

    def begin(self) -> None:
        """Put the worker where the run goes on; `first` is the step after which it is.

        `sent` is what all ranks sent until then: the first rank has the sum, others 0.
        """
        everyone = self._state[2]
        start = told_by_first(self._job.start, everyone)
        if start is None:
            return
        about = load(start, *self._state)
        self.first, self._seconds = about["step"], about["seconds"]
        self.sent = 0 if everyone.rank else about["bytes_sent"]

    def after(self, step: int, sent: int) -> None:
        """Keep the run after this step, if it is time to and another step follows.

        Args:
            sent: bytes that this rank has sent since `begin`.

        Raises:
            CheckpointError: it could not be written.
        """
        job = self._job
        every, last = job.checkpoint_every, job.training.steps
        if not every or step % every or step == last:
            return
        if self._state[2].rank == 0:
            checkpoint_files.settle(job.out / runs.METRICS)
        about = {"step": step, "seconds": round(self.seconds, 1), **self._about}
        save(job.out, *self._state, about, self.sent + sent)


def told_by_first(path: Path | None, everyone: Group) -> Path | None:
    """The first rank's path, on all ranks: others may not see the folder yet."""
    if everyone.process_group is None:
        return path
    told = [path]
    dist.broadcast_object_list(told, src=0, group=everyone.process_group)
    return told[0]


def _held(worker: Trains, good: LastGood) -> dict[str, Span]:
    """All that this rank has to keep, in the memory where it lives."""
    group = worker.group
    parts = {
        "model": spans.of_state(worker.model.state_dict(), group, is_expert),
        "good": spans.of_state(good.weights, group, is_expert),
        "optimizer": spans.of_optimizer(
            worker.optimizer, worker.model, group, is_expert
        ),
    }
    return {
        f"{part}.{name}": span
        for part, held in parts.items()
        for name, span in held.items()
    }


def _random(device: torch.device, everyone: Group) -> dict[str, Span]:
    """The states of this rank's generators."""
    kinds = ["cpu", "cuda"] if device.type == "cuda" else ["cpu"]
    names = [f"random.{kind}.{everyone.rank}" for kind in kinds]
    states = {name: _generator(name)[0]() for name in names}
    return {name: Span(state, 0, state.numel()) for name, state in states.items()}


def _generator(name: str) -> tuple[Any, Any]:
    """How to read and how to set the generator whose state has that name."""
    module = torch.cuda if name.startswith("random.cuda.") else torch
    return module.get_rng_state, module.set_rng_state


@contextmanager
def _torch_speaks(what: str) -> Iterator[None]:
    """Say in one line what torch says in many, the same on every rank."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")
            yield
    except dcp.CheckpointException as error:
        causes = [cause for cause, _ in error.failures.values()]
        for cause in causes:
            if not isinstance(cause, Exception):
                raise cause from None  # Ctrl-C is not torch's to keep
        said = " ".join(str(causes[0]).split())
        raise CheckpointError(f"{what}: {said}") from causes[0]
