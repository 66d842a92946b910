"""Sampling: probabilities by hand, and a stream through the compressed cache."""

from dataclasses import replace

import pytest
import torch

from tiny_lm.config import preset
from tiny_lm.data import encode
from tiny_lm.generate import (
    generate,
    left_pad,
    next_byte_probabilities,
    read,
    stream,
    stream_batch,
)
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


PROMPTS = [encode(text) for text in ("import os", "d", "return x + ")]


def _rows(model, prompts, **options) -> list[list[int]]:
    steps = list(stream_batch(model, prompts, 10, temperature=1.0, **options))
    return [list(row) for row in zip(*steps, strict=True)]


def test_prompts_of_unequal_length_end_in_the_same_column():
    tokens, real = left_pad([torch.tensor([7, 8, 9]), torch.tensor([5])])
    assert tokens.tolist() == [[7, 8, 9], [0, 0, 5]]
    assert real.tolist() == [[True, True, True], [False, False, True]]


def test_a_prompt_in_a_batch_continues_as_it_does_alone(model):
    together = _rows(model, PROMPTS, seed=3)
    alone = [list(stream(model, p, 10, temperature=1.0, seed=3)) for p in PROMPTS]
    assert together == alone
    assert len({tuple(row) for row in together}) == 3


@pytest.mark.parametrize("chunk", [1, 2, 5])
def test_a_prompt_read_in_chunks_is_the_same_prompt(model, chunk):
    assert _rows(model, PROMPTS, chunk=chunk) == _rows(model, PROMPTS)


@pytest.mark.parametrize("chunk", [1, 3, 512])
@torch.inference_mode()
def test_what_follows_a_cached_prefix_is_what_follows_the_whole(model, chunk):
    beginning = encode("class A:\n    ")
    prefix = model.new_context(1, len(beginning))
    read(model, prefix, beginning.long()[None], chunk=chunk)
    whole = [torch.cat([beginning, prompt]) for prompt in PROMPTS]
    for _ in range(2):  # the prefix may serve again
        given = _rows(model, PROMPTS, prefix=prefix, chunk=chunk)
        assert given == _rows(model, whole)


@torch.inference_mode()
def test_padding_changes_no_logit(model):
    exact = LanguageModel(model.config).double().eval()
    tokens, real = left_pad(PROMPTS)
    batch = read(exact, exact.new_context(3, 11), tokens, real, chunk=4)
    for row, prompt in zip(batch, PROMPTS, strict=True):
        wanted = exact(prompt.long()[None])[0, -1]
        assert (row - wanted).abs().max() < 1e-10


def test_an_empty_prompt_among_others_is_refused(model):
    for prompts in ([PROMPTS[0], PROMPTS[0][:0]], []):
        with pytest.raises(ValueError, match="the prompt is empty"):
            next(stream_batch(model, prompts, 5))


def test_a_prefix_counts_as_part_of_the_prompt(model):
    prefix = model.new_context(1, 60)
    read(model, prefix, torch.zeros(1, 50, dtype=torch.int64))
    with pytest.raises(ValueError, match="are 65 bytes, max_len=64"):
        next(stream_batch(model, [encode("abcde")], 10, prefix=prefix))


def test_chunks_hold_at_least_one_column(model):
    with pytest.raises(ValueError, match="chunk must be positive, got 0"):
        read(
            model,
            model.new_context(1, 4),
            torch.zeros(1, 2, dtype=torch.int64),
            chunk=0,
        )


def test_there_must_be_a_token_to_read(model):
    nothing = torch.zeros(1, 0, dtype=torch.int64)
    with pytest.raises(ValueError, match="there is no token to read"):
        read(model, model.new_context(1, 4), nothing)
    with pytest.raises(ValueError, match="there is no token to read"):
        model(nothing)


def test_padding_needs_a_context(model):
    tokens, real = left_pad(PROMPTS)
    with pytest.raises(ValueError, match="padding needs a context"):
        model(tokens, real=real)


@pytest.mark.parametrize("temperature", [float("nan"), float("inf"), 0.0, -1.0])
def test_a_temperature_that_is_none_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature must be positive"):
        next_byte_probabilities(torch.zeros(3), temperature)


@pytest.mark.parametrize("temperature", [1e-3, 1e-38, 1e-300])
def test_however_low_the_temperature_the_likeliest_is_left(temperature):
    p = next_byte_probabilities(torch.tensor([80.0, 90.0, 70.0]), temperature)
    assert p.tolist() == [0.0, 1.0, 0.0]
