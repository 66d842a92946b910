"""The layer that an explorer plays: its work, its bytes, and what they teach."""

import html
import json
import re
from dataclasses import asdict, replace

import pytest
import torch

from tiny_lm.costs import expert_traffic_bytes_per_token, fp8_row_bytes
from tiny_lm.counts import expert_parameters, forward_flops_by_part
from tiny_lm.course.explorers import layer, timeline, widgets
from tiny_lm.course.explorers.layer import NUM_GPUS, V3, copies, kernel, tapes
from tiny_lm.course.explorers.timeline import Setting, play, simulate
from tiny_lm.course.figures.style import COLORS
from tiny_lm.replay.tape import Collective, Kernel
from tiny_lm.replay.timeline import COMM

NO_EXCHANGE = {
    f"{link}_{what}": value
    for link in ("nvlink", "network")
    for what, value in (("bytes_per_s", 1e18), ("alpha_s", 0.0))
}


def records(name: str, tokens: int = 4096) -> list[Kernel | Collective]:
    """The record of that name on every GPU."""
    found = [r for tape in tapes(tokens, True) for r in tape.records]
    return [r for r in found if getattr(r, "name", "") == name]


def flops(way: str) -> int:
    bars = ("projections", "attention", "experts")
    return sum(r.flops for bar in bars for r in records(f"{bar} {way}"))


def test_a_token_goes_once_to_each_gpu_that_has_one_of_its_experts():
    own, far = [0, 1, 2, 31], [0, 40, 63, 255]  # of 32 experts a GPU
    experts = torch.tensor([[own, far], [far, far]])
    matrix = copies(experts)
    assert matrix[0] == [2, 1, 0, 0, 0, 0, 0, 1]
    assert matrix[1] == [2, 2, 0, 0, 0, 0, 0, 2]


def test_forward_does_the_flops_of_one_layer_and_backward_twice_as_many():
    tokens = NUM_GPUS * 4096
    whole = forward_flops_by_part(V3, seq_len=4096)
    share = {
        "attention": V3.num_layers,
        "attention_core": V3.num_layers,
        "shared_experts": V3.num_moe_layers,
        "routed_experts": V3.num_moe_layers,
    }
    wanted = sum(tokens * whole[part] / layers for part, layers in share.items())
    assert flops("F") == wanted and flops("B") == 2 * wanted


def test_what_is_left_out_is_below_one_per_cent():
    whole = forward_flops_by_part(V3, seq_len=4096)
    router, norms = whole["router"] / V3.num_moe_layers, whole["norms"] / V3.num_layers
    assert NUM_GPUS * 4096 * (router + norms) < 0.01 * flops("F")


def test_a_kernel_reads_its_weights_and_backward_writes_their_gradients():
    assert kernel("x F", 10, 100, 7) == Kernel("x F", 20, 107, "fp8")
    assert kernel("x B", 10, 100, 7, "bf16") == Kernel("x B", 40, 514, "bf16")


def test_experts_that_nobody_chose_are_not_read():
    few, many = (sum(r.num_bytes for r in records("experts F", n)) for n in (64, 256))
    load = layer.chosen_experts(0)[:, :64].flatten().bincount(minlength=256)
    idle = int((load == 0).sum())
    rows = NUM_GPUS * (64 + 8 * 64) * 3 * V3.d_model
    read = NUM_GPUS * V3.moe.num_shared + 256 - idle
    assert few == read * expert_parameters(V3) + rows < many


@pytest.mark.parametrize("way", "FB")
def test_rows_leave_as_costs_counts_them(way):
    micro_batch = "FB".index(way)
    matrix = copies(layer.chosen_experts(micro_batch))
    leave = sum(sum(row) - row[gpu] for gpu, row in enumerate(matrix))
    dispatch, combine = records(f"dispatch {way}"), records(f"combine {way}")
    sent = sum(r.sent_bytes(gpu) for gpu, r in enumerate(dispatch))
    assert sent == leave * fp8_row_bytes(V3.d_model)
    sent += sum(r.sent_bytes(gpu) for gpu, r in enumerate(combine))
    per_layer = expert_traffic_bytes_per_token(V3, leave) / V3.num_moe_layers
    assert sent == per_layer
    assert leave / (NUM_GPUS * 4096) == pytest.approx(3.5, rel=0.02)


def test_a_combine_sends_back_what_a_dispatch_sent():
    there, back = records("dispatch F"), records("combine F")
    for gpu in range(NUM_GPUS):
        rows = [r.num_bytes[gpu] // fp8_row_bytes(V3.d_model) for r in there]
        assert list(back[gpu].num_bytes) == [2 * V3.d_model * count for count in rows]


def test_routing_is_uneven_and_the_same_every_time():
    load = [r.flops for r in records("experts F")]
    assert 1.05 < NUM_GPUS * max(load) / sum(load) < 1.25
    again = layer.chosen_experts.__wrapped__(0)
    assert torch.equal(again, layer.chosen_experts(0))
    assert not torch.equal(again, layer.chosen_experts(1))


def test_the_busiest_gpu_is_among_those_in_the_picture():
    times = play(Setting()).summary()
    assert max(times, key=lambda time: time.compute_ps).rank in timeline.SHOWN


# --- what the explorer teaches ---


def test_at_the_speed_of_its_network_v3s_layer_is_half_communication():
    """Compute to communication about 1:1 before overlap: V3, section 3.2.1."""
    times = play(Setting(bandwidth=40, overlap=False)).summary()
    compute = sum(time.compute_ps for time in times)
    assert sum(time.comm_ps for time in times) / compute == pytest.approx(1, abs=0.15)


def test_woven_is_never_slower_and_free_of_exchanges_it_makes_no_difference():
    for tokens in timeline.TOKENS:
        apart, woven = (Setting(tokens=tokens, overlap=o) for o in (False, True))
        for rate in timeline.BANDWIDTHS:
            steps = [play(replace(s, bandwidth=rate)).step_ps for s in (woven, apart)]
            assert steps[0] < steps[1]
        least = [play(s, **NO_EXCHANGE).step_ps for s in (woven, apart)]
        assert least[0] == pytest.approx(least[1], rel=0.02)


def test_overlap_hides_exchanges_until_they_outlast_the_kernels_beside_them():
    fast, slow = simulate(Setting(bandwidth=80)), simulate(Setting(bandwidth=40))
    assert fast.saved_by_bandwidth_ps == fast.saved_by_latency_ps == 0
    assert slow.saved_by_bandwidth_ps > 0.2 * slow.timeline.step_ps
    spans = {s.name: s for s in slow.timeline.of(0) if s.kind != "wait"}
    needed, beside = spans["combine B"], spans["experts F"]
    assert needed.end_ps > beside.end_ps
    assert spans["attention B"].start_ps == needed.end_ps


def test_latency_rules_small_messages_and_bandwidth_large_ones():
    small = simulate(Setting(tokens=64, latency=10, bandwidth=450, overlap=False))
    large = simulate(Setting(latency=10, bandwidth=450, overlap=False))
    assert small.saved_by_latency_ps > 1.5 * small.saved_by_bandwidth_ps
    assert large.saved_by_latency_ps < 0.1 * large.saved_by_bandwidth_ps
    assert small.saved_by_latency_ps == large.saved_by_latency_ps == 4 * 10 * 10**6


def test_a_faster_chip_waits_longer_for_the_same_link():
    one, four = simulate(Setting(speed=1)), simulate(Setting(speed=4))
    assert four.timeline.step_ps < one.timeline.step_ps
    assert four.exposed_ps > 1.5 * one.exposed_ps


# --- a second hop ---


def test_a_node_hands_on_a_row_once_to_each_neighbour_with_an_expert():
    own, far = [0, 4, 5, 8], [31, 40, 63, 255]  # of 4 experts a GPU, 32 a node
    assert layer.handed_on(torch.tensor([[own, far]])) == [3, 2, 0, 0, 0, 0, 0, 1]


def test_the_second_hop_costs_nothing_beside_the_first_and_its_time_after_it():
    first = {hops: play(Setting(hops=hops, overlap=False)) for hops in timeline.HOPS}
    steps = {hops: timeline.step_ps for hops, timeline in first.items()}
    assert steps["one"] == steps["pipelined"] < steps["series"]
    each = {s.name: s.end_ps - s.start_ps for s in first["one"].of(0) if s.kind == COMM}
    both = {
        s.name: s.end_ps - s.start_ps for s in first["series"].of(0) if s.kind == COMM
    }
    for name, rows in (("dispatch", fp8_row_bytes(7168)), ("combine", 2 * 7168)):
        experts = layer.chosen_experts(0)
        handed = max(layer.handed_on(experts)) * rows
        longer = both[f"{name} F"] - each[f"{name} F"]
        assert longer == pytest.approx(handed / 160e9 * 1e12 + 5e6, rel=1e-9)


def test_a_faster_nvlink_helps_only_where_hops_are_in_series():
    def gain(hops):
        slow, fast = (
            play(Setting(hops=hops, nvlink=n)).step_ps for n in timeline.NVLINKS[2:5:2]
        )
        return 1 - fast / slow

    assert gain("one") == gain("pipelined") == 0.0
    assert 0.01 < gain("series") < 0.15


# --- the widget ---


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("bandwidth", 30, r"bandwidth must be one of \[25, 32, .*\], got 30"),
        ("latency", 3, r"latency must be one of \[0, 1, 2, 5, .*\], got 3"),
        ("tokens", 100, r"tokens must be one of \[64, 256, 1024, 4096\], got 100"),
        ("hops", "two", r"hops must be one of \['one', 'pipelined', 'series'\]"),
        ("nvlink", 40, r"nvlink must be one of \[50, 100, .*\], got 40"),
        ("speed", 3, r"speed must be one of \[0.25, 0.5, 1, 2, 4\], got 3"),
    ],
)
def test_a_place_that_a_control_lacks_is_refused(name, value, message):
    with pytest.raises(ValueError, match=message):
        widgets.timeline_explorer(**{name: value})


START = dict(
    bandwidth=100,
    latency=50,
    tokens=256,
    speed=2,
    overlap=False,
    hops="one",
    nvlink=160,
)


def test_an_explorer_starts_where_it_is_told():
    explorer = widgets.timeline_explorer(**START)
    assert explorer.choice == START
    assert explorer.fixed["color"] == COLORS["comm"]
    assert explorer._esm.count("export default") == 1


def test_the_box_says_what_its_picture_shows():
    box = widgets.timeline_explorer(**START).box()
    alt = html.unescape(re.search(r'<img alt="(.*?)"', box)[1])
    assert "one micro-batch after forward for another, 256 tokens a GPU" in alt
    step_ms = play(Setting(**START)).step_ps / 1e9
    assert f"At 100 GB/s and 50 µs the step takes {step_ms:.2f} ms" in alt
    woven = timeline.alternative(Setting())
    assert "one micro-batch woven into forward for another" in woven


def test_a_browser_gets_whole_numbers_that_a_float_can_hold():
    state = json.loads(json.dumps({**timeline.fixed(), **asdict(Setting())}))

    def numbers(value):
        if isinstance(value, dict | list):
            parts = value.values() if isinstance(value, dict) else value
            return [n for part in parts for n in numbers(part)]
        return [value] if isinstance(value, int | float) else []

    amounts = numbers([state["work"], state["rates"], state["launch_ps"]])
    assert all(isinstance(n, int) and 0 <= n < 2**53 for n in amounts)
    assert len(json.dumps(state)) < 25_000


def test_links_are_named_by_their_rates_one_way():
    rates = {link["name"]: link["rate"] for link in timeline.links()}
    assert rates["V3's network, as its makers reckon"] == 40
    assert rates["line rate of the H800's NVLink"] == 200
    assert rates["line rate of the H100's NVLink"] == 450
    assert set(rates.values()) <= set(timeline.BANDWIDTHS)
