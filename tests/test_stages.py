"""Stages: the same layers under the same names, one after the other the whole model."""

from dataclasses import replace

import pytest
import torch

from tiny_lm.config import preset
from tiny_lm.model import LanguageModel
from tiny_lm.parallel.stages import Share

CONFIG = replace(preset("tiny"), fp8=None)


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel(CONFIG, seed=1)


@pytest.mark.parametrize("held", [[[0], [1]], [[0, 3], [1, 2]], [[0, 1, 2, 3]]])
def test_stages_one_after_the_other_are_the_model(model, held):
    num_stages = sum(map(len, held))
    shares = [Share(model, stages, num_stages) for stages in held]
    parts = {part.number: part for share in shares for part in share.parts}
    tokens = torch.randint(256, (2, 9), generator=torch.Generator().manual_seed(5))
    x, balance = tokens[:, :-1], None
    for number in range(num_stages):
        x, balance = parts[number](x, balance)
    assert torch.equal(x, model(tokens[:, :-1]))
    assert balance.item() == pytest.approx(model.loss(tokens).balance.item())


def test_names_are_those_of_the_whole_model_and_each_is_held_once(model):
    shares = [Share(model, stages, 4) for stages in ([0, 3], [1, 2])]
    held = [name for share in shares for name in share.state_dict()]
    assert sorted(held) == sorted(model.state_dict())
    assert {n: p for s in shares for n, p in s.named_parameters()}.keys() == {
        name for name, _ in model.named_parameters()
    }


def test_routers_are_known_by_their_layer(model):
    assert [list(Share(model, [n], 2).routers) for n in (0, 1)] == [[1], [2, 3]]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (CONFIG, "4 layers cannot be cut into 3 equal stages"),
        (replace(CONFIG, num_mtp=1), "predicts a further token needs the first stage"),
    ],
)
def test_what_cannot_be_cut_is_refused(config, message):
    with pytest.raises(ValueError, match=message):
        Share(LanguageModel(config), [0], 3 if config is CONFIG else 2)
