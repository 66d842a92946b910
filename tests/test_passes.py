"""Passes written by hand against those that PyTorch derives."""

import pytest
import torch
import torch.nn.functional as F

from tiny_lm import passes
from tiny_lm.attention import attend


def _normal(*shape: int, seed: int = 0, dtype=torch.float64) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


def _with_gradients(function, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    y = function(*leaves)
    y.backward(_normal(*y.shape, seed=9, dtype=y.dtype))
    return [y.detach(), *(x.grad for x in leaves)]


def _both_equal(fast, slow, inputs, atol=1e-12) -> None:
    results = (_with_gradients(function, inputs) for function in (fast, slow))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=atol)


def test_a_row_is_divided_by_its_root_mean_square():
    x, weight = torch.tensor([[3.0, 4.0]]), torch.tensor([1.0, 2.0])
    wanted = torch.tensor([[3.0, 8.0]]) / 12.5**0.5
    assert torch.allclose(passes.rms_norm(x, weight, 0.0), wanted)


@pytest.mark.parametrize("shape", [(3, 4), (2, 5, 8), (1, 1), (0, 4)])
@pytest.mark.parametrize("eps", [1e-6, 0.5])
def test_the_norm_equals_torchs_forward_and_backward(shape, eps):
    def slow(x, weight):
        return F.rms_norm(x, weight.shape, weight, eps)

    inputs = [_normal(*shape), _normal(shape[-1], seed=1)]
    _both_equal(lambda x, w: passes.rms_norm(x, w, eps), slow, inputs)


def test_a_row_of_zeros_stays_zero_and_has_a_gradient():
    y, grad, _ = _with_gradients(
        lambda x, w: passes.rms_norm(x, w, 1e-6), [torch.zeros(1, 4), torch.ones(4)]
    )
    assert not y.any() and grad.isfinite().all() and grad.any()


def _by_definition(q, k, v, scale):
    with torch.autocast("cpu", enabled=True, dtype=torch.bfloat16):  # suits nobody
        assert not passes.suit(q, k, v)
    future = torch.full((q.shape[-2],) * 2, float("-inf"), dtype=q.dtype).triu(1)
    return (q @ k.mT * scale + future).softmax(dim=-1) @ v


@pytest.mark.parametrize("num_positions", [1, 5, 64, 65, 130, 192])
def test_attention_in_blocks_equals_its_definition(num_positions):
    q, k = (_normal(2, 3, num_positions, 8, seed=s) for s in (1, 2))
    v = _normal(2, 3, num_positions, 6, seed=3)
    _both_equal(
        lambda *qkv: passes.causal_attention(*qkv, 0.4),
        lambda *qkv: _by_definition(*qkv, 0.4),
        [q, k, v],
    )


def test_attention_takes_tensors_that_are_no_contiguous_blocks():
    q, k, v = (_normal(2, 70, 3, 8, seed=s).transpose(1, 2) for s in range(3))
    _both_equal(
        lambda *qkv: passes.causal_attention(*qkv, 0.4),
        lambda *qkv: _by_definition(*qkv, 0.4),
        [q, k, v],
    )


def test_scores_beyond_what_exp_can_hold_are_no_trouble():
    q, k, v = (_normal(1, 1, 66, 4, seed=s, dtype=torch.float32) for s in range(3))
    results = _with_gradients(
        lambda *qkv: passes.causal_attention(*qkv, 1.0), [1e3 * q, k, v]
    )
    assert all(x.isfinite().all() for x in results)


def test_they_are_for_gradients_in_fp32_and_fp64_on_a_cpu():
    x, y = torch.ones(2).requires_grad_(), torch.ones(2)
    assert passes.suit(x, y) and passes.suit(x.double(), y.double())
    assert not passes.suit(y, y)
    assert not passes.suit(x, y.double()) and not passes.suit(x.bfloat16())
    assert not passes.suit(x, torch.ones(2, device="meta"))
    with torch.no_grad():
        assert not passes.suit(x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not passes.suit(x, y)


def test_attention_in_training_goes_this_way_and_through_a_cache_another(monkeypatch):
    asked = []
    real = passes.causal_attention
    monkeypatch.setattr(
        passes, "causal_attention", lambda *a: asked.append(len(a)) or real(*a)
    )
    q, k = _normal(1, 2, 3, 4).requires_grad_(), _normal(1, 2, 5, 4)
    attend(q, k[:, :, :3], k[:, :, :3], 0.5)
    assert asked == [4]
    attend(q, k, k, 0.5)  # the newest three of five positions
    attend(q, k[:, :1, :3], k[:, :1, :3], 0.5)  # one key for all heads
    attend(q.detach(), k[:, :, :3], k[:, :, :3], 0.5)
    assert asked == [4]
