"""ZeRO-1: the same steps, from states kept once over all ranks; torch's own beside."""

import sys
from dataclasses import replace

import pytest
import torch
from cloudpickle import register_pickle_by_value
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tiny_lm.config import ModelConfig, TrainConfig, preset
from tiny_lm.costs import FP32_RECIPE
from tiny_lm.gpus import comm, mesh
from tiny_lm.gpus.launch import Cluster
from tiny_lm.gpus.mesh import Group
from tiny_lm.job import Job
from tiny_lm.layout import Layout
from tiny_lm.model import LanguageModel, is_expert
from tiny_lm.parallel import shard
from tiny_lm.parallel.buckets import flatten, slice_length
from tiny_lm.parallel.holdings import Copies, held_bytes, sent_bytes
from tiny_lm.parallel.zero import ShardedOptimizer, cut, state_bytes
from tiny_lm.replay import specs
from tiny_lm.step import (
    build_model,
    build_optimizer,
    build_sharded_optimizer,
    build_worker,
    train_step,
)

register_pickle_by_value(sys.modules[__name__])  # so that ranks need not import pytest

TRAINING = TrainConfig(steps=4, batch_size=8, seq_len=32, warmup_steps=1)


@pytest.fixture(scope="module")
def four():
    with Cluster(4) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def two():
    with Cluster(2) as cluster:
        yield cluster


def test_an_equal_slice_cuts_parameters_where_it_must():
    matrix = nn.Parameter(torch.arange(6.0).view(2, 3))
    vector = nn.Parameter(-torch.arange(1.0, 4))
    slices = [
        [(piece.weights.tolist(), piece.is_matrix) for piece in pieces]
        for pieces in (cut([matrix, vector], rank, 2) for rank in (0, 1))
    ]
    assert slices == [
        [([0, 1, 2, 3, 4], True)],
        [([5], True), ([-1, -2, -3], False)],
    ]
    with torch.no_grad():
        cut([matrix, vector], 1, 2)[0].weights.mul_(10)
    assert matrix[1, 2] == 50  # a piece is the parameter's own memory


class Small(nn.Module):
    """Sizes that no number of ranks divides, and one parameter that few tokens use."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        draw = {"generator": generator, "dtype": torch.float64}
        self.first = nn.Parameter(torch.randn(5, 3, **draw))
        self.shift = nn.Parameter(torch.randn(5, **draw))
        self.rare = nn.Parameter(torch.randn(7, **draw))
        self.last = nn.Parameter(torch.randn(1, 5, **draw))

    def loss(self, x: Tensor) -> Tensor:
        """Sum over rows; `rare` takes part where the first number is above 0.8."""
        out = (x @ self.first.T + self.shift).tanh() @ self.last.T
        rare = x[:, 0] > 0.8
        extra = self.rare.square().sum() * rare.sum() if rare.any() else 0.0
        return out.square().sum() + extra


def _adamw(matrices: list, vectors: list) -> torch.optim.Optimizer:
    groups = [
        {"params": matrices, "weight_decay": 0.3},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], lr=0.05)


def _rows(step: int) -> Tensor:
    """Eight, of which the last alone uses `rare`, and not in every step."""
    generator = torch.Generator().manual_seed(step)
    x = torch.rand(8, 3, generator=generator, dtype=torch.float64) - 0.5
    x[7, 0] += step % 2
    return x


def _small_steps(rank: int, bucket_bytes: int) -> tuple[list[float], dict, int]:
    group, model = mesh.world(), Small()
    optimizer = ShardedOptimizer(model, group, lambda _: False, _adamw, bucket_bytes)
    norms = []
    for step in range(1, 6):
        model.loss(_rows(step).chunk(group.size)[group.rank]).backward()
        shared, own = optimizer.agree()
        norms.append((shared + comm.all_reduce(own, group)).sqrt())
        optimizer.clip_to(2.0, norms[-1])
        optimizer.step()
        optimizer.zero_grad()
    norms = torch.stack(norms).tolist()
    return norms, dict(model.state_dict()), state_bytes(optimizer)


def _small_alone() -> tuple[list[float], dict]:
    model = Small()
    vectors = [model.shift, model.rare]
    optimizer = _adamw([model.first, model.last], vectors)
    norms = []
    for step in range(1, 6):
        model.loss(_rows(step)).backward()
        norms.append(nn.utils.clip_grad_norm_(model.parameters(), 2.0).item())
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    return norms, dict(model.state_dict())


@pytest.mark.parametrize("bucket_bytes", [1, 100, 10_000])
def test_weights_and_norms_equal_those_of_one_process(two, four, bucket_bytes):
    norms, weights = _small_alone()
    found = [_small_steps(0, bucket_bytes)]
    for cluster in (two, four):
        found += cluster.run(_small_steps, bucket_bytes)
    for measured, moved, _ in found:
        assert measured == pytest.approx(norms, rel=1e-12)
        for name, weight in weights.items():
            assert torch.allclose(moved[name], weight, rtol=0, atol=1e-12), name


def test_states_are_kept_once_over_all_ranks(two, four):
    whole = 2 * 8 * (15 + 5 + 7 + 5)
    assert _small_steps(0, 100)[2] == whole
    for cluster in (two, four):
        kept = [num_bytes for *_, num_bytes in cluster.run(_small_steps, 10_000)]
        assert sum(kept) == whole
        assert max(kept) == whole // cluster.world_size


def _config(**fp8) -> ModelConfig:
    """Small, with experts, a module for a further token, and FP8 if asked for."""
    config = replace(preset("tiny"), num_layers=2, num_mtp=1)
    return replace(config, fp8=replace(config.fp8, **fp8) if fp8 else None)


def _skew(model: nn.Module) -> None:
    """Let expert 3 be chosen by everyone, and experts 8 to 11, a rank of 4, by none."""
    for router in model.routers:
        router.bias[3] += 10.0
        router.bias[8:12] -= 10.0


def _tokens(group: Group, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(step)
    batch = torch.randint(256, (8, 33), generator=generator)
    return batch.chunk(group.size)[group.rank]


def _gradients(rank: int, config: ModelConfig, sharded: bool) -> dict[str, Tensor]:
    """Every gradient of the whole model."""
    group = mesh.world()
    model = build_model(config, group, seed=1)
    _skew(model)
    optimizer = build_sharded_optimizer(model, TRAINING, group) if sharded else None
    (model.loss(_tokens(group, 0)).total / group.size).backward()
    if optimizer is None:
        return {name: p.grad for name, p in model.named_parameters()}
    optimizer.agree()
    for bucket, pieces in zip(optimizer.buckets.buckets, optimizer.pieces, strict=True):
        gradients = [piece.weights.grad for piece in pieces]
        part = flatten(gradients, slice_length(bucket, group.size), bucket[0])
        whole = comm.all_gather(part, group)
        for parameter in bucket:
            parameter.grad = whole[: parameter.numel()].view_as(parameter)
            whole = whole[parameter.numel() :]
    return {
        name: comm.all_gather(p.grad, group) if is_expert(name) else p.grad
        for name, p in model.named_parameters()
    }


def test_every_gradient_equals_that_of_one_process(two, four):
    wanted = _gradients(0, _config(), sharded=False)
    assert not wanted["blocks.1.ffn.experts.gate_up"][8:12].any()
    for cluster in (two, four):
        for found in cluster.run(_gradients, _config(), True):
            for name, gradient in wanted.items():
                scale = gradient.abs().max().clamp(min=1e-3)
                difference = (found[name] - gradient).abs().max()
                assert difference / scale < 1e-5, name


def _train(rank: int, config: ModelConfig, sharded: bool, clip: float) -> tuple:
    """Three steps: losses and lengths of gradients, and every weight."""
    group = mesh.world()
    model = build_model(config, group, seed=1)
    _skew(model)
    if sharded:
        optimizer = sums = build_sharded_optimizer(model, TRAINING, group)
    else:
        optimizer, sums = build_optimizer(model, TRAINING), None
    steps = [
        train_step(model, optimizer, _tokens(group, step), group, clip, sums)
        for step in range(3)
    ]
    state = shard.gather_state(model, group, is_expert)
    told = [metrics[name] for metrics in steps for name in ("loss", "grad_norm")]
    return told, {name: value.clone() for name, value in state.items()}


@pytest.mark.parametrize("fp8", [{}, {"masters": "fp8"}])
def test_two_ranks_learn_bit_for_bit_what_they_do_without(two, fp8):
    # Two numbers have one sum; nothing is clipped, for lengths are summed elsewhere.
    plain, sharded = (
        two.run(_train, _config(**fp8), how, 1e9) for how in (False, True)
    )
    for (_, weights), (_, wanted) in zip(sharded, plain, strict=True):
        for name, weight in wanted.items():
            assert torch.equal(weights[name], weight), name


def test_one_rank_and_four_learn_the_same(four):
    told, weights = _train(0, _config(), False, 0.5)
    alone = _train(0, _config(), True, 0.5)
    for other, found in [alone, *four.run(_train, _config(), True, 0.5)]:
        assert other == pytest.approx(told, rel=1e-5)
        for name, weight in weights.items():
            # Adam divides by the gradient's own size: where that is nothing but
            # rounding, single weights move apart.
            assert (found[name] - weight).abs().mean() < 1e-6, name


def _sent(rank: int) -> tuple[int, dict, dict, int, int]:
    """Of one step: states, bytes and calls by kind, shared and experts' numbers."""
    group = mesh.world()
    model = build_model(_config(), group, seed=1)
    optimizer = build_sharded_optimizer(model, TRAINING, group)
    with comm.metering() as meter:
        train_step(model, optimizer, _tokens(group, 0), group, 1.0, optimizer)
    shared = shard.shared_parameters(model, is_expert).values()
    numbers = sum(p.numel() for p in shared)
    experts = sum(p.numel() for p in shard.expert_parameters(model, is_expert))
    states = state_bytes(optimizer)
    return states, dict(meter.num_bytes), dict(meter.calls), numbers, experts


def test_it_holds_and_sends_what_the_closed_forms_say(two, four):
    for cluster in (two, four):
        size = cluster.world_size
        for states, sent, calls, shared, experts in cluster.run(_sent):
            copies = Copies(shared, size)
            held = held_bytes([copies, Copies(experts, 1)], FP32_RECIPE, 1)
            assert states == held["optimizer"]
            assert sent["reduce_scatter"] == sent["all_gather"]
            both = sent["reduce_scatter"] + sent["all_gather"]
            assert both == sent_bytes(copies, 1, weight=4, gradient=4)
            assert both == sent_bytes(copies, 0, weight=4, gradient=4)  # all-reduce
            assert calls["reduce_scatter"] == calls["all_gather"] > 1
            assert calls["all_reduce"] == 1  # losses, loads and lengths


def _recorded(rank: int) -> tuple:
    job = Job(config=_config(), training=TRAINING, ranks=2, layout=Layout(zero=True))
    worker = build_worker(job, mesh.world(), "cpu")
    worker.step(_tokens(worker.group, 0))
    return worker.record(_tokens(worker.group, 1))


def test_a_worker_records_the_same_step_from_the_same_seed(two):
    runs = [two.run(_recorded) for _ in range(2)]
    first, again = (specs.emulate(tape for _, tape in run) for run in runs)
    assert first == again
    assert first["scaled_twin"]["hidden_comm_ms"] > 0
    assert runs[0][0][0]["loss"] == runs[1][0][0]["loss"]


class Whole(nn.Module):
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


def test_a_dense_model_learns_as_with_torchs_own(two, four):
    for cluster in (two, four):
        for norms, theirs, apart in cluster.run(_both, _dense()):
            assert norms == pytest.approx(theirs, rel=1e-5)
            assert apart < 1e-6


def _dense() -> ModelConfig:
    return replace(preset("tiny_dense"), num_layers=2, num_dense_layers=2)
