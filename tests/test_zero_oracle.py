"""ZeRO-1 against torch's own: DistributedDataParallel, ZeroRedundancyOptimizer."""

import sys

import pytest
import torch
from cloudpickle import register_pickle_by_value
from torch.nn.parallel import DistributedDataParallel

from tiny_lm.config import ModelConfig, TrainConfig, preset
from tiny_lm.gpus import mesh
from tiny_lm.gpus.launch import run_ranks
from tiny_lm.model import LanguageModel
from tiny_lm.step import build_model, build_sharded_optimizer, train_step

register_pickle_by_value(sys.modules[__name__])  # so that ranks need not import pytest

TRAINING = TrainConfig(steps=3, batch_size=8, seq_len=32, warmup_steps=1)


class Whole(torch.nn.Module):
    """The loss as a forward pass, which is what DistributedDataParallel wraps."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.model.loss(tokens).total


def _batches() -> torch.Tensor:
    generator = torch.Generator().manual_seed(7)
    return torch.randint(256, (3, 8, 33), generator=generator)


def _theirs(model: LanguageModel, rank: int, size: int) -> list[float]:
    # Importing it warns, which tests do not allow; ranks do.
    from torch.distributed.optim import ZeroRedundancyOptimizer

    ddp = DistributedDataParallel(Whole(model))
    vectors = [p for p in model.parameters() if p.dim() == 1]
    optimizer = ZeroRedundancyOptimizer(
        [{"params": vectors, "weight_decay": 0.0}],
        optimizer_class=torch.optim.AdamW,
        lr=TRAINING.lr,
        betas=TRAINING.betas,
        weight_decay=TRAINING.weight_decay,
    )
    matrices = [p for p in model.parameters() if p.dim() > 1]
    optimizer.add_param_group({"params": matrices})
    norms = []
    for batch in _batches():
        ddp(batch.chunk(size)[rank]).backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        norms.append(norm.item())
        optimizer.step()
        optimizer.zero_grad()
    return norms


def _ours(model: LanguageModel) -> list[float]:
    group = mesh.world()
    optimizer = build_sharded_optimizer(model, TRAINING, group)
    return [
        train_step(
            model,
            optimizer,
            batch.chunk(group.size)[group.rank],
            group,
            0.5,
            optimizer,
        )["grad_norm"]
        for batch in _batches()
    ]


def _both(rank: int, config: ModelConfig) -> tuple[list, list, float]:
    group = mesh.world()
    mine, other = (build_model(config, group, seed=4) for _ in range(2))
    norms = _ours(mine), _theirs(other, group.rank, group.size)
    pairs = zip(mine.parameters(), other.parameters(), strict=True)
    return *norms, max((a - b).abs().mean().item() for a, b in pairs)


@pytest.mark.parametrize("num_ranks", [2, 4])
def test_a_dense_model_learns_as_with_torchs_own(num_ranks):
    config = preset("tiny_dense")
    for norms, theirs, apart in run_ranks(num_ranks, _both, config, checked=False):
        assert norms == pytest.approx(theirs, rel=1e-5)
        assert apart < 1e-6
