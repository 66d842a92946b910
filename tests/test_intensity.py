"""FLOPs against bytes: by hand, against published figures, and against the replay."""

from dataclasses import replace

import pytest

from tiny_lm.config import deepseek_v3, llama_405b, tiny
from tiny_lm.counts import forward_flops_by_part
from tiny_lm.hardware import H100_MEASURED, machine
from tiny_lm.parallel import intensity
from tiny_lm.parallel.intensity import ExpertWork, Rates
from tiny_lm.parallel.plan import Layout, Plan
from tiny_lm.parallel.traffic import Copies, copies_by_scheme
from tiny_lm.replay.simulation import replay
from tiny_lm.replay.tape import Collective, Tape

SMALL = ExpertWork(
    name="small", d_model=4, d_expert=5, top_k=2, out_bytes=4, home_bytes=8
)
RATES = Rates(
    name="one",
    flops_per_s=60.0,
    core_flops_per_s=30.0,
    network_bytes_per_s=6.0,
    nvlink_bytes_per_s=24.0,
)
COPIES = Copies("by hand", network=1.0, nvlink=2.0)
PS = 1e12


def test_an_expert_by_hand_does_twice_its_width_for_each_byte():
    assert SMALL.flops_per_copy == 6 * 4 * 5 == 120
    assert SMALL.flops_per_byte == 2 * 5
    assert intensity.experts_s(SMALL, RATES) == 4.0
    # Twelve bytes a copy: 2 s of network, and 1 s of NVLink for two copies.
    assert intensity.exchange_s(SMALL, COPIES, RATES) == 2.0
    assert intensity.exchange_s(SMALL, COPIES, RATES, "series") == 3.0
    assert intensity.margin(SMALL, COPIES, RATES) == 2.0
    assert intensity.margin(SMALL, COPIES, RATES, "series") == pytest.approx(4 / 3)
    assert intensity.margin(SMALL, COPIES, RATES, direction="backward") == 4.0
    assert intensity.margin(SMALL, COPIES, RATES, direction="pair") == 3.0
    assert intensity.margin(SMALL, COPIES, RATES, beside=1.0) == 2.5
    assert intensity.needed_bytes_per_s(SMALL, 60.0) == 6.0


def test_v3_s_experts_do_4054_flops_a_byte_and_3072_in_bf16():
    work = intensity.work_of(deepseek_v3())
    assert (work.out_bytes, work.home_bytes) == (7392, 14_336)
    assert work.flops_per_byte == pytest.approx(4054, abs=0.5)
    assert replace(work, out_bytes=7168).flops_per_byte == 2 * 2048  # without scales
    both = intensity.work_of(deepseek_v3(), fp8=False)
    assert both.flops_per_byte == 1.5 * 2048


def test_v4_s_published_6144_flops_a_byte_are_twice_its_experts_width():
    work = ExpertWork(
        name="V4-Pro",
        d_model=7168,
        d_expert=3072,
        top_k=6,
        out_bytes=7168,
        home_bytes=2 * 7168,
    )
    assert work.flops_per_byte == 6144
    assert intensity.needed_bytes_per_s(work, 6.144e12) == pytest.approx(1e9)


def test_the_margin_is_the_formula():
    v3 = deepseek_v3()
    work = intensity.work_of(v3)
    copies = copies_by_scheme(v3.moe, 8, 8)[-1]
    for achieved in (False, True):
        rates = intensity.rates_of(machine("h800"), achieved)
        a = copies.network / rates.network_bytes_per_s
        b = copies.nvlink / rates.nvlink_bytes_per_s
        for hops, both in (("pipelined", max(a, b)), ("series", a + b)):
            wanted = 8 * work.flops_per_byte / (rates.flops_per_s * both)
            assert intensity.margin(work, copies, rates, hops) == pytest.approx(wanted)


@pytest.mark.parametrize("hops", ["pipelined", "series"])
def test_an_exchange_of_v3_takes_as_long_on_replay(hops):
    v3, layout = deepseek_v3(), Layout()
    plan = Plan(config=v3, layout=layout)
    group = tuple(range(layout.num_expert_ranks))
    instant = replace(machine("h800"), nvlink_alpha_s=0.0, network_alpha_s=0.0)
    total = 0.0
    for transfer in ("dispatch", "combine"):
        sizes = plan.exchange_bytes(transfer, 0)
        call = Collective(transfer, "all_to_all", sizes, group, 0)
        total += (
            replay([Tape(0, (call,))], instant, hops=hops, mirror=True).step_ps / PS
        )
    work, copies = intensity.work_of(v3), copies_by_scheme(v3.moe, 8, 8)[-1]
    rates = intensity.rates_of(instant, achieved=True)
    each = intensity.exchange_s(work, copies, rates, hops)
    assert plan.micro_tokens * each == pytest.approx(total, rel=1e-3)


def test_other_work_of_a_layer_is_attention_and_the_shared_expert():
    v3 = deepseek_v3()
    rates = replace(RATES, flops_per_s=1.0, core_flops_per_s=2.0)
    flops = forward_flops_by_part(v3, 4096)
    wanted = flops["attention"] / 61 + flops["shared_experts"] / 58
    wanted += flops["attention_core"] / 61 / 2
    assert intensity.beside_s(v3, rates, 4096) == pytest.approx(wanted)


def test_rates_are_those_of_the_data_sheet_or_achieved():
    h800 = machine("h800").achieving(H100_MEASURED)
    sheet, reached = (intensity.rates_of(h800, a) for a in (False, True))
    assert sheet.flops_per_s == 1979e12 and sheet.core_flops_per_s == 989.5e12
    assert (sheet.network_bytes_per_s, sheet.nvlink_bytes_per_s) == (50e9, 200e9)
    assert reached.flops_per_s == H100_MEASURED.fp8_blockwise_flops_per_s
    assert (reached.network_bytes_per_s, reached.nvlink_bytes_per_s) == (
        pytest.approx(40e9),
        pytest.approx(160e9),
    )
    assert intensity.rates_of(h800, False, fp8=False).flops_per_s == 989.5e12


def test_what_is_missing_is_named():
    with pytest.raises(ValueError, match="llama_405b has no experts"):
        intensity.work_of(llama_405b())
    with pytest.raises(ValueError, match="tiny has no FP8"):
        intensity.work_of(replace(tiny(), fp8=None))
    with pytest.raises(ValueError, match="no rate of network is known"):
        intensity.rates_of(machine("a100"), True, fp8=False)
