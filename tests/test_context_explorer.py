"""What a context costs: the explorer's numbers by hand, and by closed forms."""

import json
from dataclasses import asdict

import pytest

from tiny_lm import context_costs, costs, counts
from tiny_lm.config import deepseek_v3, llama_405b, qwen_72b
from tiny_lm.course.explorers import context, widgets
from tiny_lm.course.explorers.context import Setting, rows
from tiny_lm.course.figures.style import COLORS
from tiny_lm.files import to_json
from tiny_lm.hardware import H100, H100_MEASURED, H800
from tiny_lm.parallel.decode_tape import decode_tape


def by_name(s: Setting) -> dict[str, context.Row]:
    return {row.name: row for row in rows(s)}


def test_a_small_shape_by_hand():
    s = Setting(
        context=1024, batch=2, weights_gb=5, layers=8, heads=8, groups=4, d_head=32,
        d_latent=64, d_rope=16,
    )  # fmt: skip
    found = by_name(s)
    numbers = {"MHA": 2 * 8 * 32, "GQA": 2 * 4 * 32, "MQA": 2 * 32, "MLA": 64 + 16}
    for name, kept in numbers.items():
        assert found[name].bytes_per_token == 8 * 2 * kept
        assert found[name].cache_bytes == 1024 * 8 * 2 * kept
        assert found[name].users == 75_000_000_000 // (1024 * 8 * 2 * kept)
        assert found[name].memory_s == 2 * 1024 * 8 * 2 * kept / 3.35e12
    flops = 2 * 1024 * 8 * 2 * 8 * (2 * 64 + 16)
    assert found["MLA"].arithmetic_s == flops / 989.5e12
    assert context.weights_s(s) == 5e9 / 3.35e12
    most = max(found["MLA"].memory_s, found["MLA"].arithmetic_s)
    assert found["MLA"].step_s == context.weights_s(s) + most


def test_bytes_are_those_of_the_published_models():
    found = by_name(Setting(bytes_per_number=1))
    per_token = {name: row.bytes_per_token for name, row in found.items()}
    for name, config in context.PRESETS.items():
        assert per_token[name] == costs.kv_bytes_per_token(config)
    assert per_token["DeepSeek-V3.2 °"] == 61 * (656 + 132)
    assert per_token["DeepSeek-V4-Flash °"] == 3450
    assert per_token["MLA"] == 70_272 / 2


def test_the_shapes_are_those_of_the_models():
    shapes = context.shapes()
    for name, config in (("Qwen2.5-72B", qwen_72b()), ("LLaMA-3.1-405B", llama_405b())):
        found = by_name(Setting(**shapes[name]))
        assert found["GQA"].cache_bytes == found[name].cache_bytes
        assert found["GQA"].arithmetic_s == found[name].arithmetic_s
        assert (shapes[name]["d_latent"], shapes[name]["d_rope"]) == (512, 64)
        assert shapes[name]["layers"] == config.num_layers
    assert Setting(**shapes["DeepSeek-V3"]) == Setting()


@pytest.mark.parametrize(
    ("name", "form"), [("MHA", "mha"), ("MQA", "mqa"), ("MLA", "mla_absorbed")]
)
def test_work_on_the_cache_is_that_of_the_tape(name, form):
    """The tape moves queries and answers too, which a floor leaves out."""
    s = Setting(context=131_072, batch=8)
    kernels = decode_tape(form, s.context, s.batch).records
    cores = [k for k in kernels if k.name == "attention"]
    row, (flops_per_s, bytes_per_s) = by_name(s)[name], context.RATES["sheet"]
    assert row.arithmetic_s == sum(k.flops for k in cores) / flops_per_s
    moved = sum(k.num_bytes for k in cores) / bytes_per_s
    assert row.memory_s == pytest.approx(moved, rel=2e-3) and row.memory_s < moved


def test_both_cards_are_alike_and_programs_reach_less():
    for field in ("bf16_flops_per_s", "memory_bytes_per_s", "memory_bytes"):
        assert getattr(H800, field) == getattr(H100, field)
    sheet, measured = (by_name(Setting(rates=r)) for r in ("sheet", "measured"))
    assert all(measured[name].step_s > sheet[name].step_s for name in sheet)
    one = by_name(Setting(rates="measured", batch=1))["MHA"]
    assert one.memory_s == 32_768 * 3_997_696 / H100_MEASURED.copy_bytes_per_s


def test_weights_are_read_once_and_multiplied_for_every_user():
    few, many = Setting(batch=16), Setting(batch=256)
    assert context.weights_s(few) == 40e9 / 3.35e12
    both = [context.weights_s(Setting(batch=256, rates=r)) for r in context.RATES]
    ridges = [flops / rate for flops, rate in context.RATES.values()]
    assert [256 > ridge for ridge in ridges] == [False, True]
    assert both[0] == 40e9 / 3.35e12
    assert both[1] == 256 * 40e9 / H100_MEASURED.bf16_flops_per_s
    assert context.weights_s(Setting(weights_gb=0)) == 0
    assert by_name(many)["MLA"].memory_s == 16 * by_name(few)["MLA"].memory_s


# --- what the explorer teaches ---


def test_one_byte_a_number_makes_arithmetic_the_limit_of_mla_alone():
    two, one = (by_name(Setting(bytes_per_number=b)) for b in (2, 1))
    assert {row.limit for row in two.values()} == {"memory"}
    limits = {name for name, row in one.items() if row.limit == "arithmetic"}
    assert limits == {"MLA"}
    assert one["MLA"].arithmetic_s > 0.8 * two["MLA"].memory_s
    assert one["GQA"].memory_s == two["GQA"].memory_s / 2


def test_the_first_view_fits_its_users_with_latents_and_without_them_not():
    users = {name: row.users for name, row in by_name(Setting()).items()}
    assert users["MHA"] == 0 and users["GQA"] < Setting().batch <= users["MLA"]


def test_v32_keeps_everything_and_reads_little_of_it():
    (short, long) = (by_name(Setting(context=n)) for n in (2048, 2**20))
    name = "DeepSeek-V3.2 °"
    growth = long[name].memory_s / short[name].memory_s
    assert long[name].cache_bytes == 512 * short[name].cache_bytes
    assert 80 < growth < 100  # the index grows, and the latents stay 2,048
    cost = context_costs.context_cost(context.published()[name], 4096)
    assert cost.read_bytes == 61 * (2048 * 656 + 4096 * 132)
    assert cost.flops == 61 * (
        2048 * counts.decode_flops_per_key(deepseek_v3().attention)
        + 4096 * 2 * 64 * 128
    )


# --- the widget ---


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("context", 1000, r"context must be one of \[1024, 2048, .*\], got 1000"),
        ("rates", "h800", r"rates must be one of \['sheet', 'measured'\], got 'h800'"),
        ("weights_gb", 80, r"weights_gb must be one of \[0, 5, .* 75\], got 80"),
        ("d_head", 100, r"d_head must be one of \[32, 64, 128, 256\], got 100"),
    ],
)
def test_a_place_that_a_control_lacks_is_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        widgets.context_explorer(**{name: value})


def test_there_are_no_more_groups_than_heads():
    with pytest.raises(ValueError, match=r"groups must be one of \[1, 2, 4, 8\]"):
        Setting(heads=8, groups=16)


def test_every_product_is_a_whole_number_that_a_browser_can_hold():
    """Contexts and users are powers of two: only what is for one token counts."""
    for powers in (context.CONTEXTS, context.BATCHES):
        assert all(number & (number - 1) == 0 for number in powers)
    most = {name: max(of) for name, of in context.places().items() if name != "rates"}
    caches = [
        *context.at_shape(Setting(**most)).values(),
        *context.published().values(),
    ]
    for kept in (kept for cache in caches for kept in cache):
        assert kept.num_layers * max(kept.num_bytes, kept.flops) < 2**53
    for cache in context.published().values():
        cost = context_costs.context_cost(cache, context.CONTEXTS[-1])
        assert max(asdict(cost).values()) < 2**53


def test_an_explorer_starts_where_it_is_told_and_says_what_it_shows():
    explorer = widgets.context_explorer(context=131_072, weights_gb=20)
    assert explorer.choice == asdict(Setting(context=131_072, weights_gb=20))
    assert explorer.fixed["color"] == COLORS["mla"]
    assert explorer._esm.count("export default") == 1
    users = by_name(Setting(context=131_072, weights_gb=20))["MLA"].users
    assert f"MLA 9.21 GB and {users} users" in explorer.box()
    assert "131,072 tokens of context" in explorer.box()
    state = json.loads(to_json(explorer.fixed))
    assert state["rates"]["sheet"] == [989.5e12, 3.35e12]
    assert len(to_json(explorer.fixed)) < 6000
