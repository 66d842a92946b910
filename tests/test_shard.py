"""What ranks agree on: gradients, their norm, the state of the whole model."""

import sys

import pytest
import torch
from cloudpickle import register_pickle_by_value
from torch import Tensor, nn

from tiny_lm.gpus import comm, mesh
from tiny_lm.gpus.launch import run_ranks
from tiny_lm.parallel import shard

register_pickle_by_value(sys.modules[__name__])  # so that ranks need not import pytest


class Model(nn.Module):
    """Two shared parameters, a frozen one, a buffer, and three experts a rank."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.ones(2, 3))
        self.unused = nn.Parameter(torch.ones(4))
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.register_buffer("bias", torch.zeros(()))
        expert = torch.arange(3.0) + 3 * rank
        self.experts = nn.Parameter(expert.view(3, 1, 1).repeat(1, 2, 2))


def _is_expert(name: str) -> bool:
    return name == "experts"


def _gradients(rank: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(rank)
    return {
        "matrix": torch.randn(2, 3, generator=generator),
        "experts": torch.randn(3, 2, 2, generator=generator),
    }


def _model_with_gradients(rank: int) -> Model:
    model = Model(rank)
    for name, gradient in _gradients(rank).items():
        getattr(model, name).grad = gradient
    if rank == 1:
        model.unused.grad = torch.full((4,), 2.0)
    return model


def _agree(rank, max_norm):
    model, group = _model_with_gradients(rank), mesh.world()
    with comm.metering() as meter:
        shard.sum_gradients(model, group, _is_expert)
    summed = {
        n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None
    }
    norm = shard.gradient_norm(model, group, _is_expert)
    returned = shard.clip_gradients(model, max_norm, group, _is_expert)
    clipped = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return summed, norm, returned, clipped, meter


@pytest.mark.parametrize("size", [2, 4])
def test_shared_gradients_are_summed_and_clipped_with_those_of_all_experts(size):
    given = [_gradients(rank) for rank in range(size)]
    matrix = sum(gradients["matrix"] for gradients in given)
    unused = torch.full((4,), 2.0)
    parts = [matrix, unused, *(gradients["experts"] for gradients in given)]
    norm = torch.cat([part.flatten() for part in parts]).norm()
    for rank, result in enumerate(run_ranks(size, _agree, 1.5)):
        summed, measured, returned, clipped, meter = result
        assert torch.allclose(summed["matrix"], matrix)
        assert torch.equal(summed["unused"], unused)
        assert torch.equal(summed["experts"], given[rank]["experts"])
        assert "frozen" not in summed
        assert torch.allclose(measured, norm) and torch.equal(returned, measured)
        for name, gradient in clipped.items():
            assert torch.allclose(gradient, summed[name] * 1.5 / norm, atol=1e-5)
        assert meter.num_bytes == {"all_reduce": 2 * (size - 1) * 40 // size}
        assert meter.calls == {"all_reduce": 1}


def test_a_short_gradient_is_left_as_it_is():
    model = _model_with_gradients(0)
    before = model.matrix.grad.clone()
    shard.clip_gradients(model, 1000.0, mesh.solo(), _is_expert)
    assert torch.equal(model.matrix.grad, before)


def test_one_rank_has_nothing_to_agree_on():
    model = _model_with_gradients(0)
    shard.sum_gradients(model, mesh.solo(), _is_expert)
    assert torch.equal(model.matrix.grad, _gradients(0)["matrix"])
    assert model.unused.grad is None


def _whole_state(rank):
    return shard.gather_state(Model(rank), mesh.world(), _is_expert)


def test_the_whole_state_has_every_expert_in_order():
    for state in run_ranks(2, _whole_state):
        assert state["experts"][:, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]
        assert state["matrix"].shape == (2, 3)
        assert set(state) == set(Model(0).state_dict())


def _check(rank, changed):
    model = Model(rank)
    if rank == 1 and changed:
        model.matrix.data[1, 2] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))
        model.bias += 1
    shard.check_shared(model, mesh.world(), _is_expert)


def test_ranks_that_start_from_different_weights_are_told_which():
    run_ranks(2, _check, False)  # experts differ, and may
    with pytest.raises(RuntimeError, match="different values of matrix, bias"):
        run_ranks(2, _check, True)
