"""A short run that keeps itself, for tests of what is kept."""

import multiprocessing.forkserver
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed import checkpoint as dcp

from tiny_lm import checkpoint_files, journal, runs
from tiny_lm.checkpoint import Keeper
from tiny_lm.checkpoint_storage import Reader, SpanLoadPlanner, SpanSavePlanner, Writer
from tiny_lm.config import TrainConfig, preset
from tiny_lm.divergence import LastGood
from tiny_lm.gpus import mesh
from tiny_lm.job import Job, read_corpus
from tiny_lm.parallel.spans import Span
from tiny_lm.step import Worker, build_worker
from tiny_lm.train import steps

ROOT = Path(__file__).resolve().parents[1]
PLAIN = {"PYTHONPATH": str(ROOT)}  # an environment without shape checks
STEPS, KEPT_AT = 4, 2
TRAINING = TrainConfig(
    steps=STEPS, batch_size=8, seq_len=16, warmup_steps=1, eval_every=2, eval_batches=1
)
# As `python -m tiny_lm train` says it.
OPTIONS = ("--batch-size", "8", "--seq-len", "16", "--steps", "4", "--ranks", "1")


def job_in(folder: Path, **changes: Any) -> Job:
    """A job on a text of its own, with a folder that a run has begun to use."""
    text = folder / "text.txt"
    if not text.exists():
        text.write_text("the cat sat on the mat. " * 400)
    out = folder / "run"
    plain = replace(preset("tiny"), fp8=None)
    wanted = {"config": plain, "training": TRAINING, "ranks": 1, "data": text}
    wanted |= {"out": out, "checkpoint_every": KEPT_AT, "progress": False}
    return Job(**(wanted | changes))


def begin(job: Job) -> tuple[Worker, LastGood, Keeper, tuple]:
    """A rank's worker and keeper, where the job goes on."""
    corpus, *parts = read_corpus(job)
    worker, everyone = build_worker(job, mesh.world(), "cpu"), mesh.world()
    good = LastGood(worker.model)
    about = journal.about(job, corpus)
    keeper = Keeper(job, worker, good, everyone, about)
    keeper.begin()
    return worker, good, keeper, tuple(parts)


def losses(
    rank: int, job: Job, until: int = STEPS, nudge: float = 0.0
) -> list[dict[str, Any]]:
    """What every step measures, from where the job goes on; the first rank writes.

    Args:
        nudge: what every weight is moved by before, up or down, as a part of itself.
    """
    worker, good, keeper, parts = begin(job)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in worker.model.parameters() if nudge else ():
            ups = torch.rand(weight.shape, generator=generator) < 0.5
            weight += nudge * weight * (2.0 * ups - 1)
    found = []
    if not rank:
        job.out.mkdir(exist_ok=True)
        (job.out / runs.METRICS).touch()
    for metrics in steps(job, worker, parts, None, good, keeper.first):
        del metrics["tokens_per_s"]
        found.append(metrics)
        if not rank:
            runs.append_metrics(job.out, metrics)
        keeper.after(metrics["step"], 100 * (rank + 1))
        if metrics["step"] == until:
            break
    return found


def newest(job: Job) -> Path:
    """The newest checkpoint of the job's run."""
    return checkpoint_files.all_of(job.out)[-1]


@contextmanager
def quick_ranks() -> Iterator[None]:
    """Ranks that do not check shapes: other tests see to that, and it takes long.

    They come from a server of their own; the one of this process may have ranks that
    other tests keep warm.
    """
    module = multiprocessing.forkserver
    server = module.ForkServer()
    server.set_forkserver_preload(module._forkserver._preload_modules)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("ensure_running", "connect_to_new_process"):
            patch.setattr(module, name, getattr(server, name))
        patch.setattr(module, "set_forkserver_preload", server.set_forkserver_preload)
        patch.setenv("PYTHONPATH", PLAIN["PYTHONPATH"])
        yield
        server._stop()


class Toy(nn.Module):
    """Six shared numbers, a vector of three, and two experts of four numbers here."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.arange(6.0).view(2, 3))
        self.vector = nn.Parameter(torch.arange(3.0))
        self.experts = nn.Parameter(torch.arange(8.0).view(2, 2, 2))

    @staticmethod
    def is_expert(name: str) -> bool:
        return name.startswith("experts")


def save_row(rank: int, run: Path, cuts: list[int]) -> None:
    """Each rank its span of the numbers 0 to 9, and a copy of three that all hold."""
    start, stop = cuts[rank], cuts[rank + 1]
    mine, both = torch.arange(start, stop).float(), torch.arange(3).float()
    held = {"row": Span(mine, start, 10), "both": Span(both, 0, 3)}
    writer = Writer(run, {"step": 1}, sent=rank + 1)
    dcp.save(held, storage_writer=writer, planner=SpanSavePlanner())


def load_row(rank: int, path: Path, cuts: list[int]) -> list[float]:
    """Each rank its span of them, as the checkpoint has it."""
    start, stop = cuts[rank], cuts[rank + 1]
    mine = torch.full((stop - start,), -1.0)
    reader = Reader(path, checkpoint_files.read_about(path))
    wanted = {"row": Span(mine, start, 10)}
    dcp.load(wanted, storage_reader=reader, planner=SpanLoadPlanner())
    return mine.tolist()
