"""Several runs at once on one device: tiny models leave most of a GPU idle.

Chapter: 02_moe/conditional_computation
Source: course

One run after the other stays in this process. Several go to processes, each with its
own copy of the text and its own part of the machine's threads. A run's record is
written as soon as it is done, so whatever stops the pool costs the unfinished runs
alone.
"""

import math
import os
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from multiprocessing import get_context
from typing import Any

import torch

from tiny_lm import costs
from tiny_lm.course.experiments.plan import Run
from tiny_lm.course.experiments.products import check_grouped, products_for
from tiny_lm.course.experiments.records import Store
from tiny_lm.course.experiments.training import Parts, Tick, train_and_save
from tiny_lm.journal import Bar
from tiny_lm.layers import PLAIN

Failures = dict[str, BaseException]  # by the name of the run's record


@dataclass(frozen=True)
class Pool:
    """Where runs are trained: on what text, on which device, how many at once."""

    store: Store
    parts: Parts
    device: str
    commit: str
    jobs: int = 1
    progress: bool = True
    deadline: float = math.inf  # by `time.monotonic`: no run starts later

    def train(self, runs: list[Run]) -> None:
        """Train those that are not done; equal ones once.

        Raises:
            ValueError: there is something to train, and no GPU where one is wanted.
            RuntimeError: some runs failed; names them. The others are kept.
        """
        todo = self.unfinished(runs)
        if todo and self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("device cuda was asked for, but torch sees no GPU here")
        steps = sum(run.training.steps for run in todo)
        about = f"{len(todo)} runs, {len(runs) - len(todo)} done or shared"
        with Bar(
            total=steps, desc=about, unit="step", disable=not self.progress
        ) as bar:
            work = self._one_by_one if self.jobs == 1 else self._at_once
            failures = work(todo, bar) if todo else {}
        if failures:
            reasons = "; ".join(f"{name}: {e}" for name, e in failures.items())
            raise RuntimeError(f"{len(failures)} runs failed: {reasons}") from next(
                iter(failures.values())
            )

    def unfinished(self, runs: list[Run]) -> list[Run]:
        """Each run that is not done, once.

        The longest first, so that none is left alone at the end; but where time may run
        out, in the order given.
        """
        once: dict[Any, Run] = {}
        for run in runs:
            same = once.get(self.store.path(run), run)
            keep = run.keep_weights or same.keep_weights
            once[self.store.path(run)] = replace(same, keep_weights=keep)
        todo = [run for run in once.values() if not self.store.is_done(run)]
        if math.isfinite(self.deadline):
            return todo
        return sorted(todo, key=_work, reverse=True)

    def _one_by_one(self, todo: list[Run], bar: Bar) -> Failures:
        failures = {}
        check_grouped(products_for(self.device), self.device)
        for run in todo:
            try:
                self.train_here(run, bar.update)
            except Exception as error:
                failures[self.store.path(run).stem] = error
        return failures

    def _at_once(self, todo: list[Run], bar: Bar) -> Failures:
        context = get_context("spawn")
        counter = context.Value("q", 0)
        threads = max(_processors() // self.jobs, 1)
        arrays = tuple(part.numpy() for part in self.parts)
        bare = replace(self, parts=())
        with ProcessPoolExecutor(
            self.jobs, context, _start, (bare, arrays, counter, threads)
        ) as executor:
            futures = {executor.submit(_train_in_process, run): run for run in todo}
            pending = set(futures)
            while pending:
                _, pending = wait(pending, timeout=1.0, return_when=FIRST_COMPLETED)
                bar.update(counter.value - bar.n)
        errors = {run: future.exception() for future, run in futures.items()}
        return {self.store.path(run).stem: e for run, e in errors.items() if e}

    def train_here(self, run: Run, tick: Tick) -> None:
        """Train one run in this process, done or not; nothing after the deadline."""
        if time.monotonic() > self.deadline:
            return
        train_and_save(run, self.store, self.parts, self.device, self.commit, tick)


def _processors() -> int:
    """Those that this process may use, which can be fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _work(run: Run) -> tuple[int, int]:
    return run.training.steps, costs.count_parameters(run.config).total


_here: dict[str, Any] = {}  # what a process of the pool was started with


def _start(pool: Pool, arrays: tuple, counter: Any, threads: int) -> None:
    torch.set_num_threads(threads)
    parts = tuple(torch.from_numpy(array) for array in arrays)
    _here.update(pool=replace(pool, parts=parts), counter=counter)
    for products in {products_for(pool.device), PLAIN}:
        check_grouped(products, pool.device)


def _train_in_process(run: Run) -> None:
    pool, counter = _here["pool"], _here["counter"]

    def tick() -> None:
        with counter.get_lock():
            counter.value += 1

    pool.train_here(run, tick)
