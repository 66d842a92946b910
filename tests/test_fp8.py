"""The three products of a layer in FP8, the weight cache, and how far off they are."""

import copy
import inspect
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tiny_lm import fp8
from tiny_lm.config import FP8Config
from tiny_lm.layers import Linear
from tiny_lm.quantize import (
    dequantize_blocks,
    dequantize_tiles,
    quantize_blocks,
    quantize_tiles,
)

TILE = 32


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def through_tiles(x):
    return dequantize_tiles(*quantize_tiles(x, TILE), TILE)


def through_blocks(weight):
    return dequantize_blocks(*quantize_blocks(weight, TILE), TILE)


def twin(x, weight, grad):
    """Fprop, Dgrad and Wgrad spelled out on true codes, with float64 sums."""
    kept, w = through_tiles(x), through_blocks(weight)
    y = kept.double() @ w.double().T
    dx = through_tiles(grad).double() @ w.double()
    grad_columns, x_columns = through_tiles(grad.T).T, through_tiles(kept.T).T
    return y, dx, grad_columns.double().T @ x_columns.double()


def run(product, x, weight, grad, *ends):
    x, weight = x.detach().requires_grad_(), weight.detach().requires_grad_()
    y = product(x, weight, *ends)
    return y.detach(), *torch.autograd.grad(y, (x, weight), grad)


def assert_equal_sums(got, wanted):
    """To the accuracy of FP32 sums."""
    error = (got.double() - wanted).norm()
    assert got.shape == wanted.shape
    assert error <= 1e-6 * wanted.norm()


def sqnr(got, wanted):
    """Signal over quantisation noise, in dB."""
    noise = (got.double() - wanted.double()).norm()
    return 20 * torch.log10(wanted.double().norm() / noise).item()


def grouped_inputs(counts, width=40, d_out=48):
    ends = torch.tensor(counts).cumsum(0).to(torch.int32)
    num_rows = sum(counts)
    rows, grad = normal(num_rows, width), normal(num_rows, d_out, seed=1)
    return rows, normal(len(counts), d_out, width, seed=2), grad, ends


# --- definition ---


def test_values_that_fp8_holds_multiply_exactly():
    x = torch.tensor([[448.0, 2.0], [-448.0, 16.0]])
    weight = torch.tensor([[448.0, 1.0], [0.5, -3.0]])
    assert torch.equal(fp8.matmul(x, weight, tile=2, block=2), x @ weight.T)


def test_the_weight_gradient_rounds_along_the_tokens():
    # A small token beside a large one: 1 x tile keeps both, tile x 1 loses the small.
    x = torch.tensor([[448.0 * 2**12], [1.0]])
    weight, grad = torch.ones(1, 1), torch.tensor([[0.0], [1.0]])
    y, _, dw = run(fp8.matmul, x, weight, grad)
    assert y[1].item() == 1.0
    assert dw.item() == 0.0


def test_products_carry_the_sizes_of_the_config():
    x, weight = normal(64, 64), normal(64, 64, seed=1)
    given = fp8.products(FP8Config(tile=16, block=32))
    assert given.row_multiple == 16
    wanted = fp8.matmul(x, weight, tile=16, block=32)
    assert torch.equal(given.linear(x, weight), wanted)
    ends = torch.tensor([64], dtype=torch.int32)
    assert torch.allclose(given.grouped(x, weight[None], ends), wanted, rtol=1e-5)
    for other in ({"tile": 32, "block": 32}, {"tile": 16, "block": 16}):
        assert not torch.equal(fp8.matmul(x, weight, **other), wanted)


# --- equivalence ---


@pytest.mark.parametrize(
    "shape",
    [(64, 96, 128), (50, 80, 40), (1, 32, 32), (64, 5, 7), (0, 32, 32)],
    ids=str,
)
def test_forward_and_backward_equal_the_codes_spelled_out(shape):
    num_rows, width, d_out = shape
    x, weight = normal(num_rows, width), normal(d_out, width, seed=1)
    grad = normal(num_rows, d_out, seed=2)
    matmul = fp8.products(FP8Config(tile=TILE, block=TILE)).linear
    got = run(matmul, x, weight, grad)
    for one, wanted in zip(got, twin(x, weight, grad), strict=True):
        assert one.dtype == torch.float32
        assert_equal_sums(one, wanted)


@pytest.mark.parametrize(
    "counts", [(32, 64, 32), (0, 96, 0, 32), (64, 0), (0, 0)], ids=str
)
def test_grouped_rows_equal_one_layer_an_expert(counts):
    rows, weight, grad, ends = grouped_inputs(counts)
    product = fp8.products(FP8Config(tile=TILE, block=TILE)).grouped
    y, dx, dw = run(product, rows, weight, grad, ends)
    assert y.shape == grad.shape and dx.shape == rows.shape and dw.shape == weight.shape
    for expert, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        wanted = twin(rows[start:end], weight[expert], grad[start:end])
        for got, want in zip(
            (y[start:end], dx[start:end], dw[expert]), wanted, strict=True
        ):
            assert_equal_sums(got, want)


def test_padding_rows_change_nothing():
    x, weight, grad = normal(33, 64), normal(48, 64, seed=1), normal(33, 48, seed=2)
    padded = [F.pad(t, (0, 0, 0, 31)) for t in (x, grad)]
    ends = torch.tensor([64], dtype=torch.int32)
    alone = run(lambda x, w: fp8.matmul(x, w, TILE, TILE), x, weight, grad)
    product = fp8.products(FP8Config(tile=TILE, block=TILE)).grouped
    y, dx, dw = run(product, padded[0], weight[None], padded[1], ends)
    for got, wanted in zip((y[:33], dx[:33], dw[0]), alone, strict=True):
        assert_equal_sums(got, wanted.double())


@pytest.mark.parametrize("size", [32, 128])
def test_each_rounding_adds_noise_of_about_31_db_below_the_signal(size):
    x, weight = normal(256, 512), normal(256, 512, seed=1) / 512**0.5
    grad = normal(256, 256, seed=2)
    product = fp8.products(FP8Config(tile=size, block=size)).linear
    exact = run(F.linear, x, weight, grad)
    y, dx, dw = map(sqnr, run(product, x, weight, grad), exact)
    # Two roundings for Y and dX: 3 dB less. Three for dW, whose X was rounded twice.
    assert y == pytest.approx(31.7 - 3.0, abs=0.5)
    assert dx == pytest.approx(31.7 - 3.0, abs=0.5)
    assert dw == pytest.approx(31.7 - 4.8, abs=0.8)


def test_float64_inputs_are_computed_in_fp32_and_return_as_float64():
    x, weight = normal(32, 64), normal(32, 64, seed=1)
    got = run(fp8.matmul, x.double(), weight.double(), normal(32, 32).double())
    wanted = run(fp8.matmul, x, weight, normal(32, 32))
    for one, other in zip(got, wanted, strict=True):
        assert one.dtype == torch.float64
        assert torch.equal(one, other.double())
    rows, experts, grad, ends = grouped_inputs((128, 128))
    y = fp8.grouped(rows.double(), experts.double(), ends)
    assert torch.equal(y, fp8.grouped(rows, experts, ends).double())


def test_only_wanted_gradients_are_made():
    x, weight, grad = normal(32, 64), normal(32, 64, seed=1), normal(32, 32, seed=2)
    _, dx, dw = run(fp8.matmul, x, weight, grad)
    frozen = x.clone().requires_grad_()
    fp8.matmul(frozen, weight).backward(grad)
    assert torch.equal(frozen.grad, dx) and weight.grad is None
    trained = weight.clone().requires_grad_()
    fp8.matmul(x, trained).backward(grad)
    assert torch.equal(trained.grad, dw) and x.grad is None


# --- the weight is rounded once until it changes ---


@pytest.fixture
def count(monkeypatch):
    """How often weights were rounded."""
    calls = []

    def counting(weight, block):
        calls.append(block)
        return original(weight, block)

    original = fp8.fake_quantize_blocks
    monkeypatch.setattr(fp8, "fake_quantize_blocks", counting)
    return lambda: len(calls)


def test_micro_batches_and_generation_reuse_the_rounded_weight(count):
    weight = nn.Parameter(normal(32, 32))
    for seed in range(3):
        fp8.matmul(normal(32, 32, seed=seed), weight).sum().backward()
    with torch.inference_mode():
        fp8.matmul(normal(1, 32), weight)
    assert count() == 1


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.AdamW(p, foreach=False),
        lambda p: torch.optim.AdamW(p, foreach=True),
        lambda p: torch.optim.AdamW(p, fused=True),
        lambda p: torch.optim.SGD(p, lr=0.1),
    ],
    ids=["adamw", "foreach", "fused", "sgd"],
)
def test_an_optimizer_step_rounds_the_weight_again(count, optimizer):
    weight = nn.Parameter(normal(32, 32))
    step = optimizer([weight])
    for _ in range(3):
        before = fp8.rounded_weight(weight, 32)
        fp8.matmul(normal(32, 32), weight, block=32).sum().backward()
        step.step()
        assert not torch.equal(fp8.rounded_weight(weight, 32), before)
    assert count() == 4


def change_in_place(layer):
    with torch.no_grad():
        layer.weight.mul_(3)


def load(layer):
    layer.load_state_dict({"weight": normal(32, 32, seed=9)})


def load_by_assignment(layer):
    layer.load_state_dict({"weight": normal(32, 32, seed=9)}, assign=True)


def give_new_data(layer):
    layer.weight.data = normal(32, 32, seed=9)


def write_through_data(layer):
    layer.weight.data.mul_(3)


def write_through_numpy(layer):
    layer.weight.detach().numpy()[:] = 2.0


@pytest.mark.parametrize(
    "change",
    [
        change_in_place,
        load,
        load_by_assignment,
        give_new_data,
        write_through_data,
        write_through_numpy,
    ],
)
def test_every_change_is_seen(change):
    layer = Linear(32, 32, fp8.matmul)
    nn.init.ones_(layer.weight)
    x = normal(4, 32)
    before = layer(x)
    change(layer)
    assert torch.equal(layer(x), fp8.matmul(x, layer.weight.detach().clone()))
    assert not torch.equal(layer(x), before)


def test_each_block_size_has_its_own_rounding():
    weight = nn.Parameter(normal(64, 64))
    small = fp8.rounded_weight(weight, 16)
    assert torch.equal(fp8.rounded_weight(weight, 64), through_block(weight, 64))
    assert torch.equal(fp8.rounded_weight(weight, 16), small)


def through_block(weight, block):
    return dequantize_blocks(*quantize_blocks(weight.detach(), block), block)


def test_what_was_rounded_while_generating_serves_the_next_training_step():
    weight = nn.Parameter(normal(32, 32))
    with torch.inference_mode():
        fp8.matmul(normal(1, 32), weight)
    fp8.matmul(normal(32, 32).requires_grad_(), weight).sum().backward()
    assert weight.grad is not None


def test_weights_made_in_inference_mode_work():
    with torch.inference_mode():
        weight = normal(32, 32)
        first = fp8.matmul(normal(4, 32), weight)
        weight.mul_(2)
        assert torch.equal(fp8.matmul(normal(4, 32), weight), 2 * first)


def test_a_rounded_weight_goes_when_its_weight_goes():
    weight = nn.Parameter(normal(32, 32))
    fp8.matmul(normal(1, 32), weight)
    before = len(fp8._rounded_weights)
    del weight
    assert len(fp8._rounded_weights) == before - 1


def test_layers_can_be_copied_and_pickled():
    layer = Linear(32, 32, fp8.products(FP8Config(tile=32, block=32)).linear)
    nn.init.ones_(layer.weight)
    x = normal(4, 32)
    y = layer(x)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), y)
        change_in_place(other)
        assert not torch.equal(other(x), y)
        assert torch.equal(layer(x), y)


# --- message ---


def test_unequal_widths_are_refused():
    with pytest.raises(ValueError, match="x is 3 wide, but the weight takes 4"):
        inspect.unwrap(fp8.matmul)(torch.ones(2, 3), torch.ones(5, 4))


def test_unpadded_rows_are_refused():
    ends = torch.tensor([33], dtype=torch.int32)
    with pytest.raises(ValueError, match="padded to a multiple of tile=32, got 33"):
        fp8.grouped(normal(33, 4), normal(1, 2, 4), ends, tile=32)


# --- training ---


def test_a_small_regression_learns_as_in_fp32():
    losses = []
    target = normal(64, 32, seed=5)
    for matmul in (F.linear, fp8.products(FP8Config(tile=32, block=32)).linear):
        layer = Linear(64, 32, matmul)
        nn.init.zeros_(layer.weight)
        step = torch.optim.AdamW(layer.parameters(), lr=0.02)
        for i in range(100):
            x = normal(64, 64, seed=i)
            loss = F.mse_loss(layer(x), x @ target)
            step.zero_grad()
            loss.backward()
            step.step()
        losses.append(loss.item())
    start = (target.norm() ** 2 / 32).item()
    assert losses[0] < start / 2
    assert losses[1] == pytest.approx(losses[0], rel=0.05)
