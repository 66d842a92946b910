"""Several runs at once on one device: tiny models leave most of a GPU idle.

Chapter: 02_moe/conditional_computation
Source: course

One run after the other stays in this process. Several go to processes, each with its
own copy of the text and its own part of the machine's threads. A run's record is
written as soon as it is done, so whatever stops the pool costs the unfinished runs
alone.
"""

import os
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

import torch
from tqdm import tqdm

from tiny_lm import costs
from tiny_lm.course.experiments.plan import Run
from tiny_lm.course.experiments.products import check_grouped, products_for
from tiny_lm.course.experiments.records import Store
from tiny_lm.course.experiments.training import Parts, train_and_save


@dataclass(frozen=True)
class Pool:
    """Where runs are trained: on what text, on which device, how many at once."""

    store: Store
    parts: Parts
    device: str
    commit: str
    jobs: int = 1
    progress: bool = True

    def train(self, runs: list[Run]) -> None:
        """Train those that are not done; equal ones once.

        Raises:
            RuntimeError: some runs failed; names them. The others are kept.
        """
        todo = self.unfinished(runs)
        steps = sum(run.training.steps for run in todo)
        about = f"{len(todo)} runs, {len(runs) - len(todo)} done or shared"
        with tqdm(
            total=steps, desc=about, unit="step", disable=not self.progress
        ) as bar:
            if self.jobs == 1:
                self._one_by_one(todo, bar)
            else:
                self._at_once(todo, bar)

    def unfinished(self, runs: list[Run]) -> list[Run]:
        """Each run that is not done, once, the longest first."""
        once: dict[Any, Run] = {}
        for run in runs:
            same = once.get(self.store.path(run), run)
            keep = run.keep_weights or same.keep_weights
            once[self.store.path(run)] = replace(same, keep_weights=keep)
        todo = [run for run in once.values() if not self.store.is_done(run)]
        return sorted(todo, key=_work, reverse=True)

    def _one_by_one(self, todo: list[Run], bar: tqdm) -> None:
        for run in todo:
            train_and_save(
                run, self.store, self.parts, self.device, self.commit, bar.update
            )

    def _at_once(self, todo: list[Run], bar: tqdm) -> None:
        context = get_context("spawn")
        counter = context.Value("q", 0)
        threads = max((os.cpu_count() or 1) // self.jobs, 1)
        arrays = tuple(part.numpy() for part in self.parts)
        quiet = replace(self, parts=(), progress=False)
        with ProcessPoolExecutor(
            self.jobs, context, _start, (quiet, arrays, counter, threads)
        ) as executor:
            futures = {executor.submit(_train_here, run): run for run in todo}
            pending = set(futures)
            while pending:
                _, pending = wait(pending, timeout=1.0, return_when=FIRST_COMPLETED)
                bar.update(counter.value - bar.n)
        _raise_failures(futures)


def _work(run: Run) -> float:
    return run.training.steps * costs.count_parameters(run.config).total


def _raise_failures(futures: dict[Future, Run]) -> None:
    failed = {futures[f].label: f.exception() for f in futures if f.exception()}
    if failed:
        reasons = "\n".join(f"{label}: {error}" for label, error in failed.items())
        raise RuntimeError(f"{len(failed)} runs failed:\n{reasons}") from next(
            iter(failed.values())
        )


_here: dict[str, Any] = {}  # what a process of the pool was started with


def _start(pool: Pool, arrays: tuple, counter: Any, threads: int) -> None:
    torch.set_num_threads(threads)
    parts = tuple(torch.from_numpy(array) for array in arrays)
    _here.update(pool=replace(pool, parts=parts), counter=counter)
    check_grouped(products_for(pool.device), pool.device)


def _train_here(run: Run) -> None:
    pool, counter = _here["pool"], _here["counter"]

    def tick() -> None:
        with counter.get_lock():
            counter.value += 1

    train_and_save(run, pool.store, pool.parts, pool.device, pool.commit, tick)
