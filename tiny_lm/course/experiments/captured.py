"""Many short runs side by side on one GPU, each step replayed without Python.

Chapter: 03_mla/latent_attention
Source: course

A step of a tiny model is hundreds of kernels. Each is shorter than its launch and
leaves most of a GPU idle. So the step is captured once, as a CUDA graph, and replayed
whole; and the graphs of several runs are replayed on streams of their own, where they
fill the gaps of each other. On a CPU the same steps run as they are written.

The model must not read its own numbers back on the way. So experts, whose loads decide
shapes, are trained by `tiny_lm.train` instead.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tiny_lm.config import TrainConfig
from tiny_lm.course.experiments.plan import Run
from tiny_lm.gpus import mesh
from tiny_lm.job import Job, batches
from tiny_lm.model import LanguageModel
from tiny_lm.step import build_optimizer, evaluate
from tiny_lm.train import learning_rate

WARM_UP = 5  # steps before the capture; they train like all others

Record = dict[str, Any]
Steps = Iterator[None]  # of one run: does a step, yields, and fills a record on the way


class Trainer:
    """One step after another: loss, backward, clip, AdamW.

    Args:
        loss_of: the loss of a batch; it must not read results back from the device.
    """

    def __init__(
        self,
        model: LanguageModel,
        training: TrainConfig,
        loss_of: Callable[[Tensor], Tensor],
    ) -> None:
        self.model, self.training, self.loss_of = model, training, loss_of
        self.device = model.head.weight.device
        self.optimizer = build_optimizer(model, training)
        self.steps = 0
        self.loss: Tensor | None = None  # of the last step
        self._on_gpu = self.device.type == "cuda"
        self._stream = torch.cuda.Stream() if self._on_gpu else None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._batch: Tensor | None = None
        self._lr = torch.tensor(training.lr, device=self.device)
        for group in self.optimizer.param_groups:
            group.update(lr=self._lr, capturable=self._on_gpu)
        if self._stream:
            self._stream.wait_stream(torch.cuda.current_stream())

    def here(self) -> AbstractContextManager:
        """Where this run's work is done: on its own stream, beside the others."""
        return torch.cuda.stream(self._stream) if self._stream else nullcontext()

    def step(self, batch: Tensor) -> None:
        """Train on one batch, inside `here`; all batches have the same shape."""
        self._lr.fill_(learning_rate(self.steps, self.training))
        if not self._on_gpu or self.steps < WARM_UP:
            self._run(batch.to(self.device))
        else:
            self._replay(batch)
        self.steps += 1

    def _run(self, batch: Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss_of(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.training.clip)
        self.optimizer.step()
        self.loss = loss.detach()

    def _replay(self, batch: Tensor) -> None:
        if self._graph is None:
            self._batch = batch.to(self.device).clone()
            self._graph = torch.cuda.CUDAGraph()
            torch.cuda.synchronize()
            with torch.cuda.graph(self._graph, stream=self._stream):
                self._run(self._batch)
        self._batch.copy_(batch, non_blocking=True)
        self._graph.replay()


def side_by_side(runs: Iterable[Steps], at_once: int) -> None:
    """Go through all of them, so many at a time, a step of each in turn."""
    waiting, active = iter(runs), []
    while True:
        while len(active) < at_once and (run := next(waiting, None)) is not None:
            active.append(run)
        if not active:
            return
        active = [run for run in active if next(run, StopIteration) is None]


def train_text(
    run: Run, model: LanguageModel, parts: tuple[Tensor, Tensor], curves: Record
) -> Steps:
    """Train on text; `curves` gets an entry an evaluation."""
    t = run.training
    job = Job(config=run.config, training=t, out=Path(), ranks=1)
    training, validation = batches(job, *parts)
    trainer = Trainer(model, t, lambda tokens: model.loss(tokens).total)
    curves |= {"steps": [], "tokens": [], "val_loss": []}
    for step in range(1, t.steps + 1):
        with trainer.here():
            trainer.step(training.at(step - 1, 0, 1))
            if step % t.eval_every == 0 or step == t.steps:
                loss = evaluate(model, validation, mesh.solo())
                curves["steps"].append(step)
                curves["tokens"].append(step * t.batch_size * t.seq_len)
                curves["val_loss"].append(round(loss, 6))
        yield
    curves["final_val_loss"] = curves["val_loss"][-1]
