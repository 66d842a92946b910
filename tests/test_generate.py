"""Sampling: probabilities by hand, and a stream through the compressed cache."""

from dataclasses import replace

import pytest
import torch

from tiny_lm.config import preset
from tiny_lm.data import encode
from tiny_lm.generate import generate, next_byte_probabilities, stream
from tiny_lm.model import LanguageModel


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel(replace(preset("tiny"), fp8=None, init_std=0.1, max_len=64))


def test_top_p_keeps_the_token_that_crosses_the_threshold():
    logits = torch.tensor([0.5, 0.3, 0.2]).log()
    kept = next_byte_probabilities(logits, top_p=0.6)
    assert torch.allclose(kept, torch.tensor([0.625, 0.375, 0.0]))


def test_top_p_of_one_changes_nothing():
    logits = torch.tensor([2.0, -1.0, 0.5])
    assert torch.allclose(next_byte_probabilities(logits), logits.softmax(-1))


def test_a_tiny_top_p_leaves_the_likeliest_alone():
    kept = next_byte_probabilities(torch.tensor([1.0, 3.0, 2.0]), top_p=1e-6)
    assert kept.tolist() == [0.0, 1.0, 0.0]


def test_temperature_divides_the_logits():
    logits = torch.tensor([1.0, 2.0])
    kept = next_byte_probabilities(logits, temperature=0.5)
    assert torch.allclose(kept, torch.tensor([2.0, 4.0]).softmax(-1))


@pytest.mark.parametrize("top_p", [0.0, 1.1])
def test_a_share_outside_its_range_is_refused(top_p):
    with pytest.raises(ValueError, match="top_p must lie in"):
        next_byte_probabilities(torch.zeros(3), top_p=top_p)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="temperature must be positive, got 0"):
        next_byte_probabilities(torch.zeros(3), temperature=0.0)


def test_a_greedy_stream_is_the_argmax_of_the_uncached_model(model):
    prompt = encode("import ")
    new = list(stream(model, prompt, 12, temperature=1e-4))
    tokens = prompt.tolist()
    with torch.inference_mode():
        for byte in new:
            logits = model(torch.tensor([tokens]))[0, -1]
            assert byte == int(logits.argmax())
            tokens.append(byte)


def test_the_seed_decides_what_is_drawn(model):
    first = generate(model, "x", 20, seed=1)
    assert first == generate(model, "x", 20, seed=1)
    assert first != generate(model, "x", 20, seed=2)


def test_an_empty_prompt_is_refused(model):
    with pytest.raises(ValueError, match="the prompt is empty"):
        generate(model, "", 5)


def test_more_than_the_model_can_place_is_refused(model):
    with pytest.raises(ValueError, match="are 65 bytes, max_len=64"):
        generate(model, "abcde", 60)
