"""A recorded step on the machines that the course compares."""

import json

import pytest

from tiny_lm import hardware
from tiny_lm.hardware import H100_MEASURED
from tiny_lm.replay import specs
from tiny_lm.replay.tape import Collective, Kernel, Mark, Tape, Wait

MEGA = 10**6


def tapes(num_ranks: int) -> list[Tape]:
    """An FP32 product on each rank, longer on higher ones, and an exchange."""
    group = tuple(range(num_ranks))
    rows = (MEGA,) * num_ranks
    return [
        Tape(
            rank,
            (
                Kernel("product", (1 + rank) * 10**9, MEGA, "fp32"),
                Mark(0),
                Wait(0, "comm"),
                Collective("swap", "all_to_all", rows, group, 0),
            ),
        )
        for rank in group
    ]


def test_the_machines_are_the_twin_an_h800_and_an_h100():
    machines = specs.machines()
    assert list(machines) == ["scaled_twin", "h800", "h100"]
    assert machines["scaled_twin"].name.startswith("scaled twin of nodes of 8 H800")
    assert machines["scaled_twin"].gpus_per_node == 2
    assert specs.machines() is machines


def test_real_machines_differ_in_nvlink_alone_and_price_fp32_as_bf16():
    h800, h100 = specs.real("h800"), specs.real("h100")
    assert h800.nvlink_bytes_per_s * h800.nvlink_efficiency == pytest.approx(160e9)
    assert h100.nvlink_bytes_per_s == hardware.H100.nvlink_bytes_per_s / 2
    assert h100.nvlink_efficiency == h800.nvlink_efficiency
    assert h100.network_bytes_per_s == h800.network_bytes_per_s
    for each in (h800, h100):
        rate = each.fp32_flops_per_s * each.fp32_efficiency
        assert rate == pytest.approx(H100_MEASURED.bf16_flops_per_s)
        assert each.launch_s == H100_MEASURED.launch_s


@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_a_step_is_made_of_its_parts_on_every_machine(num_ranks):
    found = specs.emulate(tapes(num_ranks))
    assert list(found) == list(specs.machines())
    for times in found.values():
        parts = ("compute_ms", "exposed_comm_ms", "bubble_ms")
        assert times["step_ms"] == pytest.approx(sum(times[part] for part in parts))
        assert times["hidden_comm_ms"] == 0
        assert bool(times["exposed_comm_ms"]) is (num_ranks > 1)
    assert found["scaled_twin"]["step_ms"] > found["h800"]["step_ms"]
    assert specs.emulate(tapes(num_ranks)) == found


def test_the_faster_link_shortens_what_is_exposed_and_nothing_else():
    found = specs.emulate(tapes(4))
    slow, fast = found["h800"], found["h100"]
    assert slow["exposed_comm_ms"] > fast["exposed_comm_ms"]
    for part in ("compute_ms", "bubble_ms"):
        assert slow[part] == fast[part]


def test_by_hand_on_an_h800():
    """A launch and 1 or 2 GFLOP as measured; α and 1 MB at 160 GB/s; rank 0 waits."""
    times = specs.emulate(tapes(2))["h800"]
    rate, launch_ms = H100_MEASURED.bf16_flops_per_s, 1e3 * H100_MEASURED.launch_s
    kernels = [launch_ms + flops / rate * 1e3 for flops in (1e9, 2e9)]
    comm_ms = 3.33e-3 + 1e6 / 160e9 * 1e3
    assert times["compute_ms"] == pytest.approx(sum(kernels) / 2, rel=1e-6)
    assert times["exposed_comm_ms"] == pytest.approx(comm_ms, rel=1e-6)
    assert times["step_ms"] == pytest.approx(kernels[1] + comm_ms, rel=1e-6)


def test_the_kept_twin_says_of_what_it_is():
    kept = json.loads(specs.TWIN.read_text(encoding="utf-8"))
    assert kept["of"].startswith("tiny, 4 ranks")
    assert kept["machine"] == specs.real("h800").name
