"""What a trained `tiny` multiplies is seen as it is, and losses are counted by hand."""

from dataclasses import replace
from statistics import median

import pytest
import torch

from tiny_lm.config import tiny
from tiny_lm.course.experiments import fp8_plan, read, tensors
from tiny_lm.course.experiments.records import Store, Text
from tiny_lm.formats import E2M1, E4M3
from tiny_lm.model import LanguageModel, multiplied_in_fp8
from tiny_lm.quantize import Quantizer

TOKENS = torch.randint(256, (2, 33), generator=torch.Generator().manual_seed(0))
PER_TENSOR = Quantizer(E4M3, (None, None))


@pytest.fixture(scope="module")
def model():
    return LanguageModel(replace(tiny(), fp8=None))


@pytest.fixture(scope="module")
def seen(model):
    return tensors.observe(model, TOKENS)


def test_what_vanishes_and_what_is_off_is_counted_by_hand():
    x = torch.tensor([[6.0, 0.2], [0.0, 0.3]])  # 0.25 is half of E2M1's smallest
    found = tensors.lost(x, Quantizer(E2M1, (None, None)))
    assert found.vanished == pytest.approx(1 / 3)
    assert found.rows_off == pytest.approx(1 / 2)  # 0.3 became 0.5
    changed = (0.2**2 + 0.2**2) ** 0.5
    assert found.error == pytest.approx(changed / float(x.norm()))


def test_a_row_of_zeros_is_never_off():
    x = torch.tensor([[1.0, 2.0], [0.0, 0.0]])
    assert tensors.lost(x, PER_TENSOR).rows_off == 0


def test_measures_are_in_the_order_of_the_products(seen):
    found = tensors.measure(seen[:2], {"all": PER_TENSOR})["all"]["gradients"]
    wanted = [tensors.lost(product.gradients, PER_TENSOR) for product in seen[:2]]
    assert found["error"] == [pytest.approx(one.error, abs=1e-6) for one in wanted]


def test_a_short_accumulator_loses_more_of_a_gradient_without_promotion(seen):
    one = [replace(seen[0], name="w", activations=torch.rand(2048, 8),
                   gradients=torch.rand(2048, 8))]  # fmt: skip
    alone, promoted = (tensors.sum_errors(one, every)["w"] for every in (None, 128))
    assert alone > 5 * promoted > 0
    experts = [product for product in seen if product.weights.dim() == 3]
    assert experts and tensors.sum_errors(experts, None) == {}


def test_every_product_that_fp8_takes_over_is_seen_with_its_gradient(seen):
    names = {product.name for product in seen}
    twin = LanguageModel(tiny())
    of_fp8 = {id(weight) for weight in multiplied_in_fp8(twin)}
    assert names == {n for n, w in twin.named_parameters() if id(w) in of_fp8}
    for product in seen:
        rows, width = product.activations.shape
        assert product.weights.shape[-1] == width
        assert product.gradients.shape == (rows, product.weights.shape[-2])
        assert product.gradients.abs().max() > 0


def test_watching_changes_no_gradient(model, seen):
    model.zero_grad()
    model.loss(TOKENS).total.backward()
    one = next(product for product in seen if product.weights.dim() == 2)
    wanted = dict(model.named_parameters())[one.name].grad
    torch.testing.assert_close(one.gradients.T @ one.activations, wanted)


def test_the_checkpoint_is_found_under_the_name_it_was_recorded_with(tmp_path):
    run = fp8_plan.experiments()["fp8_pairs"].runs[0]
    store = Store(tmp_path, Text(**read("fp8_tensors")["corpus"]), "any precision")
    assert store.path(run).name == "fp8_tiny-0-e472f0d55555.json"


def test_the_record_says_where_grouping_matters_and_where_not():
    record = read("fp8_tensors")
    losses = record["losses"]
    for way, kinds in losses.items():
        if way.startswith("e4m3"):
            found = {kind: median(of["error"]) for kind, of in kinds.items()}
            assert all(0.02 < error < 0.03 for error in found.values())
    gone = {way: max(losses[way]["gradients"]["vanished"]) for way in losses}
    assert gone["e4m3 tensor"] > 0.1 > 0.05 > gone["e4m3 32 × 32"] > gone["e4m3 row"]
    assert set(losses) == set(tensors.WAYS)
    assert len(losses["mxfp8"]["weights"]["error"]) == len(record["products"])
