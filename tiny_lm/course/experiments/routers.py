"""A small model with one router, trained while parts of it are held still.

Chapter: 02_moe/collapse
Source: course

It reads the default corpus and learns for a few seconds, so that a page can afford
several of it: a router left alone, balanced, or cut off from one of the causes that its
collapse may have.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tiny_lm import data, train
from tiny_lm.config import MHAConfig, ModelConfig, MoEConfig, TrainConfig, tiny_dense
from tiny_lm.gpus.mesh import solo
from tiny_lm.job import Job
from tiny_lm.model import LanguageModel
from tiny_lm.router import expert_load, max_violation
from tiny_lm.step import Worker, build_model

STEPS, LATE = 150, 50


@dataclass(frozen=True)
class Watched:
    """A trained model, and what was seen at each of its steps.

    log: the metrics of a step; `alike` is the share of the tokens' squared length that
        lies in their mean, as the router reads them.
    """

    model: LanguageModel
    log: list[dict[str, Any]]

    @property
    def violations(self) -> list[float]:
        """The MaxVio of each step's batch."""
        return [step["max_violation"][0] for step in self.log]

    @property
    def late(self) -> float:
        """The mean MaxVio of the last steps."""
        return fmean(self.violations[-LATE:])

    @property
    def loads(self) -> list[list[int]]:
        """How many choices each expert got, at each step."""
        return [step["load"][0] for step in self.log]

    @property
    def idle(self) -> int:
        """Experts with less than a tenth of an even share, over the last 20 steps."""
        total = torch.tensor(self.loads[-20:]).sum(0).double()
        return int((total < 0.1 * total.mean()).sum())


def small(**moe: float) -> ModelConfig:
    """One dense layer, one of 16 experts, top-2; nothing balances it unless told."""
    unbalanced = {"bias_rate": 0.0, "balance_loss": 0.0}
    experts = {"num_experts": 16, "num_shared": 0, "top_k": 2, "d_expert": 32}
    return replace(
        tiny_dense(),
        d_model=64,
        num_layers=2,
        num_dense_layers=1,
        d_ffn=128,
        attention=MHAConfig(num_heads=2, num_kv_heads=2, d_head=32),
        moe=MoEConfig(**experts | unbalanced | moe),
    )


@cache
def texts() -> tuple[Tensor, Tensor]:
    """Bytes to train on, and bytes of files kept apart."""
    return data.split(data.default_corpus())


def alike(x: Tensor) -> float:
    """The share of the vectors' squared length that lies in their mean.

    1: all are the same vector; 0: their mean is zero.
    """
    x = x.flatten(0, -2)
    return float(x.mean(0).square().sum() / x.square().sum(-1).mean())


def learn(
    seed: int,
    *,
    learns: Callable[[str], bool] = lambda name: True,
    without_mean: bool = False,
    start: LanguageModel | None = None,
    steps: int = STEPS,
    **moe: float,
) -> Watched:
    """Train, and watch the router.

    Args:
        learns: which weights do, by name; the others stay as they are.
        without_mean: take the batch's mean vector from what the router reads. The
            experts read the tokens as they are.
        start: the model whose weights are the first ones; None: the seed's.
    """
    training = TrainConfig(steps=steps, batch_size=8, seed=seed, eval_every=steps)
    job = Job(config=small(**moe), training=training, out=Path(), ranks=1)
    model, seen = build_model(job.config, solo(), seed), []
    if start is not None:
        model.load_state_dict(start.state_dict())
    for name, weight in model.named_parameters():
        weight.requires_grad_(learns(name))

    def look(router: torch.nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        x = inputs[0]
        if without_mean:
            x = x - x.detach().mean((0, 1))
        if router.training:
            seen.append(alike(x.detach()))
        return (x,)

    model.routers[0].register_forward_pre_hook(look)
    worker = Worker(model, job.training, solo())
    log = list(train.steps(job, worker, texts()))
    steps_seen = zip(log, seen, strict=True)
    return Watched(model, [metrics | {"alike": a} for metrics, a in steps_seen])


@torch.no_grad()
def scores_before_sigmoid(
    model: LanguageModel, tokens: Int[Tensor, "B T1"]
) -> Float[Tensor, "N E"]:
    """What the router finds for every token of a batch, the mean included."""
    read: list[Tensor] = []
    router = model.routers[0]
    hook = router.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    was_training = model.training
    model.eval()(tokens[:, :-1])
    model.train(was_training)
    hook.remove()
    return read[0].flatten(0, 1) @ router.weight.T


def violations_of(
    model: LanguageModel, tokens: Int[Tensor, "B T1"]
) -> tuple[float, float]:
    """A finished model's MaxVio on a batch, as it is and without the mean token."""
    router = model.routers[0]
    scores = scores_before_sigmoid(model, tokens)

    def violation(z: Float[Tensor, "N E"]) -> float:
        best = (z.sigmoid() + router.bias).topk(router.config.top_k).indices
        return max_violation(expert_load(best, router.config.num_experts))

    return violation(scores), violation(scores - scores.mean(0))
