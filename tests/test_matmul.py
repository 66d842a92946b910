"""Products by oneDNN against the plain ones."""

import pytest
import torch
import torch.nn.functional as F

from tiny_lm import matmul
from tiny_lm.gpus.recorder import recording

SHAPES = [(5, 3, 2), (64, 32, 96), (64, 96, 32), (1, 7, 7)]


def _normal(*shape: int, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype)


def test_times_multiplies_by_the_transpose():
    a, b = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 4.0], [5.0, 6.0]])
    assert matmul.times(a, b).tolist() == [[11.0, 17.0]]


def test_outer_sums_over_rows():
    a, b = torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([[3.0], [4.0]])
    assert matmul.outer(a, b).tolist() == [[3.0], [10.0]]


@pytest.mark.parametrize(("n", "k", "m"), SHAPES)
def test_both_products_equal_the_plain_ones(n, k, m):
    a, b, g = _normal(n, k), _normal(m, k, seed=1), _normal(n, m, seed=2)
    exact = a.double() @ b.double().T
    assert torch.allclose(matmul.times(a, b).double(), exact, atol=1e-4)
    assert torch.allclose(
        matmul.times(g, b.T).double(), g.double() @ b.double(), atol=1e-4
    )
    exact = g.double().T @ a.double()
    assert torch.allclose(matmul.outer(g, a).double(), exact, atol=1e-4)


@pytest.mark.parametrize("plain", [True, False])
def test_linear_equals_torchs_forward_and_backward(plain, monkeypatch):
    monkeypatch.setattr(matmul, "HAS_ONEDNN", matmul.HAS_ONEDNN and not plain)
    grad = _normal(2, 5, 6, seed=2)
    results = []
    for product in (matmul.linear, F.linear):
        x = _normal(2, 5, 3).requires_grad_()
        weight = _normal(6, 3, seed=1).requires_grad_()
        y = product(x, weight)
        y.backward(grad)
        results.append((y, x.grad, weight.grad))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_linear_computes_only_the_gradients_that_are_asked_for():
    x, weight = _normal(5, 3), _normal(6, 3, seed=1).requires_grad_()
    matmul.linear(x, weight).sum().backward()
    assert x.grad is None and weight.grad.shape == (6, 3)


@pytest.mark.skipif(not matmul.HAS_ONEDNN, reason="this torch has no oneDNN")
def test_fp32_on_a_cpu_goes_to_onednn_and_other_dtypes_do_not():
    x, weight = _normal(4, 3), _normal(2, 3)
    with torch.profiler.profile() as profile:
        matmul.linear(x, weight)
        matmul.linear(x.double(), weight.double())
    called = {event.key: event.count for event in profile.key_averages()}
    assert called["mkldnn::_linear_pointwise"] == 1
    assert called["aten::linear"] == 1


def test_to_a_recorder_a_product_is_the_same_by_either_library(monkeypatch):
    tapes = []
    for has in {matmul.HAS_ONEDNN, False}:
        monkeypatch.setattr(matmul, "HAS_ONEDNN", has)
        x, weight = _normal(4, 3).requires_grad_(), _normal(2, 3).requires_grad_()
        with recording(0) as recorder:
            matmul.linear(x, weight).backward(torch.ones(4, 2))
        tapes.append([r for r in recorder.tape().records if r.flops])
    forward, backward = [("mm", 48)], [("mm backward", 48)] * 2
    for tape in tapes:
        assert [(r.name, r.flops) for r in tape] == forward + backward


def test_no_rows_give_no_rows_and_a_gradient_of_zeros():
    x, weight = _normal(0, 3).requires_grad_(), _normal(6, 3).requires_grad_()
    y = matmul.linear(x, weight)
    y.sum().backward()
    assert y.shape == (0, 6)
    assert torch.equal(weight.grad, torch.zeros(6, 3))
