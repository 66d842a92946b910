"""The whole model: against `transformers`, against itself, and by its parts."""

from dataclasses import replace

import pytest
import torch

from tiny_lm.config import preset
from tiny_lm.course.oracle import transformers_twin
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
