"""Which runs are still to be trained side by side, and what is kept of each.

Chapter: 03_mla/latent_attention
Source: course

The counterpart of `pool` for models whose step can be captured: one process, one GPU,
several runs at a time.
"""

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from torch import Tensor
from tqdm import tqdm

from tiny_lm.course.experiments.captured import Record, Steps, side_by_side, train_text
from tiny_lm.course.experiments.plan import Run
from tiny_lm.course.experiments.products import products_for
from tiny_lm.course.experiments.recall import EVALUATION, Haystack, train_recall
from tiny_lm.course.experiments.records import Store, Text
from tiny_lm.course.experiments.training import describe
from tiny_lm.model import LanguageModel

Task = tuple[Tensor, Tensor] | Haystack  # text to train and to validate on, or needles


def needles_as_text(haystack: Haystack) -> Text:
    """What records say in place of a text, where sequences are drawn."""
    said = json.dumps(asdict(haystack), sort_keys=True, allow_nan=False)
    name = f"{haystack.needles} needles in {haystack.length} bytes"
    digest = hashlib.sha256(said.encode()).hexdigest()
    return Text(name, 0, 0, 0, digest, {})


@dataclass(frozen=True)
class Together:
    """Where runs are trained: on what, on which device, how many at once."""

    store: Store
    task: Task
    device: str
    commit: str
    at_once: int = 8

    def train(self, runs: list[Run]) -> None:
        """Train those that are not done, equal ones once; each is kept when it ends."""
        once = {self.store.path(run): run for run in runs}
        todo = [run for run in once.values() if not self.store.is_done(run)]
        todo.sort(key=lambda run: -run.training.steps)
        steps = sum(run.training.steps for run in todo)
        about = f"{len(todo)} runs, {len(runs) - len(todo)} done or shared"
        with tqdm(total=steps, desc=about, unit="step", mininterval=5) as bar:
            side_by_side((self._one(run, bar) for run in todo), self.at_once)

    def _one(self, run: Run, bar: tqdm) -> Iterator[None]:
        started, curves = time.perf_counter(), Record()
        products = products_for(self.device)
        model = LanguageModel(run.config, seed=run.training.seed, products=products)
        for _ in self._steps(run, model.to(self.device), curves):
            bar.update()
            yield
        record = describe(run, self.device, self.commit) | curves
        if isinstance(self.task, Haystack):
            answers = EVALUATION * run.training.batch_size * self.task.needles
            record["validation_tokens"] = answers
        # Side by side, a second belongs to all that run in it.
        seconds = (time.perf_counter() - started) / self.at_once
        self.store.save(run, record | {"seconds": round(seconds, 1)})

    def _steps(self, run: Run, model: LanguageModel, curves: Record) -> Steps:
        if isinstance(self.task, Haystack):
            return train_recall(run, model, self.task, curves)
        return train_text(run, model, self.task, curves)
