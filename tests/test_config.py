"""Configs: what the presets say, and the impossible ones that are refused."""

import dataclasses
import json
import math
from dataclasses import replace

import pytest

from tiny_lm.config import (
    PRESETS,
    FP8Config,
    MHAConfig,
    MLAConfig,
    ModelConfig,
    MoEConfig,
    deepseek_v2,
    deepseek_v3,
    preset,
    tiny,
    tiny_dense,
)
from tiny_lm.costs import count_parameters

MHA = {"num_heads": 4, "num_kv_heads": 2, "d_head": 8}
MLA = {
    "num_heads": 4,
    "d_latent_kv": 8,
    "d_latent_q": None,
    "d_nope": 4,
    "d_rope": 2,
    "d_value": 4,
}
MOE = {"num_experts": 8, "num_shared": 1, "top_k": 2, "d_expert": 4}
MODEL = {
    "name": "small",
    "vocab_size": 256,
    "d_model": 8,
    "num_layers": 2,
    "num_dense_layers": 2,
    "d_ffn": 16,
    "attention": MHAConfig(**MHA),
}
SPARSE = MODEL | {"num_dense_layers": 1, "moe": MoEConfig(**MOE)}
ODD_MOE = MoEConfig(**MOE | {"d_expert": 6})


def test_widths_and_layers_that_follow_from_others():
    assert MLAConfig(**MLA).d_qk == 6
    config = ModelConfig(**MODEL | {"num_dense_layers": 1, "moe": MoEConfig(**MOE)})
    assert config.num_moe_layers == 1
    assert ModelConfig(**MODEL).num_moe_layers == 0


def test_tiny_has_all_four_techniques_and_tiny_dense_none():
    config = tiny()
    assert isinstance(config.attention, MLAConfig)
    assert config.moe.num_shared and config.moe.num_groups > config.moe.top_groups
    assert config.fp8.wire
    baseline = tiny_dense()
    assert isinstance(baseline.attention, MHAConfig)
    assert baseline.moe is None and baseline.fp8 is None


def test_a_row_of_tiny_has_several_tiles():
    widths = (tiny().d_model, tiny().d_ffn, tiny().moe.d_expert)
    assert all(width >= 2 * tiny().fp8.tile for width in widths)


def test_the_baseline_is_as_active_as_tiny_and_tiny_stores_one_to_three_million():
    whole, baseline = count_parameters(tiny()), count_parameters(tiny_dense())
    assert baseline.active == pytest.approx(whole.active, rel=0.01)
    assert 1e6 < whole.total < 3e6


def test_deepseek_v3_is_as_published():
    config = deepseek_v3()
    a, moe = config.attention, config.moe
    assert (config.num_layers, config.num_dense_layers, config.d_ffn) == (61, 3, 18_432)
    assert (config.d_model, config.vocab_size) == (7168, 129_280)
    assert (a.num_heads, a.d_nope, a.d_value, a.d_rope) == (128, 128, 128, 64)
    assert (a.d_latent_kv, a.d_latent_q) == (512, 1536)
    assert (moe.num_experts, moe.num_shared, moe.top_k) == (256, 1, 8)
    assert (moe.num_groups, moe.top_groups, moe.d_expert) == (8, 4, 2048)
    assert (moe.route_scale, moe.bias_rate, moe.balance_loss) == (2.5, 0.001, 0.0001)
    assert (config.fp8.tile, config.fp8.block) == (128, 128)
    assert config.init_std == 0.006


def test_deepseek_v2_is_as_published():
    config = deepseek_v2()
    moe = config.moe
    assert (config.num_layers, config.d_model, config.fp8) == (60, 5120, None)
    assert (moe.num_shared, moe.num_experts, moe.top_k) == (2, 160, 6)
    assert (moe.num_groups, moe.top_groups, moe.route_scale) == (8, 3, 16.0)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_found_by_its_name_and_made_afresh(name):
    assert preset(name).name == name
    assert preset(name) == preset(name)


@pytest.mark.parametrize("name", PRESETS)
def test_a_config_survives_json(name):
    config = preset(name)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_reading_a_config_leaves_the_dictionary_as_it_was():
    fields = tiny().to_dict()
    ModelConfig.from_dict(fields)
    assert fields == tiny().to_dict()


@pytest.mark.parametrize("config", [tiny(), tiny().moe, tiny().attention, tiny().fp8])
def test_a_config_cannot_be_changed_and_takes_keywords_only(config):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, dataclasses.fields(config)[0].name, 1)
    with pytest.raises(TypeError, match="positional"):
        type(config)(*dataclasses.astuple(config))


@pytest.mark.parametrize(
    ("kind", "fields", "changes", "message"),
    [
        (MHAConfig, MHA, {"num_heads": 0}, "MHAConfig.num_heads must be positive"),
        (MHAConfig, MHA, {"num_kv_heads": -1}, "num_kv_heads must be positive, got -1"),
        (MHAConfig, MHA, {"rope_theta": 0.0}, "rope_theta must be positive"),
        (MHAConfig, MHA, {"num_kv_heads": 3}, "num_kv_heads=3 must divide num_heads=4"),
        (MHAConfig, MHA, {"d_head": 7}, "d_head must be even, got 7"),
        (MLAConfig, MLA, {"d_latent_kv": 0}, "MLAConfig.d_latent_kv must be positive"),
        (MLAConfig, MLA, {"d_latent_q": 0}, "MLAConfig.d_latent_q must be positive"),
        (MLAConfig, MLA, {"d_value": 0}, "MLAConfig.d_value must be positive"),
        (MLAConfig, MLA, {"rope_theta": 0.0}, "rope_theta must be positive"),
        (MLAConfig, MLA, {"d_rope": 3}, "d_rope must be even, got 3"),
        (MoEConfig, MOE, {"top_k": 0}, "MoEConfig.top_k must be positive, got 0"),
        (MoEConfig, MOE, {"num_shared": -1}, "num_shared must not be negative"),
        (MoEConfig, MOE, {"bias_rate": -1.0}, "bias_rate must not be negative"),
        (MoEConfig, MOE, {"balance_loss": -1.0}, "balance_loss must not be negative"),
        (MoEConfig, MOE, {"num_groups": 3}, "num_groups=3 must divide num_experts=8"),
        (MoEConfig, MOE, {"top_groups": 2}, "keep top_groups=2 of num_groups=1"),
        (MoEConfig, MOE, {"top_k": 9}, "choose top_k=9 of the 8 experts"),
        (MoEConfig, MOE, {"num_groups": 8}, "choose top_k=2 of the 1 experts"),
        (MoEConfig, MOE, {"top_k": 1}, "top_k=1: .* the router would learn nothing"),
        (MoEConfig, MOE, {"route_scale": 0.0}, "route_scale must be positive"),
        (MoEConfig, MOE, {"bias_rate": math.nan}, "bias_rate must be a finite number"),
        (FP8Config, {}, {"tile": 0}, "FP8Config.tile must be positive"),
        (FP8Config, {}, {"block": -4}, "FP8Config.block must be positive, got -4"),
        (ModelConfig, MODEL, {"d_ffn": 0}, "ModelConfig.d_ffn must be positive"),
        (ModelConfig, MODEL, {"max_len": 0}, "ModelConfig.max_len must be positive"),
        (ModelConfig, MODEL, {"num_dense_layers": 3}, "between 0 and num_layers=2"),
        (ModelConfig, MODEL, {"num_mtp": -1}, "num_mtp must not be negative, got -1"),
        (ModelConfig, MODEL, {"num_dense_layers": 1}, "a model without moe has"),
        (
            ModelConfig,
            MODEL,
            {"norm_eps": 0.0},
            "norm_eps must be positive",
        ),
        (ModelConfig, MODEL, {"mtp_weight": -1.0}, "mtp_weight must not be negative"),
        (ModelConfig, SPARSE, {"d_model": 10}, "d_model=10 must be a multiple of 4"),
        (ModelConfig, SPARSE, {"moe": ODD_MOE}, "moe.d_expert=6 must be a multiple of"),
    ],
)
def test_an_impossible_value_is_refused_by_name(kind, fields, changes, message):
    kind(**fields)
    with pytest.raises(ValueError, match=message):
        kind(**fields | changes)


def test_a_limit_that_just_holds_is_accepted():
    assert MoEConfig(**MOE | {"top_k": 8}).top_k == 8
    assert MoEConfig(**MOE | {"num_groups": 4, "top_groups": 1}).top_groups == 1
    assert replace(tiny(), num_dense_layers=4).num_moe_layers == 0
    assert MoEConfig(**MOE | {"num_experts": 1, "top_k": 1}).top_k == 1  # no choice


@pytest.mark.parametrize(
    "fields",
    [
        {},
        tiny().to_dict() | {"colour": "red"},
        tiny().to_dict() | {"attention": 3},
        tiny().to_dict() | {"moe": {"experts": 4}},
    ],
    ids=["empty", "unknown field", "no attention", "unknown moe field"],
)
def test_what_is_no_config_is_refused(fields):
    with pytest.raises(ValueError, match="not a model config: "):
        ModelConfig.from_dict(fields)


def test_an_unknown_preset_is_refused_with_those_that_exist():
    with pytest.raises(ValueError, match="unknown preset 'huge'; there are: tiny, "):
        preset("huge")
