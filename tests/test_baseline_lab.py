"""The definitions of lab 01 are those of the package."""

import pytest
import torch

from tiny_lm import costs
from tiny_lm.attention import attend
from tiny_lm.config import MHAConfig, ModelConfig
from tiny_lm.course.checks.baseline.attention import attention
from tiny_lm.course.checks.baseline.bits import bits_per_byte
from tiny_lm.course.checks.baseline.cost import dense_cost
from tiny_lm.course.checks.baseline.sampling import next_byte_probabilities
from tiny_lm.generate import next_byte_probabilities as what_is_sampled_from
from tiny_lm.model import LanguageModel


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_bits_are_cross_entropy_in_bits():
    logits, targets = normal(0, 50, 7), torch.arange(50) % 7
    nats = torch.nn.functional.cross_entropy(logits, targets)
    torch.testing.assert_close(
        bits_per_byte(logits, targets), nats / torch.log(torch.tensor(2.0))
    )


@pytest.mark.parametrize("num_heads", [1, 2, 4])
def test_attention_is_the_models(num_heads):
    q, k, v = normal(num_heads, 3, 2, 9, 8)
    heads = [x.unflatten(-1, (num_heads, -1)).transpose(1, 2) for x in (q, k, v)]
    wanted = attend(*heads, scale=(8 // num_heads) ** -0.5)
    ours = attention(q, k, v, num_heads)
    torch.testing.assert_close(ours, wanted.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    "shape",
    [(256, 32, 3, 80, 64), (32_000, 4096, 32, 11_008, 4096), (9, 4, 1, 8, 3)],
)
def test_cost_is_the_one_of_costs_and_of_a_model_that_exists(shape):
    vocab_size, d_model, num_layers, d_ffn, seq_len = shape
    config = ModelConfig(
        name="dense",
        vocab_size=vocab_size,
        d_model=d_model,
        num_layers=num_layers,
        num_dense_layers=num_layers,
        d_ffn=d_ffn,
        attention=MHAConfig(num_heads=1, num_kv_heads=1, d_head=d_model),
        max_len=seq_len,
    )
    parameters, flops = dense_cost(*shape)
    assert parameters == costs.count_parameters(config).total
    assert flops == pytest.approx(costs.flops_per_token(config, seq_len), rel=1e-9)
    if d_model < 100:
        model = LanguageModel(config)
        assert parameters == sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("temperature, top_p", [(1.0, 1.0), (0.5, 0.9), (1.7, 0.3)])
def test_probabilities_are_what_the_model_samples_from(temperature, top_p):
    logits = 3 * normal(1, 40)
    ours = next_byte_probabilities(logits, temperature, top_p)
    theirs = what_is_sampled_from(logits, temperature, top_p)
    torch.testing.assert_close(ours, theirs)


def test_probabilities_stay_probabilities_where_top_p_is_nothing():
    kept = next_byte_probabilities(torch.tensor([1.0, 3.0, 2.0]), 1.0, 0.0)
    assert kept.tolist() == [0.0, 1.0, 0.0]
