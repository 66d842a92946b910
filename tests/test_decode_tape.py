"""Decoding steps as tapes: by hand, and against the closed forms."""

from dataclasses import replace

import pytest

from tiny_lm import costs
from tiny_lm.config import deepseek_v3, qwen_72b, tiny
from tiny_lm.counts import attention_parameters
from tiny_lm.hardware import H100_MEASURED, H800
from tiny_lm.parallel.decode_tape import (
    CONTEXTS,
    FORMS,
    cache_bytes_per_token,
    decode_cost,
    decode_tape,
    h800,
    model_of,
    sweep,
)


def _core(form: str, context: int, batch_size: int = 1):
    (core,) = {
        k
        for k in decode_tape(form, context, batch_size).records
        if k.name == "attention"
    }
    return core


def test_the_caches_are_those_of_the_closed_forms():
    assert [cache_bytes_per_token(form) for form in FORMS] == [
        3_997_696,  # 128 heads x 2 x 128 x 61 layers, BF16
        3_997_696 // 16,
        3_997_696 // 128,
        4_997_120,
        70_272,
        70_272,
    ]


def test_absorbed_attention_does_242_flops_a_byte_just_below_the_ridge():
    core = _core("mla_absorbed", 10**6)
    intensity = core.flops / core.num_bytes
    wanted = costs.decode_intensity(deepseek_v3().attention)
    assert intensity == pytest.approx(wanted, rel=1e-3)
    assert round(wanted) == 242
    assert wanted < H100_MEASURED.ridge_flops_per_byte < H800.ridge_flops_per_byte
    assert round(H800.ridge_flops_per_byte) == 295
    assert costs.decode_intensity(deepseek_v3().attention, 2) > 295


@pytest.mark.parametrize("form", FORMS)
def test_a_step_multiplies_by_every_weight_once(form):
    model = model_of(form)
    products = [k for k in decode_tape(form, 1).records if k.name != "attention"]
    flops = sum(k.flops for k in products)
    assert flops == 2 * model.num_layers * attention_parameters(model)


@pytest.mark.parametrize("form", FORMS)
def test_a_step_reads_the_cache_once(form):
    a, b = _core(form, 1000, 3), _core(form, 2000, 3)
    read = (b.num_bytes - a.num_bytes) * deepseek_v3().num_layers
    if form == "mla_expanded":  # reads what it has just made of the cache
        attention = deepseek_v3().attention
        made = 128 * (attention.d_nope + attention.d_value) + attention.d_rope
        assert read == 3 * 1000 * 61 * made * 2
    else:
        assert read == 3 * 1000 * cache_bytes_per_token(form)


def test_a_replayed_step_is_the_sum_of_its_kernels():
    cost, on = decode_cost("mqa", 4096, 2), h800()
    rate = on.bf16_flops_per_s * on.bf16_efficiency
    memory = on.memory_bytes_per_s * on.memory_efficiency
    kernels = decode_tape("mqa", 4096, 2).records
    wanted = sum(max(k.flops / rate, k.num_bytes / memory) for k in kernels)
    assert cost.step_s == pytest.approx(wanted, rel=1e-6)
    assert cost.seconds_per_token == cost.step_s / 2
    later = decode_cost("mqa", 4096, 2, on=h800(launched=True))
    launches = len(kernels) * H100_MEASURED.launch_s
    assert later.step_s == pytest.approx(wanted + launches, rel=1e-6)


def test_memory_is_weights_cache_and_what_is_made_anew():
    absorbed, expanded = (
        decode_cost(form, 8192) for form in ("mla_absorbed", "mla_expanded")
    )
    weights = 2 * 61 * attention_parameters(deepseek_v3())
    assert absorbed.cache_bytes == expanded.cache_bytes == 8192 * 70_272
    assert absorbed.peak_bytes == weights + absorbed.cache_bytes
    made = 8192 * 128 * (128 + 128) * 2
    assert expanded.peak_bytes == absorbed.peak_bytes + made


def test_at_long_contexts_the_latent_wins_only_if_it_is_absorbed():
    at = {cost.form: cost for cost in sweep([131_072])}
    assert 1.9 * at["mla_absorbed"].step_s < at["gqa"].step_s
    assert at["mla_expanded"].step_s > 10 * at["mla_absorbed"].step_s
    assert at["mla_kept"].step_s > at["mha"].step_s
    assert at["mqa"].step_s < at["gqa"].step_s < at["mha"].step_s
    assert at["mha"].peak_bytes > 80e9 > at["mla_absorbed"].peak_bytes


def test_a_sweep_goes_from_1k_to_128k():
    assert CONTEXTS[0] == 1024 and CONTEXTS[-1] == 131_072
    rows = sweep(forms=["mla_absorbed"], batch_size=4)
    assert [row.context for row in rows] == list(CONTEXTS)
    times = [row.step_s for row in rows]
    assert times == sorted(times) and len(set(times)) == len(times)


def test_another_model_of_the_family_may_be_asked_for():
    small = decode_cost("mla_absorbed", 64, config=tiny())
    assert small.cache_bytes == 64 * costs.kv_bytes_per_token(tiny())
    plain = replace(tiny(), attention=replace(tiny().attention, d_latent_q=None))
    kernels = decode_tape("mla_absorbed", 1, config=plain).records
    products = sum(k.flops for k in kernels if k.name != "attention")
    assert products == 2 * 4 * attention_parameters(plain)


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="unknown form 'nha'; there are: mha, gqa"):
        decode_tape("nha", 1)
    with pytest.raises(ValueError, match="qwen_72b has no latent attention"):
        model_of("mha", qwen_72b())
    with pytest.raises(ValueError, match="must be positive, got 0 and 1"):
        decode_tape("mha", 0)
