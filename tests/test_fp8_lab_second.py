"""The lab's own products, sums and gaps agree with the package's."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from tiny_lm import accumulator, config, fp8, model, quantize
from tiny_lm.course.checks.fp8.gap import mixed, relative_gap
from tiny_lm.course.checks.fp8.linear import fp8_linear, task_4_6
from tiny_lm.course.checks.fp8.scaled import scaled_product, task_4_5
from tiny_lm.course.checks.fp8.short_sum import OF_ZERO, draw, exponent_of, short_sum
from tiny_lm.course.checks.fp8.twins import SEED, Train
from tiny_lm.course.experiments import fp8_results
from tiny_lm.course.figures import fp8_lab_products as drawings
from tiny_lm.formats import E4M3, encode
from tiny_lm.layers import Products, plain


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ---- the references are the package's own


@pytest.mark.parametrize("N, M, K", [(1, 1, 1), (5, 300, 200), (70, 33, 256)])
def test_scaled_product_is_that_of_what_the_codes_stand_for(N, M, K):
    x, w = normal(0, N, K), normal(1, M, K)
    of_x, of_w = quantize.quantize_tiles(x, 128), quantize.quantize_blocks(w, 128)
    wanted = (
        quantize.dequantize_tiles(*of_x, 128).double()
        @ quantize.dequantize_blocks(*of_w, 128).double().T
    )
    ours = scaled_product(*of_x, *of_w, 128)
    torch.testing.assert_close(ours.double(), wanted, rtol=1e-5, atol=1e-5)


def test_scaled_product_is_an_h100s_where_its_accumulator_cuts_nothing():
    whole = torch.Generator().manual_seed(2)
    x, w = (torch.randint(-4, 5, (8, 128), generator=whole).float() for _ in range(2))
    of_x, of_w = quantize.quantize_tiles(x, 64), quantize.quantize_blocks(w, 64)
    ours = scaled_product(*of_x, *of_w, 64)
    chip = accumulator.scaled_matmul(*of_x, *of_w, group=64)
    torch.testing.assert_close(ours, chip, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize(
    "N, M, K, size", [(1, 1, 1, 4), (40, 24, 72, 32), (9, 7, 5, 3)]
)
def test_linear_and_both_gradients_are_those_of_fp8(N, M, K, size):
    grad = 1e-4 * normal(2, N, M)
    found = []
    for linear in (
        lambda x, w: fp8_linear(x, w, size),
        lambda x, w: fp8.matmul(x, w, tile=size, block=size),
    ):
        given = normal(0, N, K).requires_grad_(), normal(1, M, K).requires_grad_()
        y = linear(*given)
        found.append([y, *torch.autograd.grad(y, given, grad)])
    for ours, wanted in zip(*found, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-9)


def test_a_model_of_the_labs_linear_maps_is_an_fp8_model():
    c = replace(config.tiny_dense(), num_layers=1, num_dense_layers=1)

    def product(x, weight):
        return fp8_linear(x.flatten(0, -2), weight, 32).view(*x.shape[:-1], -1)

    found = []
    for products in (Products(product, plain), fp8.products(config.tiny().fp8)):
        torch.manual_seed(0)
        lm = model.LanguageModel(c, products=products)
        lm.loss(torch.arange(66).view(2, 33)).total.backward()
        found.append(nn.utils.get_total_norm([w.grad for w in lm.parameters()]))
    torch.testing.assert_close(*found)


@pytest.mark.parametrize("mean", [0.0, 0.5])
@pytest.mark.parametrize("K, every", [(7, 32), (300, 64), (1024, 128), (1024, 1024)])
def test_short_sum_is_a_tensor_cores_bit_by_bit(K, every, mean):
    a, b = encode(normal(K, 2, 1, K) + mean)
    exponents = sum(exponent_of(z.float()).clamp(min=E4M3.min_exponent) for z in (a, b))
    products = a.float() * b.float()
    exponents = exponents.masked_fill(products == 0, OF_ZERO)
    ours = short_sum(products[0], exponents[0], every)
    assert ours == accumulator.tensor_core_matmul(a, b, every).squeeze()


def test_losses_are_smoothed_as_in_the_recorded_experiments():
    losses = (3 + normal(4, 50)).tolist()
    torch.testing.assert_close(
        mixed(losses, fp8_results.EMA), torch.tensor(fp8_results.smooth(losses))
    )
    train = Train(fp32=losses, fp8=losses[::-1], nudged=losses)
    gap, null_gap = relative_gap(train, SEED, fp8_results.EMA)
    wanted = mixed(losses[::-1], 0.9) / mixed(losses, 0.9) - 1
    torch.testing.assert_close(gap, wanted)
    assert not null_gap.any()


# ---- what the checks are made of


def test_drawn_exponents_are_those_of_the_factors():
    products, exponents, _ = draw(torch.Generator().manual_seed(0), 500, 64, 0.5)
    own = exponent_of(products)
    above = own - exponents
    assert set(above[products != 0].tolist()) <= {-3, -2, -1, 0, 1}
    assert (exponents[products == 0] == OF_ZERO).all()


def test_another_seed_gives_other_losses_and_unknown_products_none():
    train = Train(fp32=[3.0, 2.0], fp8=[3.0, 2.0], nudged=[3.0, 2.0])
    assert train("fp32", SEED).tolist() == [3.0, 2.0]
    assert train("fp32", SEED + 1).tolist() != [3.0, 2.0]
    assert train.asked == [f"fp32 with seed {SEED}", f"fp32 with seed {SEED + 1}"]
    with pytest.raises(ValueError, match="no products 'bf16'"):
        train("bf16", 0)


def test_a_master_weight_rounded_in_place_is_seen():
    def in_place(x, weight, size):
        with torch.no_grad():
            weight.copy_(quantize.fake_quantize_blocks(weight, size))
        return fp8_linear(x, weight, size)

    outcome = task_4_6.outcome(in_place)
    assert outcome.mismatch.wanted == "arguments as they were"


def test_codes_that_are_changed_are_seen():
    def in_place(x_codes, *rest):
        y = scaled_product(x_codes, *rest)
        x_codes.view(torch.uint8).zero_()
        return y

    outcome = task_4_5.outcome(in_place)
    assert outcome.mismatch.wanted == "arguments as they were"


def test_an_error_on_the_way_back_is_told_as_one_of_the_function():
    def forgets_to_keep(x, weight, size):
        class Product(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x, weight):
                return fp8_linear(x, weight, size)

            @staticmethod
            def backward(ctx, grad):
                x, weight = ctx.saved_tensors
                return grad @ weight, grad.mT @ x

        return Product.apply(x, weight)

    assert "save_for_backward" in task_4_6.outcome(forgets_to_keep).mismatch.because


def test_pictures_say_what_they_show():
    one, three = drawings.one_block().svg, drawings.three_products().svg
    assert all(f">block {n}<" in one for n in range(3))
    for name in ("x", "grad.T", "weight.T", "gradient by weight"):
        assert f">{name}<" in three
    lines = {"FP8, seed 0": [0.1, 0.2], "null twin, seed 0": [0.0, -0.1]}
    assert all(f">{name}<" in drawings.gaps(lines).svg for name in lines)
