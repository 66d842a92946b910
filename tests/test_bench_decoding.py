"""The benchmark of decoding measures what it says it measures."""

import pytest
import torch

from tiny_lm import costs
from tiny_lm.course.bench import decoding
from tiny_lm.course.bench.oracle import transformers_twin
from tiny_lm.decoder import can_fold
from tiny_lm.model import LanguageModel


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return LanguageModel(decoding.plain_tiny(init_std=0.1)).eval()


@torch.inference_mode()
def test_it_writes_what_the_model_would_and_the_same_every_time(model):
    tokens = decoding.prompts(2, 9)
    write, context = decoding.our_writing(model, tokens)
    assert can_fold(model)
    last = write()
    assert torch.equal(write(), last) and context.num_columns == 9 + decoding.STEPS
    whole = tokens
    for _ in range(decoding.STEPS + 1):
        whole = torch.cat([whole, model(whole)[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(whole[:, -1], last)


def test_theirs_writes_the_same_tokens(model):
    twin = transformers_twin(model, experts_implementation="eager").eval()
    tokens = decoding.prompts(2, 9)
    write = decoding.their_writing(twin, tokens)
    assert torch.equal(write(), write())
    ours, _ = decoding.our_writing(model, tokens)
    # Ours knows the first token before it begins, and so ends one later.
    assert write().shape[1] == 9 + decoding.STEPS
    twice = decoding.their_writing(twin, write())()
    assert torch.equal(twice[:, 9 + decoding.STEPS], ours())


def test_a_step_reads_its_cache_and_the_weights_of_the_experts_it_meets(model):
    full = sum(p.nbytes for p in model.parameters()) - model.embedding.weight.nbytes
    context = model.new_context(4, 10)
    context.advance(4, 5)
    per_token = costs.kv_bytes_per_token(model.config, 4)
    assert decoding.bytes_read(model, context) == full + 4 * 5 * per_token
    one = model.new_context(1, 10)
    experts = sum(p.nbytes for n, p in model.named_parameters() if ".experts." in n)
    assert decoding.bytes_read(model, one) == full - 12 * experts // 16


def test_a_copy_has_a_rate():
    assert 1e8 < decoding.copy_bytes_per_s(2**22) < 1e13


def test_against_transformers_gives_a_line_for_each_length(monkeypatch):
    monkeypatch.setattr(decoding, "STEPS", 2)
    results = decoding.against_transformers((8,), (1, 2), rounds=1)
    assert [r.name for r in results[1::2]] == ["a token of 1 x 8", "a token of 2 x 8"]
    assert all(r.value > 0 for r in results[1::2])


def test_caches_of_both_are_as_the_formula_says(monkeypatch):
    monkeypatch.setattr(decoding, "BATCHES", (2,))
    mla, mha, ratio = decoding.against_multi_head(16, rounds=1)
    assert mla.value == 2 * (16 + decoding.STEPS) * 4 * 80 * 4 / 1e6
    assert mha.value == 2 * (16 + decoding.STEPS) * 4 * 256 * 4 / 1e6
    assert "as the formula" in mla.limit and "as the formula" in mha.limit
    assert ratio.value > 0


def test_training_attention_is_timed_with_its_gradients():
    for result in decoding.training_attention(rounds=1):
        assert result.value > 0 and result.aim == "≤ 1.2"
