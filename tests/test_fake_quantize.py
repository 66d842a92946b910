"""The training path equals the one definition, whatever is rounded and however."""

from itertools import product

import pytest
import torch

from tiny_lm.fake_quantize import (
    ALONG_ROWS,
    ALONG_TOKENS,
    BLOCKS,
    Rounding,
    fake_quantize,
    fake_quantize_stack,
)
from tiny_lm.formats import FORMATS
from tiny_lm.quantize import Quantizer
from tiny_lm.scales import AMAX, DEEPSEEK, NVFP4, OCP_FLOOR, ROUND_UP

RULES = {
    "amax": AMAX,
    "deepseek": DEEPSEEK,
    "up": ROUND_UP,
    "floor": OCP_FLOOR,
    "nvfp4": NVFP4,
}
WAYS = {
    "tiles": (ALONG_ROWS, 32, (1, 32)),
    "along the tokens": (ALONG_TOKENS, 16, (16, 1)),
    "blocks": (BLOCKS, 32, (32, 32)),
    "a row": (ALONG_ROWS, None, (1, None)),
    "a column": (ALONG_TOKENS, None, (None, 1)),
    "the tensor": (BLOCKS, None, (None, None)),
}


def matrix(*shape, seed=0):
    """Rows of many sizes, with zeros among them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator)
    x[torch.rand(shape, generator=generator) < 0.1] = 0.0
    return x * torch.logspace(-6, 6, shape[-2])[:, None]


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("rule", RULES.values(), ids=RULES.keys())
def test_every_rounding_equals_the_quantizer(way, rule):
    region, size, group = way
    for to, shape in product(FORMATS.values(), [(64, 96), (50, 80), (3, 5), (0, 8)]):
        x = matrix(*shape)
        (fast,) = fake_quantize(x, Rounding(region, size, rule, to))
        assert torch.equal(fast, Quantizer(to, group, rule)(x))


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
@pytest.mark.parametrize("rule", [AMAX, NVFP4], ids=["amax", "nvfp4"])
def test_each_matrix_of_a_stack_is_rounded_alone(way, rule):
    region, size, group = way
    stack = torch.stack([matrix(40, 48, seed=n) * 10**n for n in range(3)])
    found = fake_quantize_stack(stack, Rounding(region, size, rule))
    for one, rounded in zip(stack, found, strict=True):
        assert torch.equal(rounded, Quantizer(group=group, rule=rule)(one))


def test_several_roundings_at_once_equal_each_alone(monkeypatch):
    x = matrix(200, 80)
    ways = [Rounding(*way[:2]) for way in WAYS.values()]
    alone = [fake_quantize(x, way)[0] for way in ways]
    monkeypatch.setattr("tiny_lm.fake_quantize.CHUNK", 3000)
    for one, other in zip(fake_quantize(x, *ways), alone, strict=True):
        assert torch.equal(one, other)
