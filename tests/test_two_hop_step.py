"""A whole training step by two hops: loss and all gradients as on one process."""

import sys
from dataclasses import replace

import pytest
import torch
from cloudpickle import register_pickle_by_value

from tiny_lm.config import ModelConfig, tiny
from tiny_lm.gpus import comm
from tiny_lm.gpus.launch import run_ranks
from tiny_lm.gpus.mesh import Mesh, world
from tiny_lm.model import LanguageModel, is_expert
from tiny_lm.parallel import shard
from tiny_lm.parallel.two_hop import TwoHopDispatcher, most_nodes
from tiny_lm.parallel.wire import fp8_wire

register_pickle_by_value(sys.modules[__name__])  # so that ranks need not import pytest

SEQUENCES, SEQ_LEN, TILE = 8, 24, 32


def _config() -> ModelConfig:
    return replace(tiny(), num_layers=2, fp8=None)


def _tokens() -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randint(256, (SEQUENCES, SEQ_LEN + 1), generator=generator)


def _step(model: LanguageModel, tokens: torch.Tensor):
    """The mean loss and every gradient of the whole model."""
    group = world()
    loss = model.loss(tokens).total / group.size
    loss.backward()
    shard.sum_gradients(model, group, is_expert)
    gradients = {
        name: comm.all_gather(p.grad, group) if is_expert(name) else p.grad
        for name, p in model.named_parameters()
    }
    return float(comm.all_reduce(loss.detach(), group)), gradients


def _on_ranks(rank, grid, wires):
    config, axes = _config(), Mesh({"node": grid[0], "place": grid[1]})
    results = []
    for wire in wires:
        dispatcher = TwoHopDispatcher(
            config.moe.num_experts,
            axes["node"],
            axes["place"],
            wire=wire,
            max_nodes=most_nodes(config.moe, grid[0]),
        )
        model = LanguageModel(config, dispatcher, seed=0)
        results.append(_step(model, _tokens().chunk(world().size)[rank]))
    return results


@pytest.fixture(scope="module")
def alone():
    return _step(LanguageModel(_config(), None, seed=0), _tokens())


@pytest.mark.parametrize("grid", [(2, 1), (2, 2), (2, 4), (4, 2)])
def test_loss_and_all_gradients_equal_those_of_one_process(grid, alone):
    plain_loss, plain_gradients = alone
    by_rank = run_ranks(grid[0] * grid[1], _on_ranks, grid, [None, fp8_wire(TILE)])
    for (loss, gradients), (rounded_loss, rounded) in by_rank[:1] + by_rank[-1:]:
        assert loss == pytest.approx(plain_loss, abs=1e-5)
        assert gradients.keys() == plain_gradients.keys()
        for name, wanted in plain_gradients.items():
            apart = (gradients[name] - wanted).norm() / wanted.norm()
            assert apart < 1e-5, name
            # FP8 rounds a value by at most a sixteenth; so does no gradient as a whole.
            error = (rounded[name] - wanted).norm() / wanted.norm()
            assert 1e-6 < error < 2**-3, name
        assert rounded_loss == pytest.approx(plain_loss, abs=1e-3)
