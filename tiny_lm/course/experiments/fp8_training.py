"""One run in FP32 or in emulated FP8, and what is measured of it.

Chapter: 04_fp8
Source: course

Products have FP32 sums on every device. On one rank nothing is sent, so the wire is
emulated too: rows are packed and unpacked where they would leave and arrive.

Two things make the last loss quieter. It is measured on half a million tokens, and on
weights averaged over the last hundred steps beside the last weights themselves. And it
is measured in FP32 as well as in the run's own products, which tells worse weights from
a noisier measurement.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from tiny_lm import data, train
from tiny_lm.config import ModelConfig
from tiny_lm.course.experiments.plan import Noise, Run
from tiny_lm.divergence import NotFinite
from tiny_lm.gpus import mesh
from tiny_lm.job import Job
from tiny_lm.model import LanguageModel
from tiny_lm.moe import LocalDispatcher
from tiny_lm.parallel.wire import Packing, WireFormat, fp8_wire
from tiny_lm.runs import load_weights
from tiny_lm.step import Worker, evaluate

DECAY = 0.99  # of the averaged weights: a hundred steps
LOSSES_TOGETHER = 10  # steps whose training loss is one number of the record
TOKENS_AT_ONCE = 2**15  # while the last loss is measured
State = dict[str, Tensor]


def train_exact(
    run: Run,
    weights: Path | None,
    parts: tuple[Tensor, Tensor],
    device: str,
    tick: Callable[[], None],
) -> tuple[LanguageModel, dict[str, Any]]:
    """Train, and return the model and its curves.

    A run whose loss is no number any more ends with its last good weights, and
    `stopped` says so.

    Args:
        weights: what to start from; None: the seed's.
    """
    t = run.training
    model = build(run.config, t.seed, device)
    if weights:
        model.load_state_dict(load_weights(weights))
    if run.moved:
        move_by_an_ulp(model)
    if run.noise:
        add_noise(model, run.noise, t.seed)
    averaged = [p.detach().clone() for p in model.parameters()]
    curves: dict[str, Any] = {"steps": [], "val_loss": [], "train_loss": []}
    losses: list[float] = []
    job = Job(config=run.config, training=t, out=Path(), ranks=1)
    try:
        for metrics in train.steps(job, Worker(model, t, mesh.solo()), parts):
            with torch.no_grad():
                torch._foreach_lerp_(averaged, list(model.parameters()), 1 - DECAY)
            losses.append(metrics["loss"])
            tick()
            if "val_loss" in metrics:
                curves["steps"].append(metrics["step"])
                curves["val_loss"].append(round(metrics["val_loss"], 6))
    except NotFinite as error:
        curves["stopped"] = str(error)
    groups = range(0, len(losses), LOSSES_TOGETHER)
    curves["train_loss"] = [
        round(fmean(losses[n : n + LOSSES_TOGETHER]), 6) for n in groups
    ]
    curves["final"] = _final(run, model, averaged, parts[1], device)
    curves["final_val_loss"] = curves["final"]["own"]
    return model, curves


def build(config: ModelConfig, seed: int, device: str) -> LanguageModel:
    """The model of one rank, with the wire that it would have among several."""
    dispatcher = None
    if config.fp8 and config.fp8.wire and config.moe:
        wire = fp8_wire(config.fp8.tile)
        local = LocalDispatcher(config.moe.num_experts, config.fp8.tile)
        dispatcher = Wired(local, wire)
    return LanguageModel(config, dispatcher, seed).to(device)


@torch.no_grad()
def move_by_an_ulp(model: LanguageModel) -> None:
    """Every weight to the next number above it."""
    up = torch.tensor(torch.inf)
    for weight in model.parameters():
        weight.copy_(weight.nextafter(up.to(weight.device)))


def add_noise(model: LanguageModel, noise: Noise, seed: int) -> None:
    """From now on each gradient is off by so much, in a direction drawn at random."""
    device = model.head.weight.device
    draws = torch.Generator(device).manual_seed(1000 * seed + noise.draw)

    @torch.no_grad()
    def disturb(weight: Tensor) -> None:
        grad = weight.grad
        error = torch.randn(grad.shape, generator=draws, device=grad.device)
        grad.add_(error * (noise.share * grad.norm() / error.norm()))

    for weight in model.parameters():
        weight.register_post_accumulate_grad_hook(disturb)


@dataclass(frozen=True)
class Wired:
    """A dispatcher of one rank that packs rows as if they travelled."""

    local: LocalDispatcher
    wire: WireFormat

    @property
    def local_experts(self) -> range:
        return self.local.local_experts

    def dispatch(self, x: Tensor, experts: Tensor) -> tuple[Tensor, Tensor, Any]:
        rows, ends, way_back = self.local.dispatch(x, experts)
        there, back = self.wire.to_experts, self.wire.to_tokens
        return _Travel.apply(rows, there, back), ends, way_back

    def combine(self, rows: Tensor, weights: Tensor, way_back: Any) -> Tensor:
        there, back = self.wire.to_experts, self.wire.to_tokens
        rows = _Travel.apply(rows, back, there)
        return self.local.combine(rows, weights, way_back)


class _Travel(torch.autograd.Function):
    """Packed and unpacked on the way, and the gradient on its way back."""

    @staticmethod
    def forward(ctx, rows, packing, of_gradient):
        ctx.of_gradient = of_gradient
        return _sent(rows, packing)

    @staticmethod
    def backward(ctx, grad):
        return _sent(grad.contiguous(), ctx.of_gradient), None, None


def _sent(rows: Tensor, packing: Packing) -> Tensor:
    return packing.unpack(packing.pack(rows), rows.shape[1], rows.dtype)


def _final(
    run: Run, model: LanguageModel, averaged: list[Tensor], text: Tensor, device: str
) -> dict[str, float]:
    """The loss of the last and of the averaged weights, in their products and FP32."""
    t = run.training
    at_once = max(min(TOKENS_AT_ONCE, run.validation_tokens) // t.seq_len, 1)
    num_batches = run.validation_tokens // (at_once * t.seq_len)
    batches = data.EvalBatches(text, at_once, t.seq_len, num_batches)
    readers = {"own": model}
    if run.config.fp8:
        readers["fp32"] = build(replace(run.config, fp8=None), t.seed, device)
    last = {name: x.clone() for name, x in model.state_dict().items()}
    names = [name for name, _ in model.named_parameters()]
    mean = last | dict(zip(names, averaged, strict=True))
    losses = {}
    for name, state in (("", last), ("averaged_", mean)):
        for products, reader in readers.items():
            reader.load_state_dict(state)
            loss = evaluate(reader, batches, mesh.solo())
            losses[name + products] = round(loss, 7)
        losses.setdefault(name + "fp32", losses[name + "own"])
    model.load_state_dict(last)
    return losses
