"""The last good weights: what is copied when, and when training stops."""

import math

import pytest
import torch

from tiny_lm.divergence import LastGood, NotFinite


def _metrics(step: int, **changes) -> dict:
    losses = {"loss": 1.0, "mtp_loss": 0.0, "balance_loss": 0.0, "grad_norm": 1.0}
    return {"step": step, **losses, **changes}


def _step(good: LastGood, model: torch.nn.Module, metrics: dict) -> None:
    good.before_step()
    with torch.no_grad():
        model.weight += 1.0
    good.check(metrics)


@pytest.fixture
def model():
    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.zero_()
    return model


@pytest.mark.parametrize("name", ["loss", "mtp_loss", "balance_loss"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_brings_back_the_weights_before(model, name, value):
    good = LastGood(model)
    _step(good, model, _metrics(1))
    _step(good, model, _metrics(2))
    with pytest.raises(NotFinite, match=f"{name} was {value} at step 3") as caught:
        _step(good, model, _metrics(3, **{name: value}))
    assert (caught.value.step, caught.value.kept) == (3, 2)
    assert model.weight.item() == 1.0  # as they were before step 2, whose loss was fine


def test_a_step_that_spoils_the_validation_is_undone(model):
    good = LastGood(model)
    _step(good, model, metrics := _metrics(1))
    with pytest.raises(NotFinite, match="val_loss was nan at step 1"):
        good.check(metrics | {"val_loss": math.nan})
    assert model.weight.item() == 0.0  # the loss of step 1 was theirs


def test_a_gradient_that_is_no_number_keeps_the_weights_it_came_from(model):
    good = LastGood(model)
    _step(good, model, _metrics(1))
    with pytest.raises(NotFinite, match="grad_norm was inf at step 2"):
        _step(good, model, _metrics(2, grad_norm=math.inf))
    assert model.weight.item() == 1.0


def test_where_the_first_loss_is_no_number_nothing_is_kept(model):
    good = LastGood(model)
    with pytest.raises(NotFinite) as caught:
        _step(good, model, _metrics(1, loss=math.nan))
    assert caught.value.kept == 0
