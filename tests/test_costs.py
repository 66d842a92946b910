"""Bytes, seconds and dollars: by hand, and against every published figure."""

import json
from dataclasses import replace

import pytest

from tiny_lm.config import (
    PRESETS,
    FP8Config,
    MHAConfig,
    deepseek_v2,
    deepseek_v3,
    llama_405b,
    qwen_72b,
    tiny,
    tiny_dense,
)
from tiny_lm.costs import (
    BF16_RECIPE,
    DAY_S,
    FP32_RECIPE,
    PUBLISHED_FLOPS_PER_TOKEN,
    PUBLISHED_MFU,
    V3_RECIPE,
    V3_RUN,
    decode_exchange_s,
    decode_intensity,
    decode_token_s,
    derived_gpu_hours,
    expanded_kv_bytes_per_token,
    expert_traffic_bytes_per_token,
    fp8_kv_bytes_per_token,
    fp8_row_bytes,
    kv_bytes_per_token,
    kv_elements_per_token,
    step_flops,
    summary,
    table,
    training_bytes,
    training_s,
    utilization,
    v3_utilization,
)
from tiny_lm.counts import count_parameters, flops_per_token
from tiny_lm.hardware import A100, H100_MEASURED, H800

PLAIN_HEADS = MHAConfig(num_heads=128, num_kv_heads=128, d_head=128)


def test_a_cache_holds_keys_and_values_of_each_group_or_one_latent():
    grouped = MHAConfig(num_heads=8, num_kv_heads=2, d_head=16)
    assert kv_elements_per_token(grouped) == 2 * 2 * 16
    assert kv_elements_per_token(replace(grouped, num_kv_heads=8)) == 2 * 8 * 16
    assert kv_elements_per_token(tiny().attention) == 64 + 16
    assert kv_bytes_per_token(tiny()) == 4 * 80 * 2
    assert kv_bytes_per_token(tiny(), bytes_per_element=4) == 4 * 80 * 4


def test_the_cache_of_deepseek_v3_and_of_what_it_avoids():
    v3 = deepseek_v3()
    latent = kv_bytes_per_token(v3)
    plain = kv_bytes_per_token(replace(v3, attention=PLAIN_HEADS))
    assert latent == 70_272
    assert plain == 3_997_696
    assert round(plain / latent, 1) == 56.9
    assert expanded_kv_bytes_per_token(v3) == 4_997_120
    assert round(expanded_kv_bytes_per_token(v3) / latent) == 71
    assert fp8_kv_bytes_per_token(v3) == 61 * 656 == 40_016
    assert fp8_kv_bytes_per_token(v3, tile=512) == 61 * 644


def test_the_cache_of_models_with_grouped_queries():
    latent = kv_bytes_per_token(deepseek_v3())
    assert kv_bytes_per_token(qwen_72b()) == 327_680
    assert kv_bytes_per_token(llama_405b()) == 516_096
    assert round(327_680 / latent, 2) == 4.66
    assert round(516_096 / latent, 2) == 7.34  # printed as 7.28 in the paper


def test_mla_is_grouped_query_attention_with_two_and_a_quarter_groups():
    latent = deepseek_v3().attention
    one_group = kv_elements_per_token(replace(PLAIN_HEADS, num_kv_heads=1))
    assert kv_elements_per_token(latent) == 2.25 * one_group == 4.5 * 128


def test_the_saving_of_deepseek_v2_includes_six_bit_caching():
    dense_67b = 389_120  # 95 layers with 8 key-value heads of 128
    assert kv_bytes_per_token(deepseek_v2()) == 69_120
    six_bits = kv_bytes_per_token(deepseek_v2(), bytes_per_element=6 / 8)
    assert six_bits == 25_920
    assert round(100 * (1 - six_bits / dense_67b), 1) == 93.3
    assert round(100 * (1 - 69_120 / dense_67b), 1) == 82.2


def test_decoding_with_absorbed_mla_is_balanced_and_with_mha_waits_for_memory():
    v3 = deepseek_v3().attention
    one, two = decode_intensity(v3), decode_intensity(v3, num_queries=2)
    assert round(one) == 242
    assert one < H100_MEASURED.ridge_flops_per_byte < H800.ridge_flops_per_byte < two
    assert decode_intensity(PLAIN_HEADS) == 1
    assert decode_intensity(replace(PLAIN_HEADS, num_kv_heads=16)) == 8


def test_training_takes_16_bytes_a_parameter_and_13_as_v3_did_it():
    assert training_bytes(10, FP32_RECIPE) == {
        "weights": 40,
        "gradients": 40,
        "optimizer": 80,
    }
    assert sum(training_bytes(1, BF16_RECIPE).values()) == 16
    assert training_bytes(1, V3_RECIPE) == {
        "weights": 1,
        "gradients": 4,
        "optimizer": 8,
    }


def test_a_row_goes_out_in_about_half_the_bytes_it_comes_back_in():
    assert fp8_row_bytes(7168) == 7168 + 56 * 4 == 7392
    assert fp8_row_bytes(130, tile=128) == 130 + 2 * 4
    v3 = deepseek_v3()
    assert expert_traffic_bytes_per_token(v3, copies=1) == 58 * (7392 + 14_336)
    assert expert_traffic_bytes_per_token(v3, copies=4) == 58 * 4 * (7392 + 14_336)
    assert expert_traffic_bytes_per_token(tiny_dense(), copies=1) == 0


@pytest.mark.parametrize("fp8", [None, FP8Config(wire=False)])
def test_without_fp8_on_the_wire_both_ways_are_bf16(fp8):
    config = replace(deepseek_v3(), fp8=fp8)
    assert expert_traffic_bytes_per_token(config, copies=1) == 58 * 2 * 14_336


def test_the_bound_on_decoding_over_two_kinds_of_link():
    infiniband = decode_exchange_s(32, 9, 7000, link_bytes_per_s=50e9)
    nvlink = decode_exchange_s(32, 9, 7000, link_bytes_per_s=900e9)
    assert round(infiniband * 1e6, 2) == 120.96
    assert round(decode_token_s(infiniband, num_layers=61) * 1e3, 2) == 14.76
    assert int(1 / decode_token_s(infiniband, num_layers=61)) == 67
    assert round(nvlink * 1e6, 2) == 6.72
    assert round(decode_token_s(nvlink, num_layers=61) * 1e3, 2) == 0.82


def test_the_published_hours_and_dollars_of_deepseek_v3():
    assert V3_RUN.gpu_hours == 2_788_000
    assert V3_RUN.cost_usd == 5_576_000
    assert V3_RUN.gpu_hours_per_trillion_tokens == pytest.approx(180_000)
    days = V3_RUN.gpu_hours_per_trillion_tokens / V3_RUN.num_gpus / 24
    assert round(days, 1) == 3.7


def test_batch_over_step_time_gives_the_published_tokens_per_day():
    tokens_per_day = V3_RUN.batch_size * V3_RUN.seq_len / V3_RUN.step_s * DAY_S
    assert round(tokens_per_day / 1e9, 1) == 272.8 == V3_RUN.tokens_per_day / 1e9


def test_one_counter_gives_the_published_throughput_and_utilization():
    tflops = [v3_utilization(c) * H800.bf16_flops_per_s / 1e12 for c in (True, False)]
    assert [round(value) for value in tflops] == [386, 433]  # published: 385, 432
    assert round(100 * v3_utilization(), 1) == 39.0  # published: 38.94
    assert round(100 * v3_utilization(causal=False), 1) == 43.8  # published: 43.73
    for causal, published in PUBLISHED_MFU.items():
        assert v3_utilization(causal) == pytest.approx(published, rel=0.0025)


def test_hours_derived_from_flops_meet_the_hours_published_for_pretraining():
    derived = derived_gpu_hours(deepseek_v3())
    assert derived == pytest.approx(V3_RUN.pretraining_gpu_hours, rel=0.002)


def test_the_counter_meets_published_flops_but_for_one_model():
    ratio = {
        name: flops_per_token(PRESETS[name](), V3_RUN.seq_len) / published
        for name, published in PUBLISHED_FLOPS_PER_TOKEN.items()
    }
    assert ratio.pop("qwen_72b") == pytest.approx(1.13, abs=0.005)
    assert all(value == pytest.approx(1, abs=0.011) for value in ratio.values())


def test_time_flops_and_utilization_are_one_equation():
    flops = step_flops(tiny(), batch_size=16, seq_len=128)
    assert flops == 16 * 128 * flops_per_token(tiny(), 128)
    full = step_flops(tiny(), batch_size=16, seq_len=128, causal=False)
    assert full == 16 * 128 * flops_per_token(tiny(), 128, causal=False) > flops
    seconds = training_s(flops, num_chips=8, used=0.5, chip=A100)
    assert seconds == pytest.approx(flops / (8 * 0.5 * 312e12))
    assert utilization(flops, seconds, 8, A100.bf16_flops_per_s) == pytest.approx(0.5)
    assert training_s(flops, 8, 0.5) < seconds


def test_the_summary_of_deepseek_v3_holds_published_hours():
    facts = json.loads(json.dumps(summary(deepseek_v3())))
    assert facts["params_total"] == 671_026_404_352
    assert facts["params_active"] == 37_552_282_624
    assert facts["params_active_without_embedding"] == 36_625_603_584
    assert facts["flops_per_token"] == flops_per_token(deepseek_v3(), facts["seq_len"])
    assert facts["kv_bytes_per_token"] == 70_272
    assert (facts["gpu_hours"], facts["cost_usd"]) == (2_788_000, 5_576_000)
    assert facts["gpu_hours_source"] == (
        "published; excludes earlier research and ablations"
    )


def test_hours_of_any_other_config_are_derived_and_say_so():
    changed = replace(deepseek_v3(), num_layers=62)
    for config in (tiny(), llama_405b(), changed):
        facts = summary(config)
        assert facts["gpu_hours_source"].startswith("derived")
        assert facts["gpu_hours"] == derived_gpu_hours(config)
        assert facts["cost_usd"] == 2 * facts["gpu_hours"]


@pytest.mark.parametrize("name", PRESETS)
def test_the_table_shows_each_part_that_the_model_has(name):
    config = PRESETS[name]()
    text, count = table(config), count_parameters(config)
    unit = 1e9 if count.total >= 1e9 else 1e6
    for part, stored in count.by_part.items():
        assert (part.replace("_", " ") in text) == (stored > 0)
    assert f"{count.total / unit:,.3f}" in text
    assert f"{summary(config)['flops_per_token'] / unit:,.3f}" in text
    assert summary(config)["gpu_hours_source"] in text
    assert f"{kv_bytes_per_token(config):,} bytes" in text


@pytest.mark.parametrize("count", [expanded_kv_bytes_per_token, fp8_kv_bytes_per_token])
def test_a_latent_cache_is_refused_where_there_is_no_latent(count):
    with pytest.raises(ValueError, match="tiny_dense has no latent attention"):
        count(tiny_dense())
