"""The whole model: against `transformers`, against itself, and by its parts."""

from dataclasses import replace

import pytest
import torch

from tiny_lm.config import preset
from tiny_lm.course.bench.oracle import transformers_twin
from tiny_lm.layers import PLAIN, Products
from tiny_lm.model import LanguageModel


def _bytes(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed))


def _randomized(seed: int, bias_mean: float, **moe_changes: int) -> LanguageModel:
    """`tiny` without FP8 in float64, with weights large enough to matter."""
    config = replace(preset("tiny"), fp8=None, init_std=0.08)
    config = replace(config, moe=replace(config.moe, **moe_changes))
    model = LanguageModel(config, seed=seed).double().eval()
    generator = torch.Generator().manual_seed(seed)
    for router in model.routers:
        noise = torch.randn(router.bias.shape, generator=generator)
        router.bias.copy_(bias_mean + 0.3 * noise)
    return model


@pytest.mark.parametrize(
    ("bias_mean", "changes"),
    [
        (0.0, {}),
        (-0.9, {}),  # negative choices: a group mask of 0.0 would win here
        (0.5, {"top_groups": 1, "top_k": 2}),  # transformers sums the 2 best of a group
        (-0.9, {"num_groups": 1, "top_groups": 1}),
        (-0.9, {"num_groups": 8, "top_groups": 4, "top_k": 8}),
    ],
)
def test_logits_equal_those_of_transformers(bias_mean, changes):
    for seed in range(3):
        model = _randomized(seed, bias_mean, **changes)
        twin = transformers_twin(
            model, experts_implementation="eager", attn_implementation="eager"
        ).eval()
        tokens = _bytes(2, 33, seed=seed)
        with torch.no_grad():
            difference = (model(tokens) - twin(tokens).logits).abs().max()
        assert difference < 1e-5


def test_through_the_caches_the_model_says_the_same():
    model = _randomized(0, 0.0)
    tokens = _bytes(2, 12)
    context = model.new_context(batch_size=2, max_len=12)
    with torch.no_grad():
        steps = [model(tokens[:, t : t + 1], context) for t in range(12)]
        assert (torch.cat(steps, dim=1) - model(tokens)).abs().max() < 1e-10


def test_the_loss_is_the_mean_surprise_of_every_next_byte():
    model = _randomized(0, 0.0)
    tokens = _bytes(2, 9)
    log_p = model(tokens[:, :-1]).log_softmax(-1)
    surprise = -log_p.gather(-1, tokens[:, 1:, None]).mean()
    assert torch.allclose(model.loss(tokens).next_token, surprise)


def test_no_position_sees_a_later_byte():
    model = replace(preset("tiny"), num_mtp=1, fp8=None)
    model = LanguageModel(model).double().eval()
    tokens = _bytes(1, 10)
    changed = tokens.clone()
    changed[0, 6] = (changed[0, 6] + 1) % 256
    with torch.no_grad():
        before, after = model(tokens), model(changed)
    assert torch.allclose(before[:, :6], after[:, :6], atol=1e-12)
    assert not torch.allclose(before[:, 6:], after[:, 6:])


def test_mtp_predicts_the_token_after_the_next_from_state_and_next_token():
    config = replace(preset("tiny_dense"), num_mtp=1, mtp_weight=0.5)
    model, tokens = LanguageModel(config), _bytes(2, 9)
    module, (h, _) = model.mtp[0], model.hidden(tokens[:, :-1])
    mixed, _ = module(h[:, :-1], model.embedding(tokens[:, 1:-1]))
    log_p = model.head(module.norm(mixed)).log_softmax(-1)
    surprise = -log_p.gather(-1, tokens[:, 2:, None]).mean()
    loss = model.loss(tokens)
    assert torch.allclose(loss.mtp, surprise)
    assert torch.allclose(loss.total, loss.next_token + 0.5 * surprise)


def test_several_mtp_modules_look_further_ahead_one_by_one():
    config = replace(preset("tiny_dense"), num_mtp=2)
    model, tokens = LanguageModel(config), _bytes(1, 6)
    changed = tokens.clone()
    changed[0, -1] = (changed[0, -1] + 1) % 256
    h = model.hidden(tokens[:, :-1])[0]
    first, _ = model.mtp[0](h[:, :-1], model.embedding(tokens[:, 1:-1]))
    second, _ = model.mtp[1](first[:, :-1], model.embedding(tokens[:, 2:-1]))
    assert second.shape[1] == 3  # predicts the bytes at 3, 4 and 5
    assert model.loss(tokens).mtp != model.loss(changed).mtp


def test_fp8_changes_the_logits_a_little():
    # Without experts: a rounded score may choose another expert, which is no small
    # change.
    dense = replace(preset("tiny"), moe=None, num_dense_layers=4)
    exact = LanguageModel(replace(dense, fp8=None)).eval()
    rounded = LanguageModel(dense).eval()
    tokens = _bytes(4, 32)
    with torch.no_grad():
        x, y = exact(tokens), rounded(tokens)
    assert 0.001 < (x - y).norm() / x.norm() < 0.15


def test_a_sequence_beyond_max_len_is_refused():
    model = LanguageModel(replace(preset("tiny"), max_len=8))
    with pytest.raises(ValueError, match="9 tokens is longer than max_len=8"):
        model(_bytes(1, 9))


def test_the_seed_decides_the_weights():
    one, same, other = (LanguageModel(preset("tiny"), seed=s) for s in (0, 0, 1))
    assert torch.equal(one.head.weight, same.head.weight)
    assert not torch.equal(one.head.weight, other.head.weight)
    experts = one.blocks[1].ffn.experts.gate_up
    assert not torch.equal(experts[0], experts[1])
    assert experts.std().item() == pytest.approx(0.02, rel=0.05)


def test_a_model_multiplies_as_it_is_told():
    called = []

    def counting(x, weight):
        called.append(weight.shape)
        return PLAIN.linear(x, weight)

    config = preset("tiny_dense")
    products = Products(counting, PLAIN.grouped, PLAIN.row_multiple)
    told, untold = LanguageModel(config, products=products), LanguageModel(config)
    assert torch.equal(told(_bytes(1, 4)), untold(_bytes(1, 4)))
    assert (config.d_model, config.d_ffn) in called
