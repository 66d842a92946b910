"""The benchmark of decoding measures what it says it measures."""

import re

import pytest
import torch

from tiny_lm import costs
from tiny_lm.course.bench import cores as bench_cores
from tiny_lm.course.bench import decoding
from tiny_lm.course.bench.cores import cores
from tiny_lm.course.bench.oracle import transformers_twin
from tiny_lm.decoder import can_fold, mix
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


def test_against_transformers_gives_lines_for_each_length_and_the_growth(monkeypatch):
    monkeypatch.setattr(decoding, "STEPS", 2)
    found = decoding.against_transformers((8, 16), (1, 2), rounds=1)
    copy, *found = found
    ours, ratios = ([r for r in found if r.unit == unit] for unit in ("ms", "x"))
    assert [r.name for r in ours] == [
        f"a token of {batch} x {context}" for batch in (1, 2) for context in (8, 16)
    ]
    assert all(r.value > 0 for r in found)
    for place, result in enumerate(ours):
        bound = float(re.match(r"([\d.]+) ms to read its bytes", result.limit)[1])
        assert bound < result.value and copy.unit == "GB/s"
        ratio = ratios[place + place // 2]
        theirs = float(re.match(r"([\d.]+) ms for theirs", ratio.limit)[1])
        assert ratio.value == pytest.approx(theirs / result.value, rel=0.01)
    growths = [r for r in ratios if r.aim == "> 1"]
    assert [r.name for r in growths] == ["  1 x 16 over 1 x 8", "  2 x 16 over 2 x 8"]
    assert growths[0].value == ratios[1].value / ratios[0].value


def test_lengths_and_batches_are_those_that_were_asked_for():
    assert decoding.CONTEXTS == (128, 1024, 4096) and decoding.BATCHES == (1, 8)
    assert decoding.AIMS == {1024: "≥ 3"}


def test_caches_of_both_are_as_the_formula_says(monkeypatch):
    monkeypatch.setattr(decoding, "BATCHES", (2,))
    mla, mha, ratio, *alone = decoding.against_multi_head(16, rounds=1)
    assert mla.value == 2 * (16 + decoding.STEPS) * 4 * 80 * 4 / 1e6
    assert mha.value == 2 * (16 + decoding.STEPS) * 4 * 256 * 4 / 1e6
    for result in (mla, mha):
        assert result.limit.startswith("as the formula; ")
        assert "ms to read its bytes" in result.limit
    assert ratio.value > 0
    names = ["  attention alone, mla", "  attention alone, mha", "  latents added up"]
    assert [r.name for r in alone] == names
    assert all(r.limit.endswith("GB/s, one core") for r in alone)


def test_a_cache_that_is_not_as_the_formula_is_called_wrong(monkeypatch):
    monkeypatch.setattr(decoding, "BATCHES", (1,))
    monkeypatch.setattr(decoding.costs, "kv_bytes_per_token", lambda *_: 1)
    mla, *_ = decoding.against_multi_head(16, rounds=1)
    assert mla.limit.startswith("WRONG; ")


def test_attention_alone_counts_what_the_closed_forms_do():
    found = cores(64, 3, rounds=1)
    keys = 4 * 3 * 64
    assert found["mla"].cache_bytes == keys * 80 * 4
    assert found["mha"].cache_bytes == keys * 256 * 4
    assert found["mla"].flops == keys * 2 * 4 * (80 + 64)
    assert found["mha"].flops == keys * 2 * 4 * (32 + 32)
    assert found["sum"].flops == keys * 80
    assert found["sum"].cache_bytes == found["mla"].cache_bytes
    for core in found.values():
        assert core.flops_per_s == core.flops / core.seconds > 0
        assert core.bytes_per_s == core.cache_bytes / core.seconds > 0


def test_attention_alone_runs_on_one_thread_and_leaves_the_others(monkeypatch):
    seen = []
    monkeypatch.setattr(bench_cores, "mix", lambda *_: seen.append(threads()))
    before, threads = torch.get_num_threads(), torch.get_num_threads
    torch.set_num_threads(2)
    cores(8, 1, rounds=1)
    after = threads()
    torch.set_num_threads(before)
    assert set(seen) == {1} and after == 2


@pytest.mark.parametrize(("name", "rows"), [("mla", 3), ("mha", 3 * 4)])
def test_attention_alone_reads_every_layers_cache_once(monkeypatch, name, rows):
    shapes = []

    def watch(q, k, v, penalty):
        shapes.append((tuple(q.shape), tuple(k.shape), tuple(v.shape)))
        return mix(q, k, v, penalty)

    monkeypatch.setattr(bench_cores, "mix", watch)
    cores(64, 3, rounds=1)
    (wide, narrow, heads) = {"mla": (80, 64, 4), "mha": (32, 32, 1)}[name]
    wanted = ((rows, heads, wide), (rows, 64, wide), (rows, 64, narrow))
    assert shapes.count(wanted) == 3 * 4  # rounds, two of them unmeasured; layers


def test_training_attention_is_timed_with_its_gradients():
    for result in decoding.training_attention(rounds=1):
        assert result.value > 0 and result.aim == "≤ 1.2"
