"""The parts that every transformer has."""

import math

import pytest
import torch
import torch.nn.functional as F

from tiny_lm.layers import (
    Linear,
    RMSNorm,
    SwiGLU,
    rotary_table,
    rotate,
    swiglu,
)


def _normal(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


def test_rotate_turns_each_pair_of_neighbours_by_its_angle():
    cos, sin = rotary_table(d_rope=2, max_len=2)
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    wanted = [[1.0, 0.0], [math.cos(1.0), math.sin(1.0)]]
    assert torch.allclose(rotate(x, cos, sin), torch.tensor(wanted).double())


def test_rotated_dot_products_depend_on_the_distance_alone():
    cos, sin = rotary_table(d_rope=8, max_len=64)
    q, k = _normal(8), _normal(8, seed=1)

    def score(t: int, s: int) -> torch.Tensor:
        turned_q = rotate(q[None], cos[t : t + 1], sin[t : t + 1])
        turned_k = rotate(k[None], cos[s : s + 1], sin[s : s + 1])
        return (turned_q * turned_k).sum()

    assert torch.allclose(score(9, 4), score(55, 50), atol=1e-12)
    assert not torch.allclose(score(9, 4), score(9, 5), atol=1e-3)


def test_a_slice_behind_an_odd_width_is_rotated_too():
    cos, sin = rotary_table(4, 1)
    x = _normal(1, 7)
    assert torch.equal(rotate(x[:, 3:], cos, sin), rotate(x[:, 3:].clone(), cos, sin))


def test_a_larger_theta_turns_the_later_pairs_more_slowly():
    slow, fast = rotary_table(4, 2, theta=1e6)[1], rotary_table(4, 2, theta=1e2)[1]
    assert slow[1, 0] == fast[1, 0]
    assert slow[1, 1] < fast[1, 1]


def test_an_odd_rotary_width_is_refused():
    with pytest.raises(ValueError, match="d_rope must be even, got 3"):
        rotary_table(3, 4)


def test_rms_norm_divides_by_the_root_mean_square_and_keeps_the_mean():
    norm = RMSNorm(2, eps=0.0)
    assert torch.allclose(
        norm(torch.tensor([3.0, 4.0])), torch.tensor([3.0, 4.0]) / 12.5**0.5
    )
    assert norm(torch.tensor([3.0, 4.0])).mean() != 0


def test_swiglu_gates_with_the_first_half():
    gate, up = torch.tensor([2.0]), torch.tensor([3.0])
    wanted = 2 / (1 + math.exp(-2.0)) * 3
    assert swiglu(torch.cat([gate, up])).item() == pytest.approx(wanted)


def test_the_matmul_passed_in_is_the_one_used():
    def doubled(x, weight):
        return 2 * F.linear(x, weight)

    layer, twin = Linear(4, 3, doubled), Linear(4, 3)
    for one in (layer, twin):
        torch.nn.init.ones_(one.weight)
    x = torch.ones(2, 4)
    assert torch.equal(layer(x), 2 * twin(x))
    ffn = SwiGLU(4, 6, doubled)
    assert ffn.gate_up.matmul is doubled
    assert ffn.down.matmul is doubled
