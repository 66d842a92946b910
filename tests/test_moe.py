"""Experts: rows, the way there and back, and the mixture against a loop over tokens."""

import pytest
import torch

from tiny_lm import matmul
from tiny_lm.config import MoEConfig
from tiny_lm.layers import swiglu
from tiny_lm.matmul import ROW_MULTIPLE
from tiny_lm.moe import (
    LocalDispatcher,
    MoE,
    collect,
    sort_by_expert,
    spread,
    sum_at_tokens,
)


def _normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _experts(num_tokens: int, num_experts: int, top_k: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(num_tokens, num_experts, generator=generator).topk(top_k).indices


def _moe(num_shared: int = 1, d_model: int = 10, d_expert: int = 6) -> MoE:
    config = MoEConfig(
        num_experts=8,
        num_shared=num_shared,
        top_k=3,
        d_expert=d_expert,
        route_scale=2.5,
    )
    moe = MoE(config, d_model).double()
    for seed, weight in enumerate(moe.parameters()):
        weight.data.copy_(0.3 * _normal(*weight.shape, seed=seed))
    return moe


def _token_by_token(moe: MoE, x: torch.Tensor) -> torch.Tensor:
    """The definition, one token and one expert at a time."""
    weights, experts, _ = moe.router(x)
    out = torch.zeros_like(x)
    for b in range(x.shape[0]):
        for t in range(x.shape[1]):
            for weight, e in zip(weights[b, t], experts[b, t], strict=True):
                hidden = swiglu(moe.experts.gate_up[e] @ x[b, t])
                out[b, t] += weight * (moe.experts.down[e] @ hidden)
    return out if moe.shared is None else out + moe.shared(x)


def test_rows_are_sorted_by_expert_as_the_docstring_says():
    order = sort_by_expert(torch.tensor([[2, 0], [0, 1]]), num_experts=3)
    assert order.token_of_row.tolist() == [0, 1, 1, 0]
    assert order.row_of_choice.tolist() == [[3, 0], [1, 2]]
    assert order.ends.tolist() == [2, 3, 4]


@pytest.mark.parametrize("row_multiple", [1, 4, 32])
def test_padding_fills_each_expert_up_to_a_multiple_with_zeros(row_multiple):
    experts = _experts(21, 6, 2)
    order = sort_by_expert(experts, 7, row_multiple)  # expert 6 gets nobody
    counts = experts.flatten().bincount(minlength=7)
    sizes = order.ends.diff(prepend=order.ends.new_zeros(1))
    assert torch.equal(sizes, (-(-counts // row_multiple) * row_multiple).int())
    rows = spread(1 + torch.rand(21, 3), order)
    assert (rows == 0).all(-1).sum() == sizes.sum() - counts.sum()
    for e, (end, size) in enumerate(zip(order.ends, sizes, strict=True)):
        tokens = order.token_of_row[end - size : end][: counts[e]]
        assert torch.equal(tokens, (experts == e).any(-1).nonzero().squeeze(-1))


def test_rows_are_summed_at_their_token_weighted_or_not():
    order = sort_by_expert(torch.tensor([[2, 0], [0, 1]]), num_experts=3)
    rows = torch.tensor([[1.0], [10.0], [100.0], [1000.0]])
    assert sum_at_tokens(rows, order).tolist() == [[1001.0], [110.0]]
    weights = torch.tensor([[0.5, 2.0], [1.0, 0.0]])
    assert sum_at_tokens(rows, order, weights).tolist() == [[502.0], [10.0]]


def test_collect_undoes_spread_when_the_weights_sum_to_one():
    x, order = _normal(9, 4), sort_by_expert(_experts(9, 5, 2), 5, 8)
    half = torch.full((9, 2), 0.5, dtype=torch.float64)
    assert torch.allclose(collect(spread(x, order), half, order), x)


def test_the_hand_written_backward_equals_numerical_gradients():
    order = sort_by_expert(_experts(5, 4, 2), 4, row_multiple=4)
    x, weights = _normal(5, 3).requires_grad_(), _normal(5, 2, seed=1).requires_grad_()

    def there_and_back(x, weights):
        return collect(spread(x, order).sin(), weights, order)

    assert torch.autograd.gradcheck(there_and_back, (x, weights))


@pytest.mark.parametrize("num_shared", [0, 1, 2])
def test_the_mixture_equals_a_loop_over_tokens(num_shared):
    moe = _moe(num_shared)
    x, slow_x = (_normal(2, 7, 10, seed=3).requires_grad_() for _ in range(2))
    fast = moe(x)[0]
    fast.square().sum().backward()
    fast_grads = [p.grad.clone() for p in moe.parameters()]
    moe.zero_grad()
    slow = _token_by_token(moe, slow_x)
    slow.square().sum().backward()
    assert torch.allclose(fast, slow, atol=1e-12)
    assert torch.allclose(x.grad, slow_x.grad, atol=1e-10)
    for fast_grad, p in zip(fast_grads, moe.parameters(), strict=True):
        assert torch.allclose(fast_grad, p.grad, atol=1e-10)


def test_padding_changes_nothing():
    moe, x = _moe(), _normal(2, 7, 10, seed=3)
    plain = moe(x)[0]
    moe.dispatcher = LocalDispatcher(8, row_multiple=16)
    assert torch.allclose(moe(x)[0], plain, atol=1e-12)


def test_a_plain_mixture_pads_to_what_its_product_wants():
    experts, x = _experts(21, 8, 3), _normal(21, 10)
    ends = _moe().dispatcher.dispatch(x, experts)[1]
    multiple = ROW_MULTIPLE if matmul.library() == "onednn" else 1
    padded = -(-experts.flatten().bincount(minlength=8) // multiple) * multiple
    assert torch.equal(ends.long(), padded.cumsum(0))


@pytest.mark.parametrize("library", matmul.LIBRARIES)
def test_equal_inputs_give_equal_bits(library, monkeypatch):
    monkeypatch.setattr(matmul, "WORTH_A_CALL", 0)
    # In FP32 PyTorch's grouped product takes multiples of 16 bytes alone.
    moe, x = _moe(1, 12, 8).float(), _normal(4, 64, 12, seed=3).float()
    moe.dispatcher = LocalDispatcher(8, row_multiple=ROW_MULTIPLE)
    runs = []
    for _ in range(3):
        moe.zero_grad()
        with matmul.multiplying_by(library):
            y = moe(x)[0]
            y.square().sum().backward()
        runs.append([y.detach(), *(p.grad for p in moe.parameters())])
    for first, *others in zip(*runs, strict=True):
        assert all(torch.equal(first, other) for other in others)


def test_an_expert_that_nobody_chose_gets_a_zero_gradient():
    moe, x = _moe(), _normal(1, 2, 10, seed=4)
    moe.router.bias[5] = -9.0
    moe(x)[0].sum().backward()
    assert not moe.experts.gate_up.grad[5].any()
    assert moe.experts.gate_up.grad.any()
