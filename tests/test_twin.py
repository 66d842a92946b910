"""The scaled twin: a factor for each cost, and times that do not change."""

from dataclasses import replace

import pytest

from tiny_lm.hardware import machine
from tiny_lm.replay import twin
from tiny_lm.replay.twin import Factors, Work, factors, scaled_twin

H800 = replace(
    machine("h800"), launch_s=4e-6, nvlink_alpha_s=2e-6, network_alpha_s=8e-6
)
REAL = Work(
    flops=1000,
    memory_bytes=300,
    nvlink_bytes=64,
    network_bytes=32,
    launches=20,
    messages=6,
)
SMALL = Work(
    flops=10,
    memory_bytes=30,
    nvlink_bytes=16,
    network_bytes=2,
    launches=5,
    messages=2,
)


def test_each_factor_scales_its_own_figures_and_no_other():
    by = Factors(flops=0.5, memory=0.25, nvlink=0.1, network=0.2, launch=3.0, alpha=7.0)
    small = scaled_twin(H800, by)
    assert small.bf16_flops_per_s == H800.bf16_flops_per_s * 0.5
    assert small.fp8_flops_per_s == H800.fp8_flops_per_s * 0.5
    assert small.memory_bytes_per_s == H800.memory_bytes_per_s * 0.25
    assert small.nvlink_bytes_per_s == H800.nvlink_bytes_per_s * 0.1
    assert small.network_bytes_per_s == H800.network_bytes_per_s * 0.2
    assert small.launch_s == H800.launch_s * 3
    assert small.nvlink_alpha_s == H800.nvlink_alpha_s * 7
    assert small.network_alpha_s == H800.network_alpha_s * 7
    assert small.nvlink_efficiency == H800.nvlink_efficiency
    assert small.name == f"scaled twin of {H800.name}"


def test_without_factors_nothing_changes_but_the_name():
    same = scaled_twin(H800, Factors())
    assert replace(same, name=H800.name) == H800


def test_every_kind_of_work_takes_as_long_on_the_twin():
    small = scaled_twin(H800, factors(REAL, SMALL))
    for kind, rate in (
        ("flops", "bf16_flops_per_s"),
        ("flops", "fp8_flops_per_s"),
        ("memory_bytes", "memory_bytes_per_s"),
        ("nvlink_bytes", "nvlink_bytes_per_s"),
        ("network_bytes", "network_bytes_per_s"),
    ):
        ours = getattr(SMALL, kind) / getattr(small, rate)
        assert ours == pytest.approx(getattr(REAL, kind) / getattr(H800, rate)), kind
    for kind, cost in (
        ("launches", "launch_s"),
        ("messages", "nvlink_alpha_s"),
        ("messages", "network_alpha_s"),
    ):
        ours = getattr(SMALL, kind) * getattr(small, cost)
        assert ours == pytest.approx(getattr(REAL, kind) * getattr(H800, cost)), kind


def test_the_example_of_the_module():
    by = factors(REAL, SMALL)
    assert (by.flops, by.memory, by.launch) == pytest.approx((1 / 100, 1 / 10, 4))
    assert "1/100" in twin.__doc__


def test_a_twin_may_have_smaller_nodes():
    assert scaled_twin(H800, Factors()).gpus_per_node == 8
    assert scaled_twin(H800, Factors(), gpus_per_node=2).gpus_per_node == 2


def test_what_is_not_known_stays_unknown():
    a100 = scaled_twin(machine("a100"), Factors(network=0.1, launch=2.0))
    assert a100.network_bytes_per_s is a100.launch_s is a100.fp8_flops_per_s is None


def test_work_that_neither_step_has_is_left_alone():
    real, small = (replace(work, network_bytes=0) for work in (REAL, SMALL))
    assert factors(real, small).network == 1


def test_work_that_only_one_step_has_cannot_be_scaled():
    with pytest.raises(
        ValueError, match="network_bytes: the small step has 0, the real one 32"
    ):
        factors(REAL, replace(SMALL, network_bytes=0))


def test_a_factor_must_be_positive():
    with pytest.raises(ValueError, match="factor launch must be positive, got 0.0"):
        Factors(launch=0.0)
